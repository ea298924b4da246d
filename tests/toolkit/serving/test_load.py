"""The open-loop client counts what is late, refused, lost and wrong, and asks again where a server breaks."""

from __future__ import annotations

import functools
import json
import socket
import threading

import pytest

import spoter_toolkit.bench.url
from in_process import spoter_kit
from spoter_runtime.errors import BackendError
from spoter_toolkit.bench.url import Target, capacity_of, highest_rate, measure_url, open_loop


@pytest.fixture
def target(served):
    return Target(served.url, (3, 9, 30))


def test_each_clip_that_was_due_is_answered_and_right(target):
    load = open_loop(target, rate=100, seconds=0.5)
    assert load.clips > 20
    assert (load.statuses[200], load.lost, load.wrong, load.again) == (load.clips, 0, 0, 0)
    assert load.elapsed_ns >= 0.5e9
    record = load.served("x", 100, bound_ms=10_000)
    assert (record.clips, record.share_within) == (load.clips, 1.0)


def test_an_answer_of_another_model_is_wrong_and_of_one_of_two_is_right(target):
    right = target.right[9]
    target.right[9] = [right[0] + 1]
    load = open_loop(target, rate=60, seconds=0.3)
    assert 0 < load.wrong < load.clips
    target.right[9] = [right[0] + 1, right[0]]
    assert open_loop(target, rate=60, seconds=0.3).wrong == 0


def test_a_refused_clip_counts_as_never_answered(serve, bundle_folder):
    with serve(bundle_folder) as running:
        target = Target(running.url, (60,))
        running.app._batcher._limits = running.app.limits.__class__(budget_ms=1e-9, queue_clips=1)
        load = open_loop(target, rate=300, seconds=0.5)
        assert load.statuses[429] > 0
        assert load.lost == 0
        served = load.served("x", 300, bound_ms=1e9)
        assert served.share_within == load.statuses[200] / load.clips


class Breaking(threading.Thread):
    """A server that ends the first connections without an answer, then says that it failed."""

    def __init__(self, broken):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.broken = broken
        self.start()

    def run(self):
        answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1 << 20)
                if self.broken:
                    self.broken -= 1
                else:
                    connection.sendall(answer)


def test_a_clip_is_sent_again_where_its_server_broke_and_not_where_it_refused(target):
    server = Breaking(broken=2)
    target.port = server.listener.getsockname()[1]
    load = open_loop(target, rate=20, seconds=0.1, seed=3)
    server.listener.close()
    assert load.clips >= 1
    assert load.again == 2
    assert load.statuses == {400: load.clips}
    assert load.lost == load.clips


def test_rates_are_found_and_reported(served, target, tmp_path, bundle_folder, monkeypatch):
    monkeypatch.setattr(spoter_toolkit.bench.url, "LONGEST_S", 0.4)
    assert capacity_of(target, seconds=0.2) > 10
    found = highest_rate(target, most=120, bound_ms=10_000, seconds=0.3, percent=50, steps=2)
    assert found.rate == 90
    assert [kept for _, _, kept in found.trials] == [True, True]
    assert highest_rate(target, most=120, bound_ms=1e-6, seconds=0.3, percent=50, steps=2).rate is None

    short = functools.partial(measure_url, seconds=0.3)
    monkeypatch.setattr(spoter_toolkit.bench.url, "measure_url", short)
    monkeypatch.setattr(spoter_toolkit.bench.url, "capacity_of", lambda target: 80.0)
    words = ("bench", bundle_folder, "--scenario", "server", "--url", served.url)
    done = spoter_kit(tmp_path, *words, "-o", "load.json")
    assert done.returncode == 0, done.stderr
    assert "lost: 0; wrong: 0; sent again: 0" in done.stdout
    stored = json.loads((tmp_path / "load.json").read_text())
    assert stored["rate"] == 40
    assert stored["statuses"] == {"200": stored["clips"]}
    wrong = spoter_kit(tmp_path, "bench", bundle_folder, "--url", served.url)
    assert (wrong.returncode, wrong.stderr.count("--scenario server")) == (2, 1)


def test_nobody_there_is_said():
    with pytest.raises(BackendError, match="does not answer"):
        Target("http://127.0.0.1:9", (3,))
