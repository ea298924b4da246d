"""`spoter-kit live` on landmark logs: lines, JSON lines, recordings, settings, the screen."""

from __future__ import annotations

import io
import json
import os
import signal

import pytest
from rich.console import Console

from in_process import spoter_kit
from signers import signing, write_log
from spoter_runtime import Recognizer, SignStream
from spoter_runtime.errors import SpoterError
from spoter_runtime.live.events import Dropped, Partial
from spoter_toolkit.cli.live_view import Screen, view_of
from spoter_toolkit.live.session import run_session
from spoter_toolkit.live.sources import arrivals


@pytest.fixture
def log(tmp_path):
    signs = [(1000.0, 1700.0), (2700.0, 3500.0)]
    return write_log(tmp_path / "landmarks.jsonl", *signing(signs, end_ms=5000))


def test_a_line_for_each_sign(log, bundle_folder, tmp_path):
    done = spoter_kit(tmp_path, "live", log, "--bundle", bundle_folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert "s  " in lines[0]
    assert any("ঀ" <= letter <= "৿" for letter in lines[0])  # the word in Bengali


def test_json_lines_and_a_recording_that_replays_to_them(log, bundle_folder, tmp_path):
    options = ("--bundle", bundle_folder, "--json")
    done = spoter_kit(tmp_path, "live", log, *options, "--record", "session")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["type"] for event in events].count("sign") == 2
    assert "recorded: session" in done.stderr
    again = spoter_kit(tmp_path, "live", "session/landmarks.jsonl", *options)
    assert again.stdout == done.stdout
    assert (tmp_path / "session" / "events.jsonl").read_text() == done.stdout
    refused = spoter_kit(tmp_path, "live", log, *options, "--record", "session")
    assert (refused.returncode, "is there already" in refused.stderr) == (2, True)


def test_a_recording_that_is_ended_by_a_signal_is_closed_and_named(log, bundle_folder, tmp_path, monkeypatch):
    ended = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr("spoter_toolkit.live.session.run_session", ended)
    done = spoter_kit(tmp_path, "live", log, "--bundle", bundle_folder, "--record", "session")
    assert (done.returncode, "recorded: session" in done.stderr) == (128 + signal.SIGTERM, True)


def test_a_recording_in_part_is_an_error_that_names_the_file(log, bundle_folder, tmp_path, monkeypatch):
    def full(frame):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spoter_toolkit.live.session.line_of", full)
    done = spoter_kit(tmp_path, "live", log, "--bundle", bundle_folder, "--record", "session")
    assert done.returncode == 1
    assert "recorded in part: session" in done.stderr
    assert done.stderr.endswith(
        "error: session/landmarks.jsonl: the disk is full. Fix: make room, or name another place\n"
    )


def test_a_folder_that_cannot_be_made_is_named(log, bundle_folder, tmp_path):
    (tmp_path / "file").touch()
    done = spoter_kit(tmp_path, "live", log, "--bundle", bundle_folder, "--record", "file/session")
    assert (done.returncode, "file/session: cannot be made" in done.stderr) == (1, True)


def test_a_source_without_a_sign_says_so(bundle_folder, tmp_path):
    rest = write_log(tmp_path / "rest.jsonl", *signing([], end_ms=2000))
    done = spoter_kit(tmp_path, "live", rest, "--bundle", bundle_folder)
    assert (done.returncode, done.stdout, "no sign was found" in done.stderr) == (0, "", True)


def test_settings_and_the_gate_may_be_changed(log, bundle_folder, tmp_path):
    options = (log, "--bundle", bundle_folder, "--json")
    one = spoter_kit(tmp_path, "live", *options, "--set", "rest_ms=900")
    assert one.stdout.count('"type": "sign"') == 1  # the rest between is no longer one
    window = spoter_kit(tmp_path, "live", *options, "--gate", "window", "--seconds", "0.5")
    assert '"gate": "window"' in window.stdout
    assert '"sign"' not in window.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--gate", "push"), "expected rest or window"),
        (("--set", "rest_ms"), "expected NAME=VALUE"),
        (("--set", "rset_ms=3"), "did you mean 'rest_ms'"),
        (("--set", "rest_ms=x"), "is a number"),
        (("--say", "no-such-program"), "no such program"),
    ],
)
def test_wrong_options_are_named(log, bundle_folder, tmp_path, options, said):
    done = spoter_kit(tmp_path, "live", log, "--bundle", bundle_folder, *options)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_full_disk_behind_stdout_is_an_error_that_names_it(monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stdout", Full())
    with view_of([], json=True) as show, pytest.raises(SpoterError, match="stdout: the disk is full"):
        show(Dropped(t_ms=0.0, frames=1))


def test_a_video_that_is_not_there(bundle_folder, tmp_path, landmarker_folder, monkeypatch):
    monkeypatch.setattr("spoter_toolkit.cli.live._have_landmarker", lambda *_, **__: None)
    monkeypatch.setattr("spoter_toolkit.cli.live._warn_of_landmarker", lambda *_: None)
    done = spoter_kit(tmp_path, "live", "absent.mp4", "--bundle", bundle_folder, "--record", "session")
    assert done.returncode == 1
    assert "absent.mp4: no such file" in done.stderr
    assert not (tmp_path / "session").exists()


def test_the_screen_shows_tracking_bars_and_the_last_signs(log, bundle_folder):
    recognizer = Recognizer.load(bundle_folder, "ort-cpu", threads=1, tuned=False)
    screen = Screen({label.name: label.bengali for label in recognizer.labels})
    full = []

    def shown_while_signing(event):
        screen(event)
        full.append((event.type, len(screen._best)))

    run_session(SignStream(recognizer), arrivals(str(log)), [shown_while_signing])
    assert ("partial", 3) in full
    assert {bars for kind, bars in full if kind in ("sign", "abstain")} == {0}  # nobody signs any more
    screen(Partial(t_ms=0.0, start_ms=0.0, label="tea", score=0.5, best=(("tea", 0.5),)))
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(screen.drawn())
    lines = shown.get().splitlines()
    assert "frames/s" in lines[0]
    assert lines[1].startswith("tea              0.50 ████")  # the score first: a narrow screen cuts the bar
    assert sum("চা" in line or " s  " in line for line in lines) >= 2
