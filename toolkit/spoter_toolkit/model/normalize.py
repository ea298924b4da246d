"""Landmark normalisation as a module: trained with the model, exported with it, written once.

Shapes: N clips, T frames, L landmarks.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from spoter_runtime.landmarks import (
    BODY,
    LEFT_HAND,
    LEFT_SHOULDER,
    NUM_FEATURES,
    NUM_LANDMARKS,
    RIGHT_HAND,
    RIGHT_SHOULDER,
)
from spoter_toolkit.model.config import Mode

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
SMALLEST: Final = 1e-6  # keeps divisions by distances finite

HAND_FEATURES: Final = 2 * (RIGHT_HAND.stop - LEFT_HAND.start)  # of both hands in a frame
_HANDS: Final = slice(LEFT_HAND.start, RIGHT_HAND.stop)
_SHOULDERS: Final = slice(RIGHT_SHOULDER, LEFT_SHOULDER + 1)


class Normalize(nn.Module):
    """Make landmarks independent of where the signer stands and how large they appear.

    ``"signing-space"``: body points are placed and scaled by the shoulders, one robust centre and width per
    clip; each hand is placed in its own box, frame by frame. ``"none"``: values pass as they are. In both,
    a missing landmark (NaN, or x = y = 0) and every padded frame becomes 0. With ``hand_place`` the hands
    follow a second time, placed and scaled as the body is.
    """

    centre: Tensor
    is_place: Tensor
    first_axis: Tensor

    def __init__(self, mode: Mode, *, hand_place: bool = False) -> None:
        super().__init__()
        self.mode, self.hand_place = mode, hand_place
        self.num_features = NUM_FEATURES + hand_place * HAND_FEATURES
        # Buffers, not constants made on the way: those would be copies to the GPU, which no graph may hold.
        self.register_buffer("centre", torch.tensor(SIGNING_SPACE_CENTRE)[:, None], persistent=False)
        self.register_buffer("is_place", torch.tensor([True, False])[:, None, None], persistent=False)
        self.register_buffer("first_axis", torch.tensor([[1.0], [0.0]]), persistent=False)

    def forward(self, poses_NTD: Tensor, lengths_N: Tensor) -> Tensor:
        """Return features (N, T, 108 or 192) for raw landmarks (N, T, 108) and real frame counts (N,).

        Sums and products of elements only, and few of them: each is a node of the exported graph, and on a
        tensor as small as these a node costs what it costs to start it. No matrix products: what keeps
        coordinates exact is then no question of an engine's precision.
        """
        x_NTL, y_NTL = poses_NTD[..., 0::2], poses_NTD[..., 1::2]
        # Neither NaN nor (0, 0): no comparison with NaN is true.
        found_NTL = (x_NTL.abs() + y_NTL.abs() > 0) & frame_mask(poses_NTD, lengths_N)[:, :, None]
        found_NT1L = found_NTL[:, :, None]
        # Coordinates before landmarks: engines are slow where an axis of 2 is the last one. Taken out by
        # steps, not transposed: ONNX Runtime 1.32 moves a transposition on to the other one and undoes both.
        points_NT2L = torch.cat((x_NTL, y_NTL), dim=2).reshape(*x_NTL.shape[:2], 2, NUM_LANDMARKS)
        # where, not a product: NaN × 0 is NaN, and padding may hold anything
        points_NT2L = torch.where(found_NT1L, points_NT2L, 0.0)
        if self.mode == "signing-space":
            weight_NT1L = found_NT1L.to(points_NT2L.dtype)
            floor_N111 = FLOOR * points_NT2L.abs().amax((1, 2, 3), keepdim=True).clamp_min(SMALLEST)
            boxed = _hands_in_their_boxes(points_NT2L[..., _HANDS], weight_NT1L[..., _HANDS], floor_N111)
            middle_N121, unit_N111 = self._signing_space(points_NT2L, weight_NT1L, floor_N111)
            placed = points_NT2L if self.hand_place else points_NT2L[..., BODY]
            placed = (placed - middle_N121) / unit_N111
            parts = [placed[..., BODY] + self.centre, boxed]
            if self.hand_place:
                parts.append(placed[..., _HANDS])
                weight_NT1L = torch.cat((weight_NT1L, weight_NT1L[..., _HANDS]), dim=3)
            points_NT2L = torch.cat(parts, dim=3) * weight_NT1L
        return points_NT2L.transpose(2, 3).flatten(2)

    def _signing_space(
        self, points_NT2L: Tensor, weight_NT1L: Tensor, floor_N111: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the middle of a clip's signing space (N, 1, 2, 1), and its unit (N, 1, 1, 1)."""
        right_NT21, left_NT21 = torch.split(points_NT2L[..., _SHOULDERS], 1, dim=3)
        both_N11T = weight_NT1L[..., _SHOULDERS].amin(3, keepdim=True).transpose(1, 3)
        middle_and_across = torch.cat(((left_NT21 + right_NT21) / 2, left_NT21 - right_NT21), dim=3)
        groups_NG2T = middle_and_across.permute(0, 3, 2, 1)
        # One iteration for both: a width stands as the point (width, 0).
        widths_NG1T = torch.linalg.vector_norm(groups_NG2T, dim=2, keepdim=True)
        groups_NG2T = torch.where(self.is_place, groups_NG2T, widths_NG1T * self.first_axis)
        place_N121, width_N121 = torch.split(_robust_centre(groups_NG2T, both_N11T), 1, dim=1)

        # A clip that never shows both shoulders: the middle and spread of whatever it shows.
        count_N111 = weight_NT1L.sum((1, 3), keepdim=True).clamp_min(1.0)
        mean_N121 = points_NT2L.sum((1, 3), keepdim=True) / count_N111
        offsets = (points_NT2L - mean_N121) * weight_NT1L
        # Once more from there: engines sum in different orders, and a still clip is made of what that leaves.
        mean_N121 = mean_N121 + offsets.sum((1, 3), keepdim=True) / count_N111
        spread_N111 = torch.linalg.vector_norm(offsets, dim=(1, 2, 3), keepdim=True) / count_N111.sqrt()
        seen_N111 = both_N11T.amax(3, keepdim=True) > 0
        middle_N121 = torch.where(seen_N111, place_N121, mean_N121)
        width_N111 = torch.where(seen_N111, width_N121[:, :, :1], 2 * spread_N111)

        unit_N111 = torch.maximum(width_N111, floor_N111) * (SIGNING_SPACE_SPAN / SIGNING_SPACE_SCALE)
        return middle_N121, unit_N111


def frame_mask(poses_NTD: Tensor, lengths_N: Tensor) -> Tensor:
    """Return (N, T) bool: True for a clip's real frames, False for its padding."""
    frames_T = torch.arange(poses_NTD.shape[1], device=poses_NTD.device, dtype=lengths_N.dtype)
    return frames_T < lengths_N[:, None]


def _robust_centre(values_NGkT: Tensor, valid_N11T: Tensor) -> Tensor:
    """Return the geometric median (N, G, k, 1) over valid frames, by Weiszfeld's iteration (1937).

    Chosen over the median because it needs no sort: it exports to plain arithmetic and a masked frame
    adds an exact zero, so padding cannot change it.

    Args:
        values_NGkT: G groups of k coordinates; each group has a median of its own.
        valid_N11T: 1 or 0, floating point. Where no frame is valid, the result is an arbitrary finite number.
    """
    weight = torch.maximum(valid_N11T, 1 - valid_N11T.amax(3, keepdim=True))  # no sum of them is 0
    share = weight / weight.sum(3, keepdim=True)
    centre = (values_NGkT * share).sum(3, keepdim=True)
    softening_share = SOFTENING * share
    for _ in range(ROBUST_STEPS):
        distance = torch.linalg.vector_norm(values_NGkT - centre, dim=2, keepdim=True)
        softening = (distance * softening_share).sum(3, keepdim=True)
        pull = weight / (distance + softening).clamp_min(SMALLEST)
        centre = (values_NGkT * pull).sum(3, keepdim=True) / pull.sum(3, keepdim=True)
    return centre


def _hands_in_their_boxes(points_NT2L: Tensor, weight_NT1L: Tensor, floor_N111: Tensor) -> Tensor:
    """Return each hand's points relative to the middle of its box, in units of the longer side: -0.5..0.5.

    Points that were not found become arbitrary finite numbers.

    Args:
        points_NT2L: points of the left hand, then of the right hand.
        weight_NT1L: 1 for a point that was found, else 0.
        floor_N111: lower bound of a box's side.
    """
    points, weight = (x.reshape(*x.shape[:3], 2, -1) for x in (points_NT2L, weight_NT1L))
    away = (1 - weight) * (torch.finfo(points.dtype).max / 4)  # twice of it is still finite
    low, high = (points + away).amin(4, keepdim=True), (points - away).amax(4, keepdim=True)
    side = torch.maximum((high - low).amax(2, keepdim=True), floor_N111[..., None])
    boxed: Tensor = (points - (low + high) / 2) / side
    return boxed.flatten(3)
