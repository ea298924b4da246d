from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spoter_runtime.errors import ConfigError
from spoter_runtime.landmarks import LEFT_HAND, MIRRORED, RIGHT_HAND
from spoter_toolkit.data.synth.generate import generated_clip
from spoter_toolkit.training.augment import SIGNING_SPACE_CENTRE, SIGNING_SPACE_SCALE, augment
from spoter_toolkit.training.config import AugmentConfig

ALL = AugmentConfig(
    hand_noise=0.05,
    body_noise=0.05,
    signing_space=0.5,
    rotation_deg=15,
    stretch=0.2,
    amplitude=0.5,
    frame_dropout=0.1,
    hand_dropout=0.5,
    mirror=0.5,
)
LENGTHS = torch.tensor([40, 17, 40, 3], dtype=torch.int32)


def batch() -> Tensor:
    poses = torch.zeros(4, 40, 54, 2)
    for i, frames in enumerate(LENGTHS.tolist()):
        poses[i, :frames] = torch.from_numpy(generated_clip(i, frames))
    return poses


def augmented(config: AugmentConfig, seed: int = 0) -> Tensor:
    return augment(batch(), LENGTHS, config, torch.Generator().manual_seed(seed))


def real(poses: Tensor) -> Tensor:
    return poses[torch.arange(poses.shape[1]) < LENGTHS[: len(poses), None]]


def test_equal_seeds_give_equal_batches_and_others_do_not() -> None:
    first, again, other = augmented(ALL, 1), augmented(ALL, 1), augmented(ALL, 2)
    assert torch.equal(first.nan_to_num(9), again.nan_to_num(9))
    assert not torch.equal(first.nan_to_num(9), other.nan_to_num(9))


def test_the_default_changes_no_landmark() -> None:
    poses = augmented(AugmentConfig())
    assert torch.equal(poses.nan_to_num(0), batch().nan_to_num(0))


def test_the_input_is_left_as_it_was() -> None:
    poses = batch()
    augment(poses, LENGTHS, ALL, torch.Generator().manual_seed(0))
    assert torch.equal(poses.nan_to_num(9), batch().nan_to_num(9))


def test_what_was_missing_stays_missing_and_padding_stays_zero() -> None:
    moving = AugmentConfig(hand_noise=0.05, body_noise=0.1, rotation_deg=15, stretch=0.2, amplitude=0.5)
    poses = augmented(moving)
    assert torch.equal(poses.isnan(), batch().isnan())
    padding = poses[torch.arange(poses.shape[1]) >= LENGTHS[:, None]]
    assert not padding.any()
    assert not torch.allclose(poses.nan_to_num(0), batch().nan_to_num(0), atol=1e-3)


def test_hand_noise_falls_on_hands_only() -> None:
    poses = augmented(AugmentConfig(hand_noise=0.05))
    change = (poses - batch()).nan_to_num(0).abs()
    assert not change[:, :, :12].any()
    noise = (poses - batch())[:, :, 12:]
    assert noise[~noise.isnan() & (noise != 0)].std() == pytest.approx(0.05, rel=0.1)


def test_signing_space_is_the_seeds_formula() -> None:
    poses = augmented(AugmentConfig(signing_space=1.0))
    centre = torch.tensor(SIGNING_SPACE_CENTRE)
    expected = centre + SIGNING_SPACE_SCALE * (real(batch()) - centre)
    assert torch.allclose(real(poses).nan_to_num(0), expected.nan_to_num(0), atol=1e-6)


def test_rotation_keeps_distances_from_the_middle_of_the_picture() -> None:
    poses = augmented(AugmentConfig(rotation_deg=15))
    before, after = ((real(p) - 0.5).norm(dim=2).nan_to_num(0) for p in (batch(), poses))
    assert torch.allclose(before, after, atol=1e-5)


def test_a_dropped_frame_shows_nothing_and_the_first_one_stays() -> None:
    poses = augmented(AugmentConfig(frame_dropout=0.9))
    shown = (~poses.isnan() & (poses != 0)).any(3).any(2)
    assert shown[:, 0].all()
    frames = torch.arange(40) < LENGTHS[:, None]
    assert 0.02 < shown[frames].float().mean() < 0.35


def test_dropped_hands_leave_the_body() -> None:
    poses = augmented(AugmentConfig(hand_dropout=1.0))
    assert torch.equal(poses[:, :, :12].isnan(), batch()[:, :, :12].isnan())
    for hand in (LEFT_HAND, RIGHT_HAND):
        assert poses[:, :, hand].isnan().sum() > batch()[:, :, hand].isnan().sum()


def test_mirroring_twice_is_the_clip_itself() -> None:
    always = AugmentConfig(mirror=1.0)
    generator = torch.Generator().manual_seed(0)
    once = augment(batch(), LENGTHS, always, generator)
    twice = augment(once, LENGTHS, always, generator)
    assert torch.allclose(twice.nan_to_num(0), batch().nan_to_num(0), atol=1e-6)
    frames = real(once)
    expected = real(batch())[:, list(MIRRORED)]
    assert torch.allclose(frames[..., 0].nan_to_num(0), (1 - expected[..., 0]).nan_to_num(0), atol=1e-6)
    assert torch.allclose(frames[..., 1].nan_to_num(0), expected[..., 1].nan_to_num(0), atol=1e-6)


def test_amplitude_leaves_a_still_clip_still() -> None:
    still = batch()[:1, :1].expand(1, 40, 54, 2).clone()
    poses = augment(still, LENGTHS[:1], AugmentConfig(amplitude=0.9), torch.Generator().manual_seed(0))
    assert torch.allclose(poses.nan_to_num(0), still.nan_to_num(0), atol=1e-6)


def test_everything_at_once_keeps_values_finite_or_missing() -> None:
    poses = augmented(ALL)
    assert not poses.isinf().any()


@pytest.mark.parametrize(
    ("field", "value"), [("mirror", 1.5), ("rotation_deg", 181), ("hand_noise", -0.1), ("time_scale", 1.0)]
)
def test_strengths_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"augment\.{field}: {value}"):
        AugmentConfig(**{field: value})


def test_what_padding_holds_changes_no_real_frame() -> None:
    noisy = batch()
    noisy[torch.arange(40) >= LENGTHS[:, None]] = 7.7
    results = [augment(poses, LENGTHS, ALL, torch.Generator().manual_seed(4)) for poses in (batch(), noisy)]
    assert torch.equal(results[0].nan_to_num(9), results[1].nan_to_num(9))
