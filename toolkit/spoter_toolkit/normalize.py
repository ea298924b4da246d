"""Landmark normalisation as a module: trained with the model, exported with it, written once.

Shapes: N clips, T frames, L landmarks.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn

from spoter_runtime.landmarks import (
    BODY,
    LEFT_HAND,
    LEFT_SHOULDER,
    NUM_LANDMARKS,
    RIGHT_HAND,
    RIGHT_SHOULDER,
)

Mode = Literal["signing-space", "none"]

# The seed's signing space: the shoulders' middle comes to its centre, and its scale shrinks the reach of
# the arms. The span states how many shoulder widths make the unit square before that.
SIGNING_SPACE_CENTRE: Final = (0.5, 0.45)
SIGNING_SPACE_SCALE: Final = 0.85
SIGNING_SPACE_SPAN: Final = 4.0

# Weiszfeld steps towards the geometric median. Measured on 3,133 real clips: after 4 the centre is within
# 0.02 shoulder widths of where 200 would bring it, 0.0006 on average.
ROBUST_STEPS: Final = 4
# A frame exactly at the centre would pull without bound, and rounding would decide where the centre goes:
# engines then differed by 1e-4 in the features. A tenth of the mean distance bounds every pull.
SOFTENING: Final = 0.1
# What is smaller than this share of the largest coordinate is no shoulder width and no hand, but rounding:
# dividing by it would give every engine its own features (measured: 1e-4 in the logits at 1e-3).
FLOOR: Final = 1e-2
SMALLEST: Final = 1e-6  # keeps divisions by sums of weights finite


class Normalize(nn.Module):
    """Make landmarks independent of where the signer stands and how large they appear.

    ``"signing-space"``: body points are placed and scaled by the shoulders, one robust centre and width per
    clip; each hand is placed in its own box, frame by frame. ``"none"``: values pass as they are. In both,
    a missing landmark (NaN, or x = y = 0) and every padded frame becomes 0.
    """

    centre: Tensor

    def __init__(self, mode: Mode) -> None:
        super().__init__()
        self.mode = mode
        # A buffer, not a constant made on the way: that would be a copy to the GPU, which no graph may hold.
        self.register_buffer("centre", torch.tensor(SIGNING_SPACE_CENTRE), persistent=False)

    def forward(self, poses_NTD: Tensor, lengths_N: Tensor) -> Tensor:
        """Return features (N, T, 108) for raw landmarks (N, T, 108) and real frame counts (N,)."""
        points_NTL2 = poses_NTD.reshape(*poses_NTD.shape[:2], NUM_LANDMARKS, 2)
        found_NTL1 = ~torch.isnan(points_NTL2).any(3, keepdim=True) & (points_NTL2 != 0).any(3, keepdim=True)
        found_NTL1 = found_NTL1 & frame_mask(poses_NTD, lengths_N)[:, :, None, None]
        # where, not a product: NaN × 0 is NaN, and padding may hold anything
        points_NTL2 = torch.where(found_NTL1, points_NTL2, 0.0)
        if self.mode == "signing-space":
            floor_N111 = FLOOR * points_NTL2.abs().amax((1, 2, 3), keepdim=True).clamp_min(SMALLEST)
            hands = (
                _hand_in_its_box(points_NTL2[:, :, hand], found_NTL1[:, :, hand], floor_N111)
                for hand in (LEFT_HAND, RIGHT_HAND)
            )
            body = _body_in_signing_space(points_NTL2, found_NTL1, floor_N111[:, 0], self.centre)
            points_NTL2 = torch.cat((body, *hands), dim=2)
        return points_NTL2.flatten(2)


def frame_mask(poses_NTD: Tensor, lengths_N: Tensor) -> Tensor:
    """Return (N, T) bool: True for a clip's real frames, False for its padding."""
    frames_T = torch.arange(poses_NTD.shape[1], device=poses_NTD.device, dtype=lengths_N.dtype)
    return frames_T < lengths_N[:, None]


def _body_in_signing_space(
    points_NTL2: Tensor, found_NTL1: Tensor, floor_N11: Tensor, centre_2: Tensor
) -> Tensor:
    right, left = points_NTL2[:, :, RIGHT_SHOULDER], points_NTL2[:, :, LEFT_SHOULDER]
    both_NT1 = found_NTL1[:, :, RIGHT_SHOULDER] & found_NTL1[:, :, LEFT_SHOULDER]
    middle_N12 = _robust_centre((right + left) / 2, both_NT1)
    width_NT1 = torch.linalg.vector_norm(right - left, dim=2, keepdim=True)
    width_N11 = _robust_centre(width_NT1, both_NT1)

    # A clip that never shows both shoulders: the middle and spread of whatever it shows.
    weight = found_NTL1.to(points_NTL2.dtype)
    count_N11 = weight.sum((1, 2)).clamp_min(1.0)[:, None]
    mean_N12 = points_NTL2.sum((1, 2))[:, None] / count_N11
    offsets = (points_NTL2 - mean_N12[:, :, None]) * weight
    spread_N11 = (offsets.square().sum((1, 2, 3))[:, None, None] / count_N11).sqrt()
    seen_N11 = both_NT1.any(1, keepdim=True)
    middle_N12 = torch.where(seen_N11, middle_N12, mean_N12)
    width_N11 = torch.maximum(torch.where(seen_N11, width_N11, 2 * spread_N11), floor_N11)

    scale_N11 = SIGNING_SPACE_SCALE / (SIGNING_SPACE_SPAN * width_N11)
    body = (points_NTL2[:, :, BODY] - middle_N12[:, :, None]) * scale_N11[:, :, None] + centre_2
    return torch.where(found_NTL1[:, :, BODY], body, 0.0)


def _robust_centre(values_NTk: Tensor, valid_NT1: Tensor) -> Tensor:
    """Return the geometric median (N, 1, k) over valid frames, by Weiszfeld's iteration (1937).

    Chosen over the median because it needs no sort: it exports to plain arithmetic and a masked frame
    adds an exact zero, so padding cannot change it.
    """
    weight = valid_NT1.to(values_NTk.dtype)
    count = weight.sum(1, keepdim=True).clamp_min(1.0)
    centre = (values_NTk * weight).sum(1, keepdim=True) / count
    for _ in range(ROBUST_STEPS):
        distance = torch.linalg.vector_norm((values_NTk - centre) * weight, dim=2, keepdim=True)
        softening = SOFTENING * distance.sum(1, keepdim=True) / count
        pull = weight / (distance + softening).clamp_min(SMALLEST)
        centre = (values_NTk * pull).sum(1, keepdim=True) / pull.sum(1, keepdim=True).clamp_min(SMALLEST)
    return centre


def _hand_in_its_box(hand_NTP2: Tensor, found_NTP1: Tensor, floor_N111: Tensor) -> Tensor:
    """Return hand points relative to the middle of their box, in units of its longer side: -0.5..0.5."""
    far = torch.finfo(hand_NTP2.dtype).max
    low = torch.where(found_NTP1, hand_NTP2, far).amin(2, keepdim=True)
    high = torch.where(found_NTP1, hand_NTP2, -far).amax(2, keepdim=True)
    middle = low / 2 + high / 2  # halves first: where no point was found the sum would overflow
    side = torch.maximum((high - low).amax(3, keepdim=True), floor_N111)
    return torch.where(found_NTP1, (hand_NTP2 - middle) / side, 0.0)
