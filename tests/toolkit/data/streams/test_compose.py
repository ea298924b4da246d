"""Streams made of clips: the clips are in them at the times that the truths say."""

from __future__ import annotations

import numpy as np
import pytest

from signers import pose
from spoter_toolkit.data.streams.compose import FPS, Piece, between, compose, hanging, nobody


@pytest.fixture
def pieces():
    return [
        Piece(kind=kind, label=kind, poses_TLD=np.stack([pose(0.3, shape)] * 20))
        for shape, kind in enumerate(("sign", "none", "unknown", "sign"))
    ]


@pytest.mark.parametrize("in_a_row", [1, 8])
def test_each_clip_is_where_its_truth_says(pieces, in_a_row):
    stream = compose("s", pieces, np.random.default_rng(0), in_a_row=in_a_row)
    assert [truth.kind for truth in stream.truths] == [piece.kind for piece in pieces]
    assert len(stream.signs) == 2
    for piece, truth in zip(pieces, stream.truths, strict=True):
        first = round(truth.start_ms * FPS / 1000)
        assert np.array_equal(stream.poses_FLD[first : first + 20], piece.poses_TLD, equal_nan=True)
        assert truth.end_ms == pytest.approx(stream.times_ms[first + 19])
    gaps = [b.start_ms - a.end_ms for a, b in zip(stream.truths, stream.truths[1:], strict=False)]
    assert min(gaps) > (1000 if in_a_row == 1 else 150)
    assert in_a_row == 1 or max(gaps) < 500


def test_points_move_smoothly_and_a_hand_is_there_for_half_the_way():
    up = pose(0.3, 1)
    down = hanging(up)
    moved = between(down, up, 9)
    assert np.isnan(down[12:]).all()
    assert (np.diff(moved[:, 10, 1]) < 0).all()
    seen = np.isfinite(moved[:, 33, 0])
    assert seen.tolist() == [False] * 4 + [True] * 5
    shape = moved[-1, 33:54] - moved[-1, 10]
    assert np.allclose(shape, up[33:54] - up[10], atol=1e-6)


def test_other_frame_rates_and_lost_frames_show_the_same(pieces):
    stream = compose("s", pieces, np.random.default_rng(0))
    for fps in (10.0, 60.0):
        other = stream.at_rate(fps)
        assert other.truths == stream.truths
        assert len(other.times_ms) == pytest.approx(len(stream.times_ms) * fps / FPS, abs=2)
        again = [stream.poses_FLD[round(t * FPS / 1000)] for t in other.times_ms[:: max(1, int(fps // FPS))]]
        assert np.allclose(
            other.poses_FLD[:: max(1, int(fps // FPS))], np.stack(again), atol=1e-6, equal_nan=True
        )
    lost = stream.with_lost(0.2, np.random.default_rng(1))
    assert 0.7 < len(lost.times_ms) / len(stream.times_ms) < 0.9


def test_a_tracker_that_loses_the_person_leaves_frames_of_nobody(pieces):
    stream = compose("s", pieces * 10, np.random.default_rng(0))
    lost = stream.with_tracking_lost(0.7, 233, np.random.default_rng(1))
    nobody_F = np.isnan(lost.poses_FLD).all((1, 2))
    edges = np.flatnonzero(np.diff(np.concatenate(([0], nobody_F, [0]))))
    lengths = edges[1::2] - edges[::2]
    assert (lengths.min(), len(lengths) / stream.minutes / 60) == (1, pytest.approx(0.65, abs=0.15))
    assert np.median(lengths) == pytest.approx(4, abs=1)
    assert np.array_equal(lost.poses_FLD[~nobody_F], stream.poses_FLD[~nobody_F], equal_nan=True)
    assert lost.truths == stream.truths


def test_nobody_signs_in_a_stream_without_signs():
    stream = nobody(0.2, np.random.default_rng(0), pose(0.3))
    assert stream.minutes == pytest.approx(0.2, abs=0.01)
    assert np.isnan(stream.poses_FLD[-1]).all()
    assert np.isfinite(stream.poses_FLD[0, :12]).all()
    assert stream.signs == ()
