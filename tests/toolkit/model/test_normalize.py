from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from spoter_runtime.landmarks import BODY, LEFT_HAND, RIGHT_HAND
from spoter_toolkit.data.synth.generate import generated_clip
from spoter_toolkit.model.normalize import SIGNING_SPACE_CENTRE, Normalize


def clip(frames: int = 40, seed: int = 3) -> Tensor:
    return torch.from_numpy(generated_clip(seed, frames))[None]


def normalized(points_NTL2: Tensor) -> Tensor:
    lengths = torch.full((len(points_NTL2),), points_NTL2.shape[1], dtype=torch.int32)
    return Normalize("signing-space")(points_NTL2.flatten(2), lengths).reshape(points_NTL2.shape)


def test_place_and_size_of_the_signer_do_not_matter() -> None:
    points = clip()
    moved = points * 0.37 + torch.tensor([0.4, -0.2])
    assert torch.allclose(normalized(points), normalized(moved), atol=1e-5)


def test_zeros_are_a_missing_landmark_as_nan_is() -> None:
    points = clip()
    points[0, 3:9, 5:40] = torch.nan
    assert points.isnan().any()
    assert torch.equal(normalized(points), normalized(points.nan_to_num(0.0)))


def test_the_shoulders_come_to_the_centre_of_signing_space() -> None:
    points = normalized(clip())
    middle = (points[0, :, 6] + points[0, :, 7]) / 2
    seen = (points[0, :, 6] != 0).all(1) & (points[0, :, 7] != 0).all(1)
    assert torch.allclose(middle[seen].median(0).values, torch.tensor(SIGNING_SPACE_CENTRE), atol=0.01)


def test_each_hand_fills_its_own_box() -> None:
    points = normalized(clip())
    for hand in (LEFT_HAND, RIGHT_HAND):
        shown = points[0, :, hand].abs().amax((1, 2))
        shown = shown[shown > 0]
        assert len(shown) > 0
        assert torch.allclose(shown, torch.full_like(shown, 0.5), atol=1e-5)


def test_placed_hands_keep_their_place_and_nothing_else_changes() -> None:
    points = clip()
    lengths = torch.tensor([40], dtype=torch.int32)
    features = Normalize("signing-space", hand_place=True)(points.flatten(2), lengths)
    assert torch.equal(features[..., :108], normalized(points).flatten(2))
    placed = features[..., 108:].reshape(1, 40, 42, 2)
    moved = clip()
    moved[:, 5:9, RIGHT_HAND] += 0.1  # the hand alone, by a tenth of the picture
    again = Normalize("signing-space", hand_place=True)(moved.flatten(2), lengths)
    shift = (again[..., 108:].reshape(1, 40, 42, 2) - placed)[0, 5:9, 21:]
    seen = ~points[0, 5:9, RIGHT_HAND].isnan().any(2)
    assert seen.any()
    assert shift[seen].min() > 0.02  # an own box would not show it
    assert torch.allclose(shift[seen], shift[seen][0].expand_as(shift[seen]), atol=1e-5)
    assert torch.allclose(again[..., :108], features[..., :108], atol=1e-5)
    body = features[0, :, :108].reshape(40, 54, 2)[:, BODY] - torch.tensor(SIGNING_SPACE_CENTRE)
    wrists = clip()[0, :, BODY]  # one scale for body and hands: distances in the picture keep their ratio
    across = (wrists[:, 6] - wrists[:, 7]).norm(dim=1)
    hand = (points[0, :, RIGHT_HAND.start] - points[0, :, RIGHT_HAND.start + 5]).norm(dim=1)
    ours = (placed[0, :, 21] - placed[0, :, 26]).norm(dim=1) / (body[:, 6] - body[:, 7]).norm(dim=1)
    both = ~(across + hand).isnan()
    assert torch.allclose(ours[both], (hand / across)[both], rtol=1e-3)


def test_one_wild_frame_of_the_shoulders_hardly_moves_the_body() -> None:
    points = clip()
    wild = points.clone()
    wild[0, 5, 6:8] += 3.0  # a detector that jumps to somebody else for a frame
    others = [t for t in range(40) if t != 5]
    plain, robust = (normalized(p)[0, others][:, BODY] for p in (points, wild))
    mean_would_move_by = 3.0 / 40 / 0.25  # in shoulder widths, for shoulders a quarter of the picture apart
    assert (plain - robust).abs().max() < 0.1 * mean_would_move_by


@pytest.mark.parametrize("shown", ["no shoulders", "one point", "nothing"])
def test_a_clip_that_hardly_shows_anything_stays_finite(shown: str) -> None:
    points = clip(7)
    if shown == "no shoulders":
        points[:, :, 6:8] = torch.nan
    else:
        kept = points[:, :, 0].clone()
        points[:] = torch.nan
        if shown == "one point":
            points[:, 0, 0] = torch.nan_to_num(kept[:, 0], 0.3)
    result = normalized(points)
    assert result.isfinite().all()
    assert shown != "no shoulders" or result.abs().max() < 5
    assert shown != "nothing" or not result.any()


def test_none_passes_values_as_they_are() -> None:
    points = clip()
    lengths = torch.tensor([40], dtype=torch.int32)
    passed = Normalize("none")(points.flatten(2), lengths).reshape(points.shape)
    assert torch.equal(passed, points.nan_to_num(0.0))


def test_rounding_hardly_moves_a_feature() -> None:
    """Ill-conditioned arithmetic would give every engine its own features; float64 is the measure."""
    from spoter_export.probes import generated_poses

    poses = torch.from_numpy(generated_poses(np.random.default_rng((0, 32, 299)), 32, 299))
    lengths = torch.full((32,), 299, dtype=torch.int32)
    module = Normalize("signing-space")
    single, double = module(poses, lengths), module(poses.double(), lengths)
    assert (single - double).abs().max() <= 2e-6


def test_the_shoulders_place_is_their_geometric_median() -> None:
    from spoter_toolkit.model.normalize import _robust_centre

    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.01, (1, 41, 2)) + np.array([0.4, 0.3])
    points[0, :10] += 2.0  # a quarter of the frames belongs to somebody else
    values_NGkT = torch.from_numpy(points).transpose(1, 2)[:, None]
    valid = torch.ones(1, 1, 1, 41, dtype=torch.float64)
    centre = _robust_centre(values_NGkT, valid)[0, 0, :, 0].numpy()
    assert np.abs(centre - [0.4, 0.3]).max() < 0.1
    assert np.abs(points.mean(1) - [0.4, 0.3]).max() > 0.4


@pytest.mark.parametrize("shown", ["one still point", "shoulders that coincide", "a hand of one point"])
def test_what_has_no_size_is_not_divided_by(shown: str) -> None:
    points = clip(150)
    if shown == "one still point":
        points[:] = torch.nan
        points[:, :, 0] = 0.3
    elif shown == "shoulders that coincide":
        points[:, :, 6] = points[:, :, 7]
    else:
        points[:, :, RIGHT_HAND] = torch.nan
        points[:, :, RIGHT_HAND.start] = torch.rand(1, 150, 2, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([150], dtype=torch.int32)
    module, flat = Normalize("signing-space"), points.flatten(2)
    assert (module(flat, lengths) - module(flat.double(), lengths)).abs().max() <= 1e-5
