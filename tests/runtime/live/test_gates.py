"""The window gate alone, on scores that are given: which segments it cuts, whatever a model is."""

from __future__ import annotations

import numpy as np
import pytest

from spoter_runtime.live.frames import Seen
from spoter_runtime.live.gates import WindowGate
from spoter_runtime.live.settings import StreamSettings

UP, DOWN = 0.3, 2.2  # of the wrists, in shoulder widths below the shoulders


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
