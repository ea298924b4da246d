"""The gates alone: the rest gate on heights, the window gate on scores that are given."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spoter_runtime.live.frames import Seen
from spoter_runtime.live.gates import PushGate, RestGate, WindowGate
from spoter_runtime.live.settings import StreamSettings

UP, DOWN = 0.3, 2.2  # of the wrists, in shoulder widths below the shoulders
UNKNOWN = math.nan


def rests(*spans, settings=None, fps=30.0, end_ms=3000.0):
    """Return (start, end, said at) of the rest gate's segments, where `spans` give (from, to, height)."""
    gate, found = RestGate(settings or StreamSettings(pad_start_ms=0, pad_end_ms=0)), []
    for t_ms in np.arange(0, end_ms, 1000 / fps).round(3).tolist():
        (value,) = [height for begin, end, height in spans if begin <= t_ms < end][-1:] or (DOWN,)
        seen = Seen(t_ms=t_ms, height=value, speed=value, body=True, left_hand=True, right_hand=True)
        found += [(mark.start_ms, mark.end_ms, t_ms) for mark in gate.accept(seen) if mark.kind == "end"]
    return found


SIGN = (995, 1995, UP)  # in frames at 30 a second: 1000 to 1966.667


@pytest.mark.parametrize("lost_ms", [33, 233, 267, 400, 566])
def test_a_loss_of_tracking_ends_no_sign(lost_ms):
    assert rests(SIGN, (1395, 1395 + lost_ms, UNKNOWN)) == rests(SIGN) == [(1000, 2000, 2100)]
    moving = StreamSettings(rest_by="motion", pad_start_ms=0, pad_end_ms=0)
    stretch = (0, 3000, 0.1), (995, 1995, 2.0)
    lost = rests(*stretch, (1395, 1395 + lost_ms, UNKNOWN), settings=moving)
    assert lost == rests(*stretch, settings=moving) == [(1000, 2000, 2100)]


def marks_of(gate, heights, fps=30.0):
    """Return (kind, start, end, code, said at) of each mark, and each height for so many frames."""
    found, t_ms = [], 0.0
    for value, frames in heights:
        for _ in range(frames):
            seen = Seen(t_ms=t_ms, height=value, speed=0.0, body=True, left_hand=True, right_hand=True)
            found += [(*mark, round(t_ms)) for mark in gate.accept(seen)]
            t_ms += 1000 / fps
    return [(kind, round(start), round(end), code, said) for kind, start, end, code, said in found]


@pytest.mark.parametrize("fps", [10.0, 30.0, 60.0])
@pytest.mark.parametrize("name", ["rest", "window", "push"])
def test_hands_that_are_not_seen_again_get_no_answer_in_any_gate(name, fps):
    settings, one = StreamSettings(), round(fps)
    gate = {
        "rest": lambda: RestGate(settings),
        "window": lambda: WindowGate(settings, lambda start_ms, end_ms: np.array([0.9, 0.1])),
        "push": lambda: PushGate(settings),
    }[name]()
    gate.pushed = True
    start, refused = marks_of(gate, [(DOWN, one), (UP, one), (UNKNOWN, one)], fps)
    assert (start[0], refused[0], refused[3]) == ("start", "refused", "gap")
    last_up_ms = 2000 - 1000 / fps
    assert refused[2] == round(last_up_ms)
    assert 700 < refused[4] - last_up_ms <= 700 + 1000 / fps + 1
    assert gate.open_since is None


def test_hands_that_were_seen_going_down_end_the_sign_as_soon_as_if_they_were_seen_all_the_time():
    assert rests(SIGN, (2030, 3000, UNKNOWN)) == rests(SIGN)


def test_hands_that_are_down_after_a_loss_end_the_sign_where_they_were_last_seen_up():
    assert rests(SIGN, (1995, 2095, UNKNOWN)) == [(1000, 1966.667, 2200)]


def test_a_rest_that_is_longer_than_a_loss_may_be_is_waited_for():
    settings = StreamSettings(rest_ms=400, pad_start_ms=0, pad_end_ms=0)
    assert rests(SIGN, (1395, 1745, UNKNOWN), settings=settings) == rests(SIGN, settings=settings)


def test_no_window_is_asked_while_the_hands_are_not_seen():
    asked = []
    gate = WindowGate(StreamSettings(), lambda start_ms, end_ms: (asked.append(end_ms), np.ones(2))[1])
    for t_ms in np.arange(0, 2000, 1000 / 30).tolist():
        height = DOWN if t_ms < 300 else UNKNOWN if 1000 <= t_ms < 1200 else UP
        gate.accept(Seen(t_ms=t_ms, height=height, speed=0.0, body=True, left_hand=True, right_hand=True))
    assert min(asked) < 900
    assert max(asked) > 1900
    assert not [t_ms for t_ms in asked if 1000 <= t_ms < 1200]


def segments(score_at, *, up=(1000.0, 4000.0), settings=None):
    """Return (start, end) of the segments where `score_at(t_ms)` gives the scores at a window's middle."""
    settings = settings or StreamSettings()
    gate = WindowGate(settings, lambda start_ms, end_ms: np.array(score_at((start_ms + end_ms) / 2)))
    marks = []
    for t_ms in np.arange(0, 6000, 1000 / 30).tolist():
        height = UP if up[0] <= t_ms < up[1] else DOWN
        marks += gate.accept(
            Seen(t_ms=t_ms, height=height, speed=0.0, body=True, left_hand=True, right_hand=True)
        )
    return [(mark.start_ms, mark.end_ms) for mark in marks if mark.kind == "end"]


def test_the_same_sign_twice_is_two_segments_where_its_score_falls_and_rises_between():
    (one, two) = segments(lambda t_ms: (0.5, 0.3) if 2300 < t_ms < 2600 else (0.9, 0.05))
    assert one[1] == pytest.approx(2450 - 100, abs=150)
    assert two[0] - one[1] == pytest.approx(200)
    assert len(segments(lambda t_ms: (0.8, 0.1) if 2300 < t_ms < 2600 else (0.9, 0.05))) == 1


def test_a_label_that_is_best_for_a_moment_is_no_sign():
    settings = StreamSettings(smooth_ms=0)
    flickers = segments(lambda t_ms: (0.2, 0.7) if 2300 < t_ms < 2360 else (0.9, 0.05), settings=settings)
    assert len(flickers) == 1
    movement = segments(
        lambda t_ms: (0.2, 0.7, 0) if 2300 < t_ms < 2600 else (0.9, 0, 0) if t_ms < 2500 else (0, 0, 0.9)
    )
    assert len(movement) == 2  # 300 ms less the paddings are shorter than a sign


def test_a_segment_that_as_a_whole_has_another_label_is_left_out():
    settings = StreamSettings()
    asked = []

    def shares(start_ms, end_ms):
        asked.append((start_ms, end_ms))
        return np.array([0.1, 0.8] if end_ms - start_ms > settings.window_ms + 1 else [0.9, 0.1])

    gate = WindowGate(settings, shares)
    marks = []
    for t_ms in np.arange(0, 4000, 1000 / 30).tolist():
        height = UP if 1000 <= t_ms < 2500 else DOWN
        marks += gate.accept(
            Seen(t_ms=t_ms, height=height, speed=0.0, body=True, left_hand=True, right_hand=True)
        )
    assert [mark.kind for mark in marks] == ["start"]
    assert max(end - start for start, end in asked) > 1000
