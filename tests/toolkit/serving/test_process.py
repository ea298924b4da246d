"""`spoter-kit serve` as a process: what it needs, signals, thousands of connections."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from spoter_runtime.errors import BackendError
from spoter_toolkit.bench.url import Target, open_loop
from spoter_toolkit.serving.client import ServedModel

pytestmark = pytest.mark.slow
CONNECTIONS = 10_000


@pytest.fixture
def start(tmp_path):
    """Return start(*arguments): a server's process, and its URL, once it serves; torch is absent."""
    started = []
    absent = (
        "import sys\nfor name in ('torch', 'onnx', 'matplotlib', 'jinja2'):\n    sys.modules[name] = None\n"
    )
    (tmp_path / "sitecustomize.py").write_text(absent)

    def start(*arguments):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "spoter_toolkit", "serve", *map(str, arguments), "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": str(tmp_path)},
            )
        started.append(process)
        line = process.stdout.readline()
        assert line.startswith("http://"), (tmp_path / "log").read_text()
        return process, line.split("/v2/")[0]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(log, text):
    end = time.monotonic() + 20
    while text not in log.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert text in log.read_text()


def test_under_load_reloads_and_a_drain_lose_no_answer(start, bundle_copy, tmp_path):
    log = tmp_path / "log"
    process, url = start(bundle_copy, "--backend", "ort-cpu", "--budget-ms", "5000", "--grace-s", "1")
    target = Target(url, (9, 30, 60))
    found = []
    loading = threading.Thread(target=lambda: found.append(open_loop(target, rate=100, seconds=3)))
    loading.start()
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
    wait_for(log, "reloaded copy 1: ")
    shutil.move(bundle_copy / "model.onnx", tmp_path / "kept.onnx")
    (bundle_copy / "model.onnx").write_bytes(b"broken")
    process.send_signal(signal.SIGHUP)
    wait_for(log, "not reloaded, copy 1 of before goes on answering: ")
    loading.join()
    (load,) = found
    assert (load.lost, load.wrong, load.again, load.statuses[200]) == (0, 0, 0, load.clips)

    clients = [threading.Thread(target=ask_until_refused, args=[url, target, found]) for _ in range(4)]
    for client in clients:
        client.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    wait_for(log, "draining: not ready; requests in flight: ")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{url}/v2/health/ready")
    assert process.wait(20) == 0
    assert log.read_text().count("reloaded copy 1: ") == 3
    for client in clients:
        client.join()
    answers = found[1:]
    assert len(answers) > 20
    assert set(answers) == {"answered"}


def ask_until_refused(url, target, found):
    """Ask on one connection after another, as it is closed by the server, until nobody listens any more."""
    model = ServedModel(url)
    from spoter_toolkit.bench.worker.tasks import generated_clips

    clip = generated_clips(1, 30).reshape(30, 54, 2)
    while True:
        try:
            model.infer([clip])
        except BackendError as error:
            if "does not answer" not in str(error) or "refused" not in str(error):
                found.append(str(error))
            return
        found.append("answered")


def test_ten_thousand_connections_that_say_nothing_do_not_stop_it(start, bundle_folder):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS + 500:
        pytest.skip(f"a process may open {hard} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process, url = start(bundle_folder, "--backend", "ort-cpu", "--request-s", "1")
    host, port = url.removeprefix("http://").split(":")
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            time.sleep(1.5)  # those that said nothing are told so, and make room
            with contextlib.closing(ServedModel(url)) as model:
                assert model.metadata()["name"] == "small"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert process.poll() is None
