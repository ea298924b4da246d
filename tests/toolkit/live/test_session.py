"""A session: every sink hears every event, a sink that raises stops nobody, a word is never a command."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from signers import pose, signing, write_log
from spoter_runtime import Recognizer, SignStream
from spoter_runtime.camera.video import video_frames
from spoter_runtime.contract import Label
from spoter_runtime.errors import SpoterError, UsageError
from spoter_runtime.live.events import Sign
from spoter_runtime.live.log import read_frames, replay
from spoter_toolkit.live.film import Film
from spoter_toolkit.live.session import Recorder, Speaker, run_session
from spoter_toolkit.live.sources import Arrival, arrivals


@pytest.fixture(scope="module")
def recognizer(bundle_folder):
    return Recognizer.load(bundle_folder, "ort-cpu", threads=1, tuned=False)


@pytest.fixture
def log(tmp_path):
    signs = [(1000.0, 1700.0), (2700.0, 3500.0)]
    return str(write_log(tmp_path / "landmarks.jsonl", *signing(signs, end_ms=5000)))


def sign(label="tea", probability=0.9):
    return Sign(
        t_ms=1.0,
        start_ms=0.0,
        end_ms=1.0,
        label=label,
        score=0.9,
        probability=probability,
        margin=0.8,
        best=((label, 0.9),),
        latency_ms=0.0,
    )


class Landmarker:
    """Finds the landmarks that a picture's first value names."""

    persons = 2

    def __init__(self, frames):
        self.frames = frames

    def __call__(self, rgb):
        return self.frames[rgb[0, 0, 0]]

    def reset(self):
        pass


def test_a_recording_replays_to_the_same_events(recognizer, log, tmp_path):
    stream, heard = SignStream(recognizer), []
    recorder = Recorder(tmp_path / "session", stream, "rest")
    run_session(stream, arrivals(log), [heard.append, recorder], watchers=[recorder])
    recorder.close()
    events = [json.loads(line) for line in (tmp_path / "session" / "events.jsonl").read_text().splitlines()]
    again = [
        event.as_json() for event in replay(stream, read_frames(tmp_path / "session" / "landmarks.jsonl"))
    ]
    assert json.dumps(events) == json.dumps(again) == json.dumps([event.as_json() for event in heard])
    assert [event["type"] for event in events].count("sign") == 2


def test_a_recording_of_pictures_replays_to_the_same_events(recognizer, tmp_path):
    _, frames = signing([(1000.0, 1700.0)], end_ms=2600)

    stream = SignStream(recognizer, landmarker=Landmarker(frames))
    recorder = Recorder(tmp_path / "session", stream, "rest")
    source = [Arrival(40.0 * n, np.full((8, 8, 3), n, np.uint8)) for n in range(len(frames))]
    run_session(stream, source, [recorder], watchers=[recorder])
    recorder.close()
    live = (tmp_path / "session" / "events.jsonl").read_text()
    again = replay(SignStream(recognizer), read_frames(tmp_path / "session" / "landmarks.jsonl"))
    assert live == "".join(json.dumps(event.as_json()) + "\n" for event in again)
    assert '"persons": 2' in live
    assert '"sign"' in live


def test_a_recording_of_a_fast_camera_replays_to_the_same_events(recognizer, log, tmp_path):
    stream, heard = SignStream(recognizer), []
    recorder = Recorder(tmp_path / "session", stream, "rest")
    source = (Arrival(5.0 * n, one.frame, n % 3) for n, one in enumerate(list(arrivals(log))[:-1]))
    run_session(stream, source, [heard.append], watchers=[recorder])
    recorder.close()
    again = list(replay(SignStream(recognizer), read_frames(tmp_path / "session" / "landmarks.jsonl")))
    assert [event for event in again if event.type != "fault"] == heard
    assert {event.frames for event in heard if event.type == "dropped"} == {2, 3, 4}


def test_a_film_keeps_the_pictures_at_their_times(tmp_path):
    pytest.importorskip("av")
    film = Film(tmp_path / "video.mkv")
    for n, t_ms in enumerate([0.0, 40.0, 140.0, 140.2, 400.0]):
        film.frame(Arrival(t_ms, np.full((49 + n, 64, 3), 50 * n, np.uint8)), None)
    film.frame(Arrival(500.0, np.zeros((54, 2), np.float32)), None)
    film.close()
    frames = list(video_frames(tmp_path / "video.mkv"))
    assert [frame.t_ms for frame in frames] == pytest.approx([0, 40, 140, 400])
    assert [round(frame.rgb.mean() / 50) for frame in frames] == [0, 1, 2, 4]
    assert {frame.rgb.shape for frame in frames} == {(48, 64, 3)}


def test_a_killed_film_has_all_but_its_last_second(tmp_path):
    av = pytest.importorskip("av")
    film = Film(tmp_path / "video.mkv")
    for n in range(90):
        film.add(np.full((48, 64, 3), n, np.uint8), 1000 * n / 30)
    with av.open(str(tmp_path / "video.mkv")) as found:
        assert len(list(found.decode(video=0))) >= 60
    film.close()


def test_a_sink_that_raises_is_left_out_and_the_others_are_told(recognizer, log):
    heard, calls = [], []

    def broken(event):
        calls.append(event)
        raise OSError("the loudspeaker is gone")

    run_session(SignStream(recognizer), arrivals(log), [broken, heard.append])
    assert len(calls) == 1
    faults = [event for event in heard if event.type == "fault" and event.code == "sink"]
    assert len(faults) == 1
    assert "the loudspeaker is gone" in faults[0].reason
    assert len([event for event in heard if event.type == "sign"]) == 2


class Broken:
    """A watcher and a sink whose disk is full."""

    def __init__(self):
        self.calls = 0

    def frame(self, arrival, landmarks_LD):
        self.calls += 1
        raise OSError(28, "No space left on device")

    __call__ = frame


def test_a_watcher_that_raises_is_left_out_once_and_the_session_goes_on(recognizer, log):
    heard, seen, broken = [], [], Broken()

    class Looks:
        def frame(self, arrival, landmarks_LD):
            seen.append(arrival.t_ms)

    run_session(SignStream(recognizer), arrivals(log), [broken, heard.append], watchers=[broken, Looks()])
    assert broken.calls == 1
    assert len(seen) == len(list(arrivals(log)))
    (fault,) = [event for event in heard if event.type == "fault" and event.code == "sink"]
    assert "No space left on device" in fault.reason
    assert len([event for event in heard if event.type == "sign"]) == 2


@pytest.mark.parametrize("file", ["_log", "_events"])
def test_a_disk_that_is_full_ends_the_recording_and_is_said_once(recognizer, log, tmp_path, file):
    heard, stream = [], SignStream(recognizer)
    recorder = Recorder(tmp_path / "session", stream, "rest")
    getattr(recorder, file).close()
    setattr(recorder, file, Path("/dev/full").open("w"))  # noqa: SIM115  (closed by it)
    run_session(stream, arrivals(log), [heard.append, recorder], watchers=[recorder])
    name = {"_log": "landmarks.jsonl", "_events": "events.jsonl"}[file]
    assert recorder.error.message == f"{tmp_path / 'session' / name}: the disk is full"
    with pytest.raises(SpoterError, match="the disk is full"):
        recorder.close()
    (fault,) = [event for event in heard if event.type == "fault" and event.code == "sink"]
    assert fault.reason.endswith(
        f"{name}: the disk is full; it is left out from now on. Fix: make room, or name another place"
    )
    assert len([event for event in heard if event.type == "sign"]) == 2


def test_a_film_that_cannot_be_written_stops_no_log(recognizer, tmp_path):
    pytest.importorskip("av")
    heard, stream = [], SignStream(recognizer, landmarker=Landmarker([pose(2.2)] * 90))
    film, recorder = Film(Path("/dev/full")), Recorder(tmp_path / "session", stream, "rest")
    source = [Arrival(40.0 * n, np.full((48, 64, 3), n, np.uint8)) for n in range(90)]
    (left_out,) = run_session(stream, source, [heard.append, recorder], watchers=[film, recorder])
    assert left_out == film.error
    assert film.error.message == "/dev/full: the disk is full"
    recorder.close()
    assert len(list(read_frames(tmp_path / "session" / "landmarks.jsonl"))) == len(source)


def test_a_session_whose_only_sink_raises_ends_with_its_error(recognizer, log):
    def broken(event):
        raise OSError("the loudspeaker is gone")

    with pytest.raises(OSError, match="the loudspeaker is gone"):
        run_session(SignStream(recognizer), arrivals(log), [broken])


def test_a_session_that_nobody_reads_ends(recognizer, log):
    seen = []

    def printed(event):
        seen.append(event)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_session(SignStream(recognizer), arrivals(log), [printed])
    assert {event.t_ms for event in seen} == {0.0}


def test_faults_and_dropped_frames_of_the_source_are_events(recognizer, log):
    heard = []
    frames = list(arrivals(log))
    source = [
        frames[0],
        Arrival(40.0, fault="unplugged; it is opened again"),
        Arrival(99.0, frames[1].frame, 5),
    ]
    run_session(SignStream(recognizer), source, [heard.append])
    assert [(e.code, e.reason) for e in heard if e.type == "fault"] == [("source", source[1].fault)]
    assert [event.frames for event in heard if event.type == "dropped"] == [5]


def test_it_ends_when_it_should(recognizer, log):
    heard = []
    epoch = 1.8e12
    later = (Arrival(one.t_ms + epoch, one.frame) for one in arrivals(log))
    run_session(SignStream(recognizer), later, [heard.append], lasts_ms=2400)
    assert epoch + 2300 < max(event.t_ms for event in heard) <= epoch + 2400


def test_it_ends_when_it_should_although_no_frame_comes(recognizer):
    def hangs():
        yield from (Arrival(t_ms) for t_ms in (1000.0, 2000.0, 3000.0))
        pytest.fail("the session goes on")

    run_session(SignStream(recognizer), hangs(), [], lasts_ms=1500)


@pytest.mark.parametrize("label", ["tea", "$(touch hacked)", "; touch hacked", "চা"])
def test_a_word_is_one_argument_and_never_a_command(tmp_path, monkeypatch, label):
    monkeypatch.chdir(tmp_path)
    write = "import sys, pathlib; pathlib.Path('said').write_text(repr(sys.argv[1:]))"
    speaker = Speaker(f'"{sys.executable}" -c "{write}"', [Label(name="word", bengali=label)])
    speaker(sign("word"))
    for process in speaker._running:
        process.wait(20)
    assert (tmp_path / "said").read_text() == repr([label])
    assert not (tmp_path / "hacked").exists()


def test_the_place_of_the_word_may_be_named_and_slow_commands_do_not_pile_up():
    speaker = Speaker(f'"{sys.executable}" -c "import time; time.sleep(2)" --word={{}}', [Label(name="tea")])
    begin = time.monotonic()
    for _ in range(20):
        speaker(sign())
    assert time.monotonic() - begin < 2
    assert len(speaker._running) == 4
    assert speaker.left_out == 16
    assert speaker._running[0].args[-1] == "--word=tea"
    for process in speaker._running:
        process.kill()
        process.wait()


def test_what_was_not_spoken_is_said():
    speaker = Speaker(f'"{sys.executable}" -c "raise SystemExit(3)"', [Label(name="tea")])
    speaker(sign())
    for process in speaker._running:
        process.wait(20)
    speaker(sign(probability=None))  # a model without a calibration would speak at any movement
    assert not speaker._running or speaker._running[0].returncode == 3
    assert speaker.in_words() == [
        "--say left out 1 word: its command ended with an error",
        "--say left out 1 word: the bundle has no calibration. "
        "Fix: spoter-kit export RUN, with a validation split",
    ]


@pytest.mark.parametrize("command", ["no-such-program-here {}", "espeak 'x", ""])
def test_a_command_that_cannot_run_is_refused_at_once(command):
    with pytest.raises(UsageError, match="--say"):
        Speaker(command, [])
