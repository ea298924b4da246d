"""Scores of a stream, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spoter_runtime.live.events import Abstain, Sign
from spoter_toolkit.data.streams.compose import MadeStream, Truth
from spoter_toolkit.streams.score import det_curve, f1_of, levenshtein, matches, score


def sign(start, end, label, score=0.9, late=100.0):
    best = ((label, score),)
    return Sign(
        t_ms=end + late,
        start_ms=start,
        end_ms=end,
        label=label,
        score=score,
        probability=None,
        margin=score,
        best=best,
        latency_ms=late,
    )


def truth(start, end, label, kind="sign"):
    return Truth(kind=kind, label=label, start_ms=start, end_ms=end)


def stream(*truths, end_ms=60_000.0):
    times = np.arange(0, end_ms + 1, 100.0)
    return MadeStream(
        name="s", times_ms=times, poses_FLD=np.zeros((len(times), 54, 2), np.float32), truths=truths
    )


def test_events_are_matched_by_label_and_overlap_each_once():
    signs = [truth(1000, 2000, "a"), truth(3000, 4000, "b")]
    exact = [sign(1000, 2000, "a"), sign(3000, 4000, "b")]
    assert f1_of(exact, signs, 0.5) == 1.0
    assert f1_of([sign(1000, 2000, "b"), *exact[1:]], signs, 0.1) == 0.5
    assert f1_of([sign(1000, 1400, "a"), *exact[1:]], signs, 0.5) == 0.5  # IoU .4
    assert f1_of([sign(1000, 1400, "a"), *exact[1:]], signs, 0.25) == 1.0
    twice = [sign(1000, 1500, "a"), sign(1500, 2000, "a")]
    assert len(matches(twice, signs, 0.25)) == 1
    assert f1_of(twice, signs[:1], 0.25) == pytest.approx(2 / 3)
    assert f1_of([], [], 0.5) == 1.0
    assert f1_of([], signs, 0.5) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ("", "", 0),
        ("abc", "abc", 0),
        ("abc", "ac", 1),
        ("abc", "abbc", 1),
        ("kitten", "sitting", 3),
        ("a", "", 1),
    ],
)
def test_levenshtein(one, other, distance):
    assert levenshtein(one, other) == levenshtein(other, one) == distance


def test_scores_of_a_stream():
    made = stream(truth(1000, 2000, "a"), truth(5000, 6000, "none", "none"), truth(9000, 10000, "b"))
    found = score(
        made, [sign(1000, 2000, "a", late=200), sign(5000, 6000, "a"), sign(9000, 10000, "b", late=400)]
    )
    assert (found.signs, found.said) == (2, 3)
    assert found.f1[0.5] == pytest.approx(4 / 5)
    assert found.sequence == 0.5
    assert found.false_alarms_per_minute == 1
    assert found.delay_ms == (300, pytest.approx(390))
    assert found.signing == pytest.approx(1 - 11 / 601)
    assert found.as_json()["f1"]["0.5"] == found.f1[0.5]


def test_the_det_curve_trades_misses_for_alarms():
    made = stream(truth(1000, 2000, "a"), truth(9000, 10000, "b"))
    unsure = Abstain(t_ms=10100, start_ms=9000, end_ms=10000, code="unsure", reason="", label="b", score=0.4)
    alarms = [sign(1, 2, "a", 0.6), sign(3, 4, "a", 0.994)]
    curve = det_curve((made, [sign(1000, 2000, "a", 0.997), unsure]), [(stream(), alarms)])
    assert [(round(threshold, 3), *found) for threshold, *found in curve] == [
        *((0, 0, 2), (0.4, 0, 2), (0.6, 0.5, 2)),
        *((0.994, 0.5, 1), (0.997, 0.5, 0), (1, 1, 0)),
    ]
