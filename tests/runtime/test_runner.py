"""The one checked door: what a runner takes, what it refuses, and what must not change the answer."""

from __future__ import annotations

import numpy as np
import pytest

from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import BackendError, InputError
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import Runner, check_batch, pad_clips

SAME = 1e-5  # how far logits may move with what must not matter; the bundle's own policy says so too


@pytest.fixture(scope="module")
def runner(bundle_folder):
    return OrtRunner(bundle_folder / "model.onnx", threads=1)


@pytest.fixture
def batch(make_clip):
    """Three clips of 5, 20 and 12 frames, padded with zeros."""
    return pad_clips([make_clip(seed, frames) for seed, frames in ((1, 5), (2, 20), (3, 12))])


class Fixed(Runner):
    """Gives the logits that it was made with, whatever it is asked."""

    name = "fixed"

    def __init__(self, logits):
        self.contract = GraphContract(labels=(Label(name="a"), Label(name="b")))
        self._logits = logits
        self.closed = False

    def _infer(self, poses_NTD, lengths_N):
        return self._logits

    def close(self):
        self.closed = True


ONES = np.full((2, 3, 108), 0.5, np.float32)


def _ones_with(value, index):
    poses = ONES.copy()
    poses[index] = value
    return poses


BAD_BATCHES = {
    "float64": (
        ONES.astype(float),
        None,
        r"poses: expected float32, got float64. Fix: poses.astype\('float32'\)",
    ),
    "whole numbers": (ONES.astype(int), None, "poses: expected float32, got int64"),
    "a list": (ONES.tolist(), None, "poses: expected float32, got float64"),
    "ragged": ([[[0.5] * 108], [[0.5] * 107]], None, "poses: rows of different sizes"),
    "one clip": (ONES[0], None, r"poses: expected \(batch, frames, 108\), got \(3, 108\)"),
    "not flat": (ONES.reshape(2, 3, 54, 2), None, r"got \(2, 3, 54, 2\)"),
    "with z": (np.zeros((2, 3, 162), np.float32), None, r"got \(2, 3, 162\)"),
    "no clip": (ONES[:0], None, "poses: batch of 0, the contract takes 1..4"),
    "too many clips": (np.repeat(ONES, 3, 0)[:5], None, "poses: batch of 5, the contract takes 1..4"),
    "no frame": (ONES[:, :0], None, "poses: 0 frames, the contract takes 1..10"),
    "too many frames": (np.repeat(ONES, 4, 1)[:, :11], None, "poses: 11 frames, the contract takes 1..10"),
    "length 0": (ONES, [3, 0], r"lengths: expected 1..3 \(the frames given\), got 0..3"),
    "negative length": (ONES, [3, -1], "lengths: expected 1..3 .*got -1..3"),
    "length beyond": (ONES, [4, 1], "lengths: expected 1..3 .*got 1..4"),
    "length for one": (ONES, [3], r"lengths: expected \(2,\) of a whole-number type, got \(1,\) int64"),
    "float lengths": (ONES, [3.0, 2.0], r"lengths: expected .* got \(2,\) float64"),
    "bool lengths": (ONES, [True, True], r"lengths: expected .* got \(2,\) bool"),
    "ragged lengths": (ONES, [[3], [2, 1]], "lengths: rows of different sizes"),
    "infinity": (_ones_with(np.inf, (1, 2, 7)), None, r"poses: value inf at index \(1, 2, 7\)"),
    "infinity in a real frame": (_ones_with(-np.inf, (1, 1, 7)), [1, 2], r"value -inf at index \(1, 1, 7\)"),
}


@pytest.mark.parametrize(("poses", "lengths", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_a_bad_batch_is_refused_before_the_engine_sees_it(poses, lengths, message):
    runner = Fixed(np.zeros((2, 2), np.float32))
    runner.contract = GraphContract(labels=runner.contract.labels, max_frames=10, max_batch=4)
    with pytest.raises(InputError, match=message):
        runner.infer(poses, lengths)


def test_a_checked_batch_is_contiguous_and_lengths_are_int32():
    contract = GraphContract(labels=())
    poses, lengths = check_batch(np.asfortranarray(ONES), np.array([1, 3], np.uint8), contract)
    assert poses.flags.c_contiguous
    assert (lengths.dtype, lengths.tolist()) == (np.int32, [1, 3])
    assert check_batch(ONES, None, contract)[1].tolist() == [3, 3]


def test_clips_are_padded_behind_their_last_frame(make_clip):
    clips = [make_clip(0, 2), make_clip(1, 4)]
    poses, lengths = pad_clips(clips, fill=9.0)
    assert (poses.shape, poses.dtype) == ((2, 4, 108), np.float32)
    assert (lengths.dtype, lengths.tolist()) == (np.int32, [2, 4])
    assert (poses[0, 2:] == 9.0).all()
    assert np.array_equal(poses[0, :2].reshape(2, 54, 2), clips[0], equal_nan=True)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((2, 3), np.float32), r"fixed: expected logits \(2, 2\) float32, got \(2, 3\) float32"),
        (np.zeros((2, 2)), r"fixed: expected logits \(2, 2\) float32, got \(2, 2\) float64"),
        (np.full((2, 2), np.nan, np.float32), r"fixed: logits are not finite for poses \(2, 3, 108\)"),
    ],
)
def test_an_engine_that_answers_nonsense_is_an_error(logits, message):
    with pytest.raises(BackendError, match=message):
        Fixed(logits).infer(ONES)


def test_a_runner_closes_at_the_end_of_with():
    with Fixed(np.zeros((2, 2), np.float32)) as runner:
        runner.infer(ONES)
        assert not runner.closed
    assert runner.closed


def test_the_small_model_tells_clips_apart(runner, make_clip):
    logits = np.concatenate([runner.infer(*pad_clips([make_clip(seed, 40)])) for seed in range(24)])
    assert len(set(logits.argmax(1))) >= 3
    assert logits.std(0).min() > 0.1


@pytest.mark.parametrize("fill", [0.0, 0.7, np.nan, 1e30, np.inf, -np.inf], ids=str)
def test_padding_does_not_change_the_answer(runner, batch, fill):
    poses, lengths = batch
    expected = runner.infer(poses, lengths)
    longer = np.full((3, 99, 108), fill, np.float32)
    for row, clip, length in zip(longer, poses, lengths, strict=True):
        row[:length] = clip[:length]
    np.testing.assert_allclose(runner.infer(longer, lengths), expected, atol=SAME)


def test_noise_in_the_padding_does_not_change_the_answer(runner, batch):
    poses, lengths = batch
    expected = runner.infer(poses, lengths)
    noisy = np.random.default_rng(0).normal(0, 100, (3, 60, 108)).astype(np.float32)
    for row, clip, length in zip(noisy, poses, lengths, strict=True):
        row[:length] = clip[:length]
    np.testing.assert_allclose(runner.infer(noisy, lengths), expected, atol=SAME)


def test_company_and_order_do_not_change_the_answer(runner, batch):
    poses, lengths = batch
    together = runner.infer(poses, lengths)
    alone = [runner.infer(poses[i : i + 1, : lengths[i]]) for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=SAME)
    np.testing.assert_allclose(runner.infer(poses[::-1], lengths[::-1]), together[::-1], atol=SAME)


def test_nan_and_zero_mean_the_same_missing_landmark(runner, make_clip):
    clip = make_clip(0, 30)
    gone = np.random.default_rng(0).random((30, 54)) < 0.3
    answers = []
    for x, y in ((np.nan, np.nan), (0.0, 0.0), (np.nan, 0.5), (0.5, np.nan)):
        clip[gone] = x, y
        answers.append(runner.infer(*pad_clips([clip])))
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])
    clip[gone] = 0.0, 0.5  # a point on the image's edge is not missing
    assert np.abs(runner.infer(*pad_clips([clip])) - answers[0]).max() > 0.01


@pytest.mark.parametrize("frames", [1, 2, 99])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_axis_runs_at_its_ends(runner, make_clip, count, frames):
    poses, lengths = pad_clips([make_clip(seed, frames) for seed in range(count)])
    assert runner.infer(poses, lengths).shape == (count, 5)
    assert runner.infer(poses, np.ones(count, int)).shape == (count, 5)


@pytest.mark.parametrize("value", [0.0, np.nan, 1e4, 1e-30], ids=str)
def test_a_degenerate_clip_has_finite_logits(runner, value):
    assert np.isfinite(runner.infer(np.full((1, 4, 108), value, np.float32))).all()


def test_the_caller_may_keep_and_change_the_answer(runner, batch):
    first = runner.infer(*batch)
    kept = first.copy()
    second = runner.infer(*batch)
    second[:] = 0.0
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)


def test_the_callers_arrays_are_not_changed(runner, batch):
    poses, lengths = batch
    poses[0, 5:] = np.nan
    before = poses.copy(), lengths.copy()
    poses.flags.writeable = lengths.flags.writeable = False
    runner.infer(poses, lengths)
    np.testing.assert_array_equal(poses, before[0])
    np.testing.assert_array_equal(lengths, before[1])
