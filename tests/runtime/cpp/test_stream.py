"""The stream of the C library says what Python's says: the same events of the same frames."""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
import sys
import threading

import numpy as np
import pytest

from signers import pose, signing, write_log
from spoter_runtime.errors import ConfigError, InputError
from spoter_runtime.live.settings import StreamSettings
from spoter_runtime.live.stream import MOST_EVENTS, SignStream
from spoter_runtime.recognizer import Recognizer
from spoter_toolkit.faces._clibrary import CEvent
from spoter_toolkit.faces.c import CRecognizer, CStream
from spoter_toolkit.parity.streams import prove_streams

SIGNS = [(1000.0, 1700.0), (2600.0, 3400.0), (4300.0, 4900.0)]


@pytest.fixture(autouse=True)
def _library(c_library):
    """Each test here runs the library."""


@pytest.fixture
def both(bundle_folder):
    """Return both(gate, settings, bundle): Python's stream and the library's."""

    def both(gate="rest", settings=None, bundle=bundle_folder):
        python = SignStream(
            Recognizer.load(bundle, "ort-cpu-fused", threads=1, tuned=False), gate, settings=settings
        )
        return python, CStream(CRecognizer(bundle, threads=1), gate, settings)

    return both


def said(stream, frames, *, flush=True):
    """Return the events of frames: (t_ms, landmarks, more arguments)."""
    for t_ms, frame, *more in frames:
        stream.accept(frame, t_ms, **(more[0] if more else {}))
    if flush:
        stream.flush()
    return [event.as_json() for event in stream.events()]


def check_same(found, expected):
    """Check two values of JSON: numbers may differ where the summing of a softmax does."""
    assert type(found) is type(expected) or {type(found), type(expected)} == {int, float}
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            check_same(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    else:
        assert found == expected


def check_events(streams, frames):
    """Check that both streams say the same; return it."""
    frames = list(frames)
    expected, found = (said(stream, frames) for stream in streams)
    check_same(found, expected)
    return expected


def signed(signs=SIGNS, end_ms=6000.0, **options):
    times, frames = signing(signs, end_ms=end_ms, **options)
    return list(zip(times, frames, strict=True))


SETTINGS = {
    "default": {},
    "motion": {"rest_by": "motion", "rest_ms": 300.0},
    "pads": {"pad_start_ms": 120.0, "pad_end_ms": 60.0, "fps": 25.0, "partial_ms": 0.0, "tracking_ms": 0.0},
    "long": {"longest_ms": 400.0},
    "unsure": {"least_probability": 0.9999, "least_hands": 0.0},
    "hands": {"least_hands": 1.0, "pad_start_ms": 400.0, "pad_end_ms": 400.0},
    "window": {"smooth_ms": 0.0, "hold_ms": 0.0, "hop_ms": 33.0, "valley": 0.01, "shortest_ms": 60.0},
}


@pytest.mark.parametrize("gate", ["rest", "window"])
def test_the_same_events_with_any_settings(both, gate):
    kinds = set()
    for n, changed in enumerate(SETTINGS.values()):
        frames = signed(fps=(30.0, 11.0)[n % 2], shape=lambda t_ms: int(t_ms // 500))
        events = check_events(both(gate, StreamSettings(**changed)), frames)
        kinds |= {(event["type"], event.get("code")) for event in events}
    assert {kind for kind, _ in kinds} == {
        *("ready", "tracking", "sign_start", "partial", "sign", "abstain", "fault")
    }
    assert {code for _, code in kinds} >= {"long", "tracking", "unsure", "uncalibrated"}


def test_the_same_events_of_landmarks_that_jump(both):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0, 90, 400))
    frames = [pose(rng.uniform(0.2, 2.4), int(rng.integers(9)), rng.uniform(-0.3, 0.3)) for _ in times]
    for frame in frames:
        frame[rng.random(54) < 0.1] = (0, 0)
        frame[rng.random(54) < 0.1, rng.integers(2)] = np.nan
        if rng.random() < 0.2:
            frame[:] = np.nan
    for gate in ("rest", "window"):
        events = check_events(both(gate), zip(times.tolist(), frames, strict=True))
        assert len(events) > 30


@pytest.mark.parametrize("rest_by", ["height", "motion"])
def test_the_same_events_where_tracking_is_lost_inside_and_behind_signs(both, rest_by):
    frames = signed()
    for begin, end in ((1300, 1440), (2750, 2990), (2995, 3240), (4600, 6000)):
        for t_ms, frame in frames:
            if begin < t_ms < end:
                frame[:] = np.nan
    for gate in ("rest", "window"):
        events = check_events(both(gate, StreamSettings(rest_by=rest_by, partial_ms=0.0)), frames)
        assert len([event for event in events if event["type"] == "sign_start"]) >= 3


def test_times_and_landmarks_that_are_wrong(both):
    up, bad, far = pose(0.3), pose(0.3), pose(0.3)
    bad[3, 1], far[53, 0] = np.inf, -10000.002
    frames = [(t_ms, pose(2.2) if t_ms < 250 else up) for t_ms in np.arange(0, 900, 33.3).tolist()]
    frames += [(math.nan, up), (math.inf, up), (-math.inf, up), (800.0, up), (899.0, up), (900.5, bad)]
    frames += [(933.0, far), (960.0, up, {"dropped": 2, "persons": 3}), (961.0, up), (2000.0, up)]
    frames += [(t_ms, up, {"persons": 1}) for t_ms in np.arange(2040, 4000, 40.0).tolist()]
    frames += [(100.0, up), (140.0, up), (180.0, up), (1e300, up), (1e300, up), (-5e14, up)]
    events = check_events(both(), frames)
    assert {event.get("code") for event in events} >= {"time", "landmarks", "gap"}
    assert "the stream begins anew" in " ".join(event.get("reason", "") for event in events)
    assert {event["persons"] for event in events if event["type"] == "tracking"} >= {3, 1}
    assert [event["frames"] for event in events if event["type"] == "dropped"] == [6, 3, 1, 1]


def test_frames_that_come_too_soon(both):
    seconds = [(n / 30, pose(2.2)) for n in range(40)]
    events = check_events(both(), seconds + [(50.0 + 5 * n, pose(2.2)) for n in range(30)])
    assert [event["reason"][:12] for event in events if event["type"] == "fault"] == ["10 frames in"]
    assert [event["frames"] for event in events if event["type"] == "dropped"][:2] == [39, 1]


def test_frames_that_come_too_late(both):
    events = check_events(both(), [(1e6 * n / 30, pose(2.2)) for n in range(40)])
    assert [event["reason"][:12] for event in events if event["type"] == "fault"] == ["10 frames in"]


def test_before_the_first_frame_and_without_a_time(both):
    assert check_events(both(), []) == []
    (event,) = check_events(both(), [(math.nan, pose(1.0))])
    assert (event["t_ms"], event["code"]) == (0.0, "time")


def test_the_gate_that_is_pushed(both):
    def pushed(stream):
        events = []
        for n, signing_now in enumerate([False] * 9 + [True] * 40 + [False] * 9 + [True] * 300):
            stream.push(signing_now)
            frame = np.full((54, 2), np.nan) if 80 < n < 110 else pose(0.3, n // 20)
            stream.accept(frame, 33.0 * n)
            events += [event.as_json() for event in stream.events()]
        stream.flush()
        return events + [event.as_json() for event in stream.events()]

    python, ours = both("push")
    expected = pushed(python)
    check_same(pushed(ours), expected)
    assert {None, "gap", "long"} < {event.get("code") for event in expected}
    assert "sign" in {event["type"] for event in expected}
    python, ours = both("rest")
    for stream in (python, ours):
        with pytest.raises(ConfigError, match="push with the gate 'rest'"):
            stream.push(True)


RULES = [
    {"temperature": 0.5, "min_probability": 0.99, "min_margin": 0.0, "min_hand_share": 0.0},
    {"temperature": 0.7, "min_probability": 0.1, "min_margin": 0.0, "min_hand_share": 0.0},
]


@pytest.mark.parametrize("gate", ["rest", "window"])
def test_a_calibrated_bundle_and_one_with_a_label_for_no_sign(both, bundle_copy, reseal, gate):
    labels = [label.name for label in Recognizer.load(bundle_copy).labels]
    types = set()
    for rule in (*RULES, RULES[1] | {"background": labels[:3]}):
        reseal(bundle_copy, lambda manifest, rule=rule: manifest.update(abstention={"target": 0.05, **rule}))
        frames = signed(shape=lambda t_ms: int(t_ms // 700))
        events = check_events(both(gate, bundle=bundle_copy), frames)
        types |= {(event["type"], event.get("code")) for event in events}
    assert ("abstain", "not_a_sign") in types
    assert ("sign", None) in types
    assert ("fault", "uncalibrated") not in types


def test_a_second_run_is_the_same_and_another_thread_is_refused(both):
    _, ours = both("window")
    first = said(ours, signed())
    ours.reset()
    assert said(ours, signed()) == first
    refused = []

    def another():
        for call in (ours.flush, ours.events, lambda: ours.accept(pose(0.3), 9000.0)):
            with pytest.raises(InputError, match="takes the frames of one thread, another one") as caught:
                call()
            refused.append(caught.value)
        ours.reset()
        ours.accept(pose(0.3), 0.0)

    thread = threading.Thread(target=another)
    thread.start()
    thread.join()
    assert len(refused) == 3
    with pytest.raises(InputError, match="another one has begun"):
        ours.flush()


def test_of_events_that_nobody_takes_the_newest_are_kept(both):
    python, ours = both(settings=StreamSettings(tracking_ms=1e-3))
    rest = pose(2.2)
    frames = [(33.0 * n, rest, {"dropped": 1}) for n in range(MOST_EVENTS // 2 + 99)]
    events = check_events((python, ours), frames)
    assert len(events) == MOST_EVENTS
    assert events[0]["type"] == "ready"


WRONG = [
    {"fps": 0.0},
    {"fps": 2000.0},
    {"hop_ms": 0.5},
    {"longest_ms": 1e7},
    {"gap_ms": -1.0},
    {"rest_ms": -0.5},
    {"fall": 0.9},
    {"still": 0.0},
    {"shortest_ms": 6000.0},
    {"pad_start_ms": 4000.0},
    {"pad_end_ms": -1e9},
    {"least_probability": 90.0},
    {"least_hands": -0.1},
    {"valley": 1.5},
    {"gap_ms": 1e300},
    {"rest_by": "colour"},
]


def test_wrong_settings_are_refused_in_the_words_of_python(bundle_folder, monkeypatch):
    python, ours = Recognizer.load(bundle_folder, threads=1), CRecognizer(bundle_folder, threads=1)
    given = {}
    monkeypatch.setattr(StreamSettings, "as_json", lambda self: given)
    for changed in WRONG:
        with pytest.raises(ConfigError) as expected:
            SignStream(python, settings=StreamSettings(**changed))
        given = changed
        with pytest.raises(ConfigError) as found:
            CStream(ours, settings=StreamSettings())
        assert str(found.value) == str(expected.value)
    for changed, words in (
        ({"rset_ms": 1}, r"settings: no setting 'rset_ms'; there are fps, rest_by, "),
        ({"rest_ms": "1"}, "settings: rest_ms: expected a number, got '1'"),
        ({"rest_ms": True}, "settings: rest_ms: expected a number, got True"),
        ([1], r"settings: expected settings by name, got \[1\]"),
    ):
        given = changed
        with pytest.raises(ConfigError, match=words):
            CStream(ours, settings=StreamSettings())
    with pytest.raises(ConfigError, match="gate 'still': expected rest, window, push"):
        CStream(ours, "still")


def test_settings_that_are_no_json_and_pointers_that_are_null(bundle_folder):
    recognizer = CRecognizer(bundle_folder, threads=1)
    library, stream, event = recognizer.library, CStream(recognizer), CEvent()
    handle = stream._handle
    made = type(handle)()
    calls = {
        (8, "settings: cannot be read as JSON: Expecting value: line 1 column 1 (char 0)"): lambda: (
            library.spoter_stream_create(recognizer.handle, None, b"nonsense", made)
        ),
        (1, "stream is NULL"): lambda: library.spoter_stream_create(recognizer.handle, None, None, None),
        (1, "landmarks is NULL"): lambda: library.spoter_stream_accept_landmarks(handle, None, 0.0, 0, -1),
        (1, "event is NULL"): lambda: library.spoter_stream_next_event(handle, None),
    }
    calls |= {
        (1, f"stream is NULL{' ' * n}"): lambda name=name, more=more: getattr(
            library, f"spoter_stream_{name}"
        )(None, *more)
        for n, (name, more) in enumerate(
            [("reset", ()), ("flush", ()), ("push", (1,)), ("next_event", (made,))], start=1
        )
    }
    made = ctypes.byref(made)
    for (status, words), call in calls.items():
        assert call() == status
        assert library.spoter_error_message().decode() == words.strip()
    library.spoter_stream_destroy(None)
    assert library.spoter_stream_next_event(handle, ctypes.byref(event)) == 0
    assert event.type is None


def test_an_event_has_its_fields_for_programs_without_json(bundle_folder):
    stream, event, found = CStream(CRecognizer(bundle_folder, threads=1)), CEvent(), []
    for t_ms, frame in signed():
        stream.accept(frame, t_ms)
        while (
            stream._library.spoter_stream_next_event(stream._handle, ctypes.byref(event)) == 0 and event.type
        ):
            values = json.loads(event.json)
            assert event.type.decode() == values["type"]
            for name in ("t_ms", "start_ms", "end_ms", "score", "probability"):
                value = getattr(event, name)
                assert (None if math.isnan(value) else value) == values.get(name)
            for name in ("label", "code", "reason"):
                text = getattr(event, name)
                assert (None if text is None else text.decode()) == values.get(name)
            found.append(values["type"])
    assert "sign" in found


def test_parity_compares_the_stream_of_the_library_on_a_log(bundle_folder, tmp_path, monkeypatch):
    log = write_log(tmp_path / "landmarks.jsonl", *signing([(500.0, 1200.0)], end_ms=2000))
    found = prove_streams(bundle_folder, log=log, backends=["face-c"])
    assert found.passed, found
    assert [(proof.backend, proof.signs) for proof in found.proofs] == [("ort-cpu", 1), ("face-c", 1)]

    class Shifted(CStream):
        def accept(self, frame, t_ms, **options):
            super().accept(np.roll(frame, 1, axis=0), t_ms, **options)

    monkeypatch.setattr("spoter_toolkit.faces.c.CStream", Shifted)
    assert not prove_streams(bundle_folder, log=log, backends=["face-c"]).passed


@pytest.mark.slow
def test_parity_replays_the_stream_of_a_bundle_through_the_library(bundle_folder):
    found = prove_streams(bundle_folder, backends=["ort-cpu", "face-c"])
    assert found.passed, found
    assert [proof.backend for proof in found.proofs] == ["ort-cpu", "ort-cpu", "face-c", "face-c"]
    assert sum(proof.signs for proof in found.proofs) > 0


def test_a_face_whose_stream_parity_does_not_know_is_said(bundle_folder, tmp_path, monkeypatch):
    log = write_log(tmp_path / "landmarks.jsonl", *signing([(500.0, 1200.0)], end_ms=2000))
    monkeypatch.delattr("spoter_toolkit.faces.c.CFace.stream")
    found = prove_streams(bundle_folder, log=log, backends=["face-c"])
    assert found.not_run == {"face-c": "face-c: parity knows no stream of this face"}


def test_a_long_stream_takes_no_more_memory_than_a_short_one(bundle_folder, c_library):
    program = f"""
import sys
sys.path[:0] = {[p for p in sys.path if p.endswith("support")]!r}
import numpy as np
from signers import signing
from spoter_toolkit.faces.c import CRecognizer, CStream
times, frames = signing([(1000.0, 1700.0)], end_ms=3000)
stream = CStream(CRecognizer({str(bundle_folder)!r}, threads=1), "window")
def peak():
    return int(open("/proc/self/status").read().partition("VmRSS:")[2].split()[0])
def run(rounds, begin):
    for n in range(rounds):
        for t_ms, frame in zip(times, frames):
            stream.accept(frame, begin + 3000 * n + t_ms)
        stream.events()
run(3, 0)
before = peak()
run(60, 10000)
assert peak() - before < 2000, (before, peak())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
