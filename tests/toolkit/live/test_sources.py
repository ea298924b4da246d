"""Sources: a camera drops frames instead of queueing them, and comes back after it went away."""

from __future__ import annotations

import http.server
import itertools
import re
import threading

import numpy as np
import pytest

from signers import signing, write_log
from spoter_runtime.camera.video import TimedFrame, camera_frames, network_frames
from spoter_runtime.errors import DataError
from spoter_toolkit.live.film import Film
from spoter_toolkit.live.sources import Arrival, Newest, arrivals, is_live, is_log, paced


def picture(value):
    return np.full((4, 6, 3), value, np.uint8)


def test_a_slow_reader_gets_the_newest_frame_and_the_number_of_the_dropped():
    read, all_sent = threading.Event(), threading.Event()

    def frames():
        yield TimedFrame(picture(0), 0.0)
        read.wait(10)
        for value in range(1, 6):
            yield TimedFrame(picture(value), value)
        all_sent.set()
        threading.Event().wait(0.2)

    found = Newest(frames, wait_s=0.01).arrivals()
    first = next(found)
    read.set()
    assert all_sent.wait(10)
    second = next(found)
    found.close()
    assert (first.frame[0, 0, 0], first.dropped) == (0, 0)
    assert (second.frame[0, 0, 0], second.dropped) == (5, 4)
    assert second.t_ms > first.t_ms


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (
            DataError("/dev/video0: the camera was unplugged"),
            "/dev/video0: the camera was unplugged; it is opened again",
        ),
        (
            RuntimeError("the driver has a hiccup"),
            "the camera raised RuntimeError: the driver has a hiccup; it is opened again",
        ),
    ],
)
def test_a_camera_that_breaks_in_any_way_comes_back(error, fault):
    opened = []

    def frames():
        opened.append(1)
        yield TimedFrame(picture(len(opened)), 0.0)
        threading.Event().wait(0.05)
        if len(opened) == 1:
            raise error

    found = Newest(frames, wait_s=0.01).arrivals()
    seen = [next(found) for _ in range(3)]
    found.close()
    assert [one.frame is None for one in seen] == [False, True, False]
    assert [one.fault for one in seen] == ["", fault, ""]
    assert seen[0].t_ms < seen[1].t_ms < seen[2].t_ms  # although the camera's own clock began anew


def test_a_camera_that_stays_away_is_said_once_for_each_reason():
    reasons = iter(["unplugged", "no such camera", "no such camera", "no such camera"])

    def frames():
        yield from (
            [TimedFrame(picture(1), 0.0)] if (reason := next(reasons, None)) in (None, "unplugged") else []
        )
        if reason:
            raise DataError(reason)

    found = Newest(frames, wait_s=0.01).arrivals()
    seen = [next(found) for _ in range(4)]
    found.close()
    assert [one.fault.partition(";")[0] for one in seen] == ["", "unplugged", "no such camera", ""]


def test_a_camera_that_hangs_is_said_once_and_the_time_goes_on():
    hangs = threading.Event()

    def frames():
        yield TimedFrame(picture(1), 0.0)
        hangs.wait(10)
        yield TimedFrame(picture(2), 0.0)

    found = Newest(frames, wait_s=0.01, silent_s=0.05).arrivals()
    seen = [next(found) for _ in range(4)]
    hangs.set()
    seen.append(next(found))
    found.close()
    assert [one.fault for one in seen] == ["", "no frame came for 0.05 s", "", "", ""]
    assert [one.frame is None for one in seen] == [False, True, True, True, False]
    assert [one.t_ms for one in seen] == sorted(one.t_ms for one in seen)


@pytest.mark.parametrize("is_file", [False, True])
def test_a_network_camera_that_goes_away_comes_back_and_a_file_is_none(tmp_path, is_file):
    pytest.importorskip("av", reason="PyAV reads network cameras")
    film = Film(tmp_path / "camera.mkv")
    for n in range(8):
        film.add(np.full((48, 64, 3), 30 * n, np.uint8), 40.0 * n)
    film.close()

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if is_file:
                self.send_header("Content-Length", str((tmp_path / "camera.mkv").stat().st_size))
            self.end_headers()
            self.wfile.write((tmp_path / "camera.mkv").read_bytes())  # then it hangs up

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = Newest(
            lambda: network_frames(f"http://127.0.0.1:{server.server_port}/"), wait_s=0.01
        ).arrivals()
        if is_file:
            with pytest.raises(DataError, match=r"is a file, not a camera.*curl -O http://127"):
                next(found)
            server.shutdown()
            return
        seen = list(itertools.islice(found, 12))
        found.close()
        server.shutdown()
    faults = [n for n, one in enumerate(seen) if one.fault]
    assert faults
    assert re.search("went away after frame 8|the source has ended", seen[faults[0]].fault)
    assert any(one.frame is not None for one in seen[: faults[0]])
    assert any(one.frame is not None for one in seen[faults[0] :])


def test_a_camera_that_was_never_there_is_an_error():
    def frames():
        raise DataError("/dev/video7: no such camera")
        yield

    with pytest.raises(DataError, match="video7"):
        next(Newest(frames).arrivals())


def test_a_made_camera_of_ffmpeg_is_read():
    pytest.importorskip("av", reason="PyAV reads cameras")
    found = Newest(lambda: camera_frames("testsrc=size=64x48:rate=200", input_format="lavfi")).arrivals()
    seen = [next(found) for _ in range(3)]
    found.close()
    assert seen[0].frame.shape == (48, 64, 3)


def test_a_log_gives_its_landmarks(tmp_path):
    times, frames = signing([(300.0, 600.0)], end_ms=1000)
    log = write_log(tmp_path / "landmarks.jsonl", times, frames)
    found = list(arrivals(str(log)))
    assert [one.t_ms for one in found] == times
    assert np.array_equal(np.stack([one.frame for one in found]), frames, equal_nan=True)


def test_what_a_source_is_follows_from_its_name():
    assert [is_live(name) for name in ("0", "/dev/video1", "rtsp://camera/1", "talk.mp4")] == [True] * 3 + [
        False
    ]
    assert is_log("session/landmarks.jsonl")
    for name, said in (("absent.mp4", "no such file"), (".", "is no file"), ("", "'': no such file")):
        with pytest.raises(DataError, match=said):
            arrivals(name)


def test_the_folder_of_a_recording_names_its_log(tmp_path):
    write_log(tmp_path / "landmarks.jsonl", *signing([], end_ms=100))
    with pytest.raises(DataError, match=r"is a recording.*landmarks\.jsonl"):
        arrivals(str(tmp_path))


def test_the_frames_of_a_file_come_at_their_pace_whatever_time_they_begin_at(monkeypatch):
    clock = [50.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    for begin in (0.0, 1.8e12):
        start = clock[0]
        frames = paced("a.jsonl", iter([Arrival(begin + 40.0 * n) for n in range(4)]))
        assert [clock[0] - start for _ in frames] == pytest.approx([0, 0.04, 0.08, 0.12], abs=1e-5)
