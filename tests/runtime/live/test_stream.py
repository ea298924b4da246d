"""SignStream: where signs begin and end, what is said, and what bad input does."""

from __future__ import annotations

import dataclasses
import json
import threading
import tracemalloc

import numpy as np
import pytest

from signers import pose, signing
from spoter_runtime import InputError, Recognizer, SignStream, StreamSettings
from spoter_runtime.errors import BackendError, ConfigError
from spoter_runtime.live.frames import resample_segment
from spoter_runtime.live.stream import MOST_EVENTS

SIGNS = [(1000.0, 1700.0), (2600.0, 3400.0), (4300.0, 4900.0)]


def of(events, kind):
    return [event for event in events if event.type == kind]


def iou(event, truth):
    start, end = truth
    both = min(event.end_ms, end) - max(event.start_ms, start)
    return max(both, 0) / (max(event.end_ms, end) - min(event.start_ms, start))


def test_the_rest_gate_finds_each_sign_where_it_is(recognizer, feed):
    events = feed(SignStream(recognizer), *signing(SIGNS, end_ms=6000))
    found = of(events, "sign")
    assert [iou(event, truth) > 0.7 for event, truth in zip(found, SIGNS, strict=True)] == [True] * 3
    assert all(event.latency_ms <= 350 for event in found)
    assert [event.type for event in events if event.type in ("sign_start", "sign")] == [
        "sign_start",
        "sign",
    ] * 3
    assert of(events, "ready") == events[:1]
    assert events[0].labels == len(recognizer.labels)
    assert len(of(events, "tracking")) == 6
    assert of(events, "partial")


@pytest.mark.parametrize("fps", [10.0, 15.0, 60.0])
def test_frame_rates_change_only_the_delay(recognizer, feed, fps):
    at_30 = of(feed(SignStream(recognizer), *signing(SIGNS, end_ms=6000)), "sign")
    found = of(feed(SignStream(recognizer), *signing(SIGNS, end_ms=6000, fps=fps)), "sign")
    assert len(found) == len(at_30)
    for one, other in zip(found, at_30, strict=True):
        assert abs(one.start_ms - other.start_ms) <= 1000 / fps + 34
        assert abs(one.end_ms - other.end_ms) <= 1000 / fps + 34


def test_lost_frames_change_only_the_delay(recognizer, feed):
    times, frames = signing(SIGNS, end_ms=6000)
    kept = np.random.default_rng(3).random(len(times)) > 0.2
    found = of(feed(SignStream(recognizer), np.array(times)[kept].tolist(), frames[kept]), "sign")
    assert [iou(event, truth) > 0.6 for event, truth in zip(found, SIGNS, strict=True)] == [True] * 3


def test_a_segment_given_to_predict_has_the_same_logits(recognizer, feed):
    asked = []

    class Listens(Recognizer):
        def predict(self, clip, *, name="clip"):
            asked.append((np.array(clip), super().predict(clip, name=name).logits_C))
            return super().predict(clip, name=name)

    stream = SignStream(Listens(recognizer.runner), settings=StreamSettings(partial_ms=0))
    times, frames = signing(SIGNS, end_ms=6000)
    found = of(feed(stream, times, frames), "sign")
    assert len(asked) == len(found) == 3
    for event, (clip, logits) in zip(found, asked, strict=True):
        cut = resample_segment(times, list(frames), event.start_ms, event.end_ms, 30.0)
        assert np.array_equal(cut, clip, equal_nan=True)
        first = round(event.start_ms * 30 / 1000)
        assert np.array_equal(cut, frames[first : first + len(cut)], equal_nan=True)
        assert np.array_equal(recognizer.predict(cut).logits_C, logits)


@pytest.mark.parametrize("gate", ["rest", "window"])
def test_the_same_frames_give_the_same_events(recognizer, feed, gate):
    stream = SignStream(recognizer, gate)
    first = feed(stream, *signing(SIGNS, end_ms=6000))
    stream.reset()
    assert feed(stream, *signing(SIGNS, end_ms=6000)) == first


def test_silence_stays_silent(recognizer, feed):
    for frames in (np.stack([pose(2.2)] * 300), np.full((300, 54, 2), np.nan, np.float32)):
        for gate in ("rest", "window"):
            events = feed(SignStream(recognizer, gate), (np.arange(300) * 33.3).tolist(), frames)
            assert {event.type for event in events} == {"ready", "tracking"}


def test_hysteresis_a_short_stretch_and_a_short_rest_make_no_event_of_their_own(recognizer, feed):
    short = feed(SignStream(recognizer), *signing([(1000.0, 1010.0)], end_ms=2500), flush=False)
    settings = StreamSettings(shortest_ms=500)
    stream = SignStream(recognizer, settings=settings)
    assert of(feed(stream, *signing([(1000.0, 1010.0)], end_ms=2500)), "sign") == []
    assert len(of(short, "sign_start")) <= 1
    joined = feed(
        SignStream(recognizer, settings=StreamSettings(rest_ms=600)),
        *signing([(1000.0, 1700.0), (2300.0, 2900.0)], end_ms=5000),
    )
    assert len(of(joined, "sign")) == 1  # the rest between is shorter than rest_ms


def test_a_person_whose_hands_rest_in_the_lap_is_followed_too(recognizer, feed):
    times, frames = signing(SIGNS, end_ms=6000)
    lap = np.where(np.arange(len(times)) >= 0, 1.5, 0)
    heights = [(frame[10, 1] - 0.4) / 0.25 for frame in frames]
    frames = np.stack([pose(min(h, rest), shift=0.1) for h, rest in zip(heights, lap, strict=True)])
    assert len(of(feed(SignStream(recognizer), times, frames), "sign")) == 3


def test_motion_instead_of_height(recognizer, feed):
    times = np.arange(0, 4000, 1000 / 30)
    moves = (times > 1000) & (times < 2000)
    frames = np.stack([pose(0.3, shift=0.4 * np.sin(t / 120) * m) for t, m in zip(times, moves, strict=True)])
    settings = StreamSettings(rest_by="motion", rest_ms=300)
    (found,) = of(feed(SignStream(recognizer, settings=settings), times.tolist(), frames), "sign")
    assert iou(found, (1000, 2000)) > 0.6


def surest_two(answers):
    """Return the places of the two answers with the largest margins and different labels."""
    order = sorted(range(len(answers)), key=lambda n: answers[n].top(2)[1][1] - answers[n].top(2)[0][1])
    return order[0], next(n for n in order if answers[n].label != answers[order[0]].label)


def test_the_window_gate_makes_one_event_of_one_sign(recognizer, feed):
    shape, _ = surest_two([recognizer.predict(np.stack([pose(0.3, s)] * 20)) for s in range(30)])
    one = signing([(1000.0, 2200.0)], end_ms=4000, shape=lambda t_ms: shape)
    (found,) = of(feed(SignStream(recognizer, "window"), *one), "sign")
    assert iou(found, (1000.0, 2200.0)) > 0.8


def test_the_window_gate_cuts_where_the_label_changes(recognizer, feed):
    answers = [recognizer.predict(np.stack([pose(0.3, s)] * 20)) for s in range(30)]
    first, second = surest_two(answers)
    labels = [answer.label for answer in answers]
    times, frames = signing([(1000.0, 3000.0)], end_ms=5000)
    frames = np.stack(
        [
            pose((frame[10, 1] - 0.4) / 0.25, first if t < 2000 else second)
            for t, frame in zip(times, frames, strict=True)
        ]
    )
    found = of(feed(SignStream(recognizer, "window"), times, frames), "sign")
    assert [event.label for event in found] == [labels[first], labels[second]]
    assert abs(found[0].end_ms - 2000) < 300


def test_the_way_of_the_hands_to_the_next_sign_is_in_no_segment(recognizer, feed):
    answers = [recognizer.predict(np.stack([pose(0.3, s)] * 20)) for s in range(30)]
    shapes = surest_two(answers)
    times, frames = signing([(1000.0, 3000.0)], end_ms=5000, shape=lambda t_ms: shapes[int(t_ms >= 2000)])
    first, second = of(feed(SignStream(recognizer, "window"), times, frames), "sign")
    assert second.start_ms - first.end_ms == pytest.approx(200)
    short = StreamSettings(shortest_ms=1200)
    assert of(feed(SignStream(recognizer, "window", settings=short), times, frames), "sign") == []


def test_a_label_for_no_sign_cuts_no_sign(recognizer):
    name = recognizer.predict(np.stack([pose(0.3)] * 9)).label

    class Knows(Recognizer):
        background = (name,)

    stream = SignStream(Knows(recognizer.runner), "window")
    for n in range(9):
        stream.accept(pose(0.3), 33.0 * n)
    shares = stream._shares(0.0, 264.0)
    names = [label.name for label in recognizer.labels]
    assert shares[names.index(name)] == 0
    assert np.count_nonzero(shares) == len(names) - 1


def test_signs_in_a_row_may_last_longer_than_the_longest_sign(recognizer, feed):
    answers = [recognizer.predict(np.stack([pose(0.3, s)] * 20)) for s in range(30)]
    shapes = surest_two(answers)
    times, frames = signing(
        [(1000.0, 9000.0)], end_ms=11000, shape=lambda t_ms: shapes[int(t_ms % 2000 >= 1000)]
    )
    settings = StreamSettings(longest_ms=2000)
    found = of(feed(SignStream(recognizer, "window", settings=settings), times, frames), "sign")
    assert found[-1].end_ms > 8500
    assert [event.label for event in found] == [answers[shapes[n % 2]].label for n in range(1, 9)]


def test_the_application_says_when(recognizer):
    stream = SignStream(recognizer, "push")
    for n in range(90):
        stream.push(30 <= n < 60)
        stream.accept(pose(0.3), n * 33.0)
    (found,) = of(stream.events(), "sign")
    assert (found.start_ms, found.end_ms) == (30 * 33.0, 60 * 33.0)
    with pytest.raises(ConfigError, match="push with the gate 'rest'"):
        SignStream(recognizer).push(True)


def test_a_path_and_a_table_of_settings_are_refused_with_what_is_meant(recognizer):
    with pytest.raises(ConfigError, match=r"expected a Recognizer, got .*model.*Recognizer\.load\(path\)"):
        SignStream("model.spoter")
    with pytest.raises(ConfigError, match=r"Fix: StreamSettings\(\*\*settings\)"):
        SignStream(recognizer, settings={"rest_ms": 100})


def test_time_that_stands_or_goes_back_is_a_fault(recognizer):
    stream = SignStream(recognizer)
    for t_ms in (0.0, 1000020.0, *[1000019.5] * 200, 1000060.0, float("nan"), 1000100.0):
        stream.accept(pose(2.2), t_ms)
    events = stream.events()
    back, none = of(events, "fault")  # once for frames in a row; each is counted
    assert back.reason == (
        "a frame of 1000019.5 ms after one of 1000020 ms: t_ms grows from frame to frame; "
        "the frame is left out, and those like it behind it"
    )
    assert none.reason.startswith("a frame has no time: nan; ")
    assert [event.frames for event in of(events, "dropped")] == [200, 1]


def test_times_in_microseconds_are_said_once(recognizer):
    stream = SignStream(recognizer)
    for n in range(100):
        stream.accept(pose(0.3), n * 1e6 / 30)
    (fault,) = of(stream.events(), "fault")
    assert (fault.code, fault.t_ms) == ("time", pytest.approx(1e7 / 30))
    assert fault.reason == (
        "10 frames in a row came more than 700 ms after the one before; t_ms is milliseconds"
    )


def test_a_clock_that_starts_anew_ends_the_sign_without_an_answer(recognizer, feed):
    stream = SignStream(recognizer)
    times, frames = signing(SIGNS, end_ms=6000)
    first = feed(stream, times[:45], frames[:45], flush=False)
    assert of(first, "sign_start")
    again = feed(stream, times, frames)
    assert [event.code for event in of(again, "abstain")] == ["gap"]
    assert [event.code for event in of(again, "fault")] == ["time", "uncalibrated"]
    assert len(of(again, "sign")) == 3


def test_a_camera_that_was_away_gives_no_answer_to_half_a_sign(recognizer, feed):
    times, frames = signing([(1000.0, 1700.0), (4000.0, 4700.0)], end_ms=6000)
    away = (np.array(times) > 1400) & (np.array(times) < 2600)
    events = feed(SignStream(recognizer), np.array(times)[~away].tolist(), frames[~away])
    assert [event.code for event in of(events, "abstain")] == ["gap"]
    assert [event.start_ms > 3500 for event in of(events, "sign")] == [True]


def test_a_sign_longer_than_the_model_takes_is_refused(recognizer, feed):
    stream = SignStream(recognizer, settings=StreamSettings(longest_ms=60_000))
    assert stream.settings.longest_ms == pytest.approx(1000 * (recognizer.contract.max_frames - 1) / 30)
    events = feed(stream, *signing([(1000.0, 9000.0), (10000.0, 10600.0)], end_ms=12000))
    assert [event.code for event in of(events, "abstain")] == ["long"]
    assert len(of(events, "sign")) == 1
    with pytest.raises(ConfigError, match="shortest_ms"):
        SignStream(recognizer, settings=StreamSettings(shortest_ms=9000, longest_ms=9999))


def test_frames_of_nobody_in_the_middle_end_the_sign(recognizer, feed):
    times, frames = signing([(1000.0, 3000.0)], end_ms=4500)
    frames[40:75] = np.nan
    events = feed(SignStream(recognizer), times, frames)
    assert all(event.end_ms < times[40] or event.start_ms > times[70] for event in of(events, "sign"))


def test_arms_without_hands_are_no_sign(recognizer, feed):
    times, frames = signing(SIGNS, end_ms=6000)
    frames[:, 12:] = np.nan
    events = feed(SignStream(recognizer), times, frames)
    assert of(events, "sign") == []
    assert {event.code for event in of(events, "abstain")} == {"tracking"}


@pytest.mark.parametrize("value", [np.inf, 1e9])
def test_landmarks_that_cannot_be_are_a_fault(recognizer, value):
    stream = SignStream(recognizer)
    broken = pose(0.3)
    broken[5] = value
    for n in range(9):
        stream.accept(broken, 40.0 * n)
    (fault,) = of(stream.events(), "fault")
    assert fault.code == "landmarks"
    assert "left out" in fault.reason


@pytest.mark.parametrize(
    ("frame", "fix"),
    [
        (np.zeros((53, 2)), "numpy.asarray(landmarks, 'float32')"),
        (np.zeros((54, 2), int), "numpy.asarray(landmarks, 'float32')"),
        (np.zeros((20, 54, 2), np.float32), "for frame in clip: stream.accept(frame, t_ms)"),
        (np.zeros((75, 3)), "landmarks_from_mediapipe(pose, left_hand, right_hand)"),
        (np.zeros((48, 64), np.uint8), "numpy.stack([frame] * 3, axis=-1)"),
        (np.zeros((48, 64, 3)), "frame.astype('uint8')"),
        (None, "video_frames(path)"),
        ("talk.mp4", "video_frames(path)"),
    ],
)
def test_other_arrays_are_refused_with_what_makes_a_frame_of_them(recognizer, frame, fix):
    with pytest.raises(InputError, match="frame: expected") as refused:
        SignStream(recognizer).accept(frame, 0.0)
    assert fix in refused.value.fix


def test_a_second_thread_is_refused_until_reset(recognizer):
    stream = SignStream(recognizer)
    stream.accept(pose(2.2), 0.0)
    errors = []

    def other():
        try:
            stream.accept(pose(2.2), 33.0)
        except InputError as error:
            errors.append(error)
        stream.reset()
        stream.accept(pose(2.2), 33.0)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert "one thread" in str(errors[0])
    with pytest.raises(InputError):
        stream.accept(pose(2.2), 66.0)


def test_a_bundle_without_calibration_says_so_once(recognizer, feed):
    class Uncalibrated(Recognizer):
        def predict(self, clip, *, name="clip"):
            prediction = super().predict(clip, name=name)
            return dataclasses.replace(
                prediction, **{name: None for name in ("probability", "is_sign") if hasattr(prediction, name)}
            )

    events = feed(SignStream(Uncalibrated(recognizer.runner)), *signing(SIGNS, end_ms=6000))
    (fault,) = of(events, "fault")
    assert fault.code == "uncalibrated"
    assert [event.probability for event in of(events, "sign")] == [None] * 3


def test_what_the_bundle_says_is_no_sign_is_not_said(recognizer, feed):
    class Says:
        def __init__(self, prediction):
            self._prediction = prediction

        is_sign, probability, reason = False, 0.2, "the margin is small"

        def __getattr__(self, name):
            return getattr(self._prediction, name)

    class Refuses(Recognizer):
        def predict(self, clip, *, name="clip"):
            return Says(super().predict(clip, name=name))

    events = feed(SignStream(Refuses(recognizer.runner)), *signing(SIGNS, end_ms=6000))
    assert of(events, "sign") == of(events, "fault") == []
    assert {(e.code, e.reason, e.probability) for e in of(events, "abstain")} == {
        ("not_a_sign", "the margin is small", 0.2)
    }


def test_less_than_the_least_probability_is_not_said(recognizer, feed):
    settings = StreamSettings(least_probability=0.999)
    events = feed(SignStream(recognizer, settings=settings), *signing(SIGNS, end_ms=6000))
    assert of(events, "sign") == []
    assert {event.code for event in of(events, "abstain")} == {"unsure"}


def test_a_model_that_fails_is_a_fault_and_the_stream_goes_on(recognizer, feed):
    class Fails(Recognizer):
        def predict(self, clip, *, name="clip"):
            raise BackendError("the engine is gone")

    events = feed(SignStream(Fails(recognizer.runner)), *signing(SIGNS, end_ms=6000))
    assert of(events, "sign") == []
    assert len(of(events, "abstain")) == 3
    (fault,) = of(events, "fault")
    assert "the engine is gone" in fault.reason


def test_dropped_frames_are_said(recognizer):
    stream = SignStream(recognizer)
    stream.accept(pose(2.2), 0.0)
    stream.accept(pose(2.2), 99.0, dropped=2)
    assert [event.frames for event in of(stream.events(), "dropped")] == [2]


def test_frames_that_come_too_soon_are_counted_and_times_in_seconds_are_said(recognizer):
    stream = SignStream(recognizer, settings=StreamSettings(tracking_ms=0))
    for n in range(30):
        stream.accept(pose(2.2), n / 30)  # seconds
    stream.flush()
    fault, dropped = stream.events()[1:]
    assert (fault.code, fault.t_ms) == ("time", pytest.approx(10 / 30))
    assert fault.reason == (
        "10 frames in a row came less than 8 ms after the last one and are left out; t_ms is milliseconds"
    )
    assert (dropped.frames, dropped.t_ms) == (29, 0.0)


def test_a_fast_camera_loses_frames_and_each_is_counted(recognizer):
    stream, found = SignStream(recognizer, settings=StreamSettings(tracking_ms=0)), []
    for n in range(9):
        stream.accept(pose(2.2), 5.0 * n, dropped=int(n == 3))
        found.append(stream.dropped)
    assert [(event.t_ms, event.frames) for event in of(stream.events(), "dropped")] == [
        *((10.0, 1), (20.0, 2), (30.0, 1), (40.0, 1))
    ]
    assert found[2::2] == [1, 2, 1, 1]


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, np.uint8, int])
def test_numbers_of_numpy_make_events_that_json_can_hold(recognizer, number):
    stream = SignStream(recognizer)
    for t_ms in (0, 40, 80, 200):
        stream.accept(pose(0.3), number(t_ms), dropped=np.int32(2), persons=np.int64(1))
    stream.flush()
    events = [event.as_json() for event in stream.events()]
    assert json.loads(json.dumps(events)) == events
    assert {event["type"] for event in events} == {"ready", "dropped", "tracking"}
    assert {type(event["t_ms"]) for event in events} == {float}


def test_times_that_are_no_real_numbers_are_faults(recognizer):
    stream = SignStream(recognizer)
    times = [1j, np.complex64(3), 10**400, 10**9999, True, np.True_, "3", None, np.nan]
    for t_ms in times:
        stream.reset()
        stream.accept(pose(2.2), t_ms)
        (fault,) = stream.events()
        assert (fault.code, fault.t_ms) == ("time", 0.0)
        assert fault.reason.startswith("a frame has no time: ")
        assert len(fault.reason) < 160


def test_counts_that_are_no_whole_numbers_are_refused(recognizer):
    for wrong in (
        {"dropped": 1.5},
        {"persons": "two"},
        {"persons": -3},
        {"dropped": -1},
        {"dropped": 1 << 40},
    ):
        with pytest.raises(InputError, match="expected a whole number, 0 or more, got"):
            SignStream(recognizer).accept(pose(2.2), 0.0, **wrong)


def test_the_first_report_counts_the_frames_a_second_like_the_others(recognizer, feed):
    times = [40.0 * n for n in range(101)]
    events = feed(SignStream(recognizer), times, [pose(2.2)] * len(times))
    assert [event.frames_per_s for event in of(events, "tracking")] == [25.0] * 4


def test_a_reader_who_comes_late_still_hears_that_the_stream_is_ready(recognizer):
    stream = SignStream(recognizer, settings=StreamSettings(tracking_ms=0))
    for n in range(MOST_EVENTS + 9):
        stream.accept(pose(2.2), 10.0 * n, dropped=1)
    events = stream.events()
    assert len(events) == MOST_EVENTS
    assert [event.type for event in events].index("dropped") == len(of(events, "ready")) == 1
    assert events[-1].t_ms == 10.0 * (MOST_EVENTS + 8)


def test_memory_is_bounded(recognizer):
    stream = SignStream(recognizer, settings=StreamSettings(tracking_ms=100))
    down, t_ms = pose(2.2), 0.0

    def run(frames):
        nonlocal t_ms
        for _ in range(frames):
            stream.accept(down, t_ms)
            t_ms += 9.0
            stream.events()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    first = run(1_200)  # more than the stream keeps
    last = run(1_200)  # half a megabyte more, if they were kept
    tracemalloc.stop()
    assert last - first < 100_000


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"fall": 0.8}, "fall"),
        ({"fps": 0}, "fps"),
        ({"rest_by": "x"}, "rest_by"),
        ({"rest_ms": -1}, r"rest_ms=-1: expected 0\.\.60000"),
        ({"least_probability": 90}, r"least_probability=90: expected 0\.\.1"),
        ({"pad_end_ms": float("nan")}, r"pad_end_ms=nan: expected -60000\.\.60000"),
        ({"gap_ms": 1e300}, r"gap_ms=1e\+300: expected 1\.\.60000"),
        ({"longest_ms": 10**400}, r"longest_ms=1000\S+: expected 1\.\.3600000"),
        ({"valley": "deep"}, "valley='deep': expected a number"),
        ({"hold_ms": True}, "hold_ms=True: expected a number"),
    ],
)
def test_settings_out_of_range_are_named(settings, named):
    with pytest.raises(ConfigError, match=named):
        StreamSettings(**settings)
    with pytest.raises(ConfigError, match="gate 'x'"):
        SignStream(None, "x")


def test_each_number_of_the_settings_has_a_range_and_is_a_float():
    settings = StreamSettings(rest_ms=np.float32(120), fps=25)
    values = settings.as_json()
    assert json.loads(json.dumps(values)) == values
    for name in values.keys() - {"rest_by"}:
        assert type(values[name]) is float
        for wrong in (1e300, -1e300, np.nan):
            with pytest.raises(ConfigError, match=rf"{name}=\S+: expected \S+\.\.\d"):
                StreamSettings(**{name: wrong})
