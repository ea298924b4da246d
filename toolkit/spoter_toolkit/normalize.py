"""Landmark normalisation as a module: trained with the model, exported with it, written once.

Shapes: N clips, T frames, L landmarks.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spoter_runtime.landmarks import (
    BODY,
    LEFT_HAND,
    LEFT_SHOULDER,
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
        # Coordinates before landmarks: engines are slow where an axis of 2 is the last one. Taken out by
        # steps, not transposed: ONNX Runtime 1.32 moves a transposition on to the other one and undoes both.
        points_NT2L = torch.stack((poses_NTD[..., 0::2], poses_NTD[..., 1::2]), dim=2)
        # Neither NaN nor (0, 0): no comparison with NaN is true.
        found_NT1L = points_NT2L.abs().sum(2, keepdim=True) > 0
        found_NT1L = found_NT1L & frame_mask(poses_NTD, lengths_N)[:, :, None, None]
        # where, not a product: NaN × 0 is NaN, and padding may hold anything
        points_NT2L = torch.where(found_NT1L, points_NT2L, 0.0)
        if self.mode == "signing-space":
            floor_N111 = FLOOR * points_NT2L.abs().amax((1, 2, 3), keepdim=True).clamp_min(SMALLEST)
            body = _body_in_signing_space(points_NT2L, found_NT1L, floor_N111, self.centre)
            hands = _hands_in_their_boxes(points_NT2L, found_NT1L, floor_N111)
            points_NT2L = torch.cat((body, hands), dim=3)
        return points_NT2L.transpose(2, 3).flatten(2)


def frame_mask(poses_NTD: Tensor, lengths_N: Tensor) -> Tensor:
    """Return (N, T) bool: True for a clip's real frames, False for its padding."""
    frames_T = torch.arange(poses_NTD.shape[1], device=poses_NTD.device, dtype=lengths_N.dtype)
    return frames_T < lengths_N[:, None]


def _body_in_signing_space(
    points_NT2L: Tensor, found_NT1L: Tensor, floor_N111: Tensor, centre_2: Tensor
) -> Tensor:
    shoulders = (RIGHT_SHOULDER, LEFT_SHOULDER)
    right_N2T, left_N2T = (points_NT2L[..., shoulder].transpose(1, 2) for shoulder in shoulders)
    both_N1T = (found_NT1L[..., RIGHT_SHOULDER] & found_NT1L[..., LEFT_SHOULDER]).transpose(1, 2)
    middle_N2T = (right_N2T + left_N2T) / 2
    width_N1T = torch.linalg.vector_norm(right_N2T - left_N2T, dim=1, keepdim=True)
    # One iteration for both; the width is a point with one coordinate.
    groups_NG2T = torch.stack((middle_N2T, F.pad(width_N1T, (0, 0, 0, 1))), dim=1)
    centre_NG21 = _robust_centre(groups_NG2T, both_N1T[:, None])
    middle_N12, width_N11 = centre_NG21[:, :1, :, 0], centre_NG21[:, 1:, :1, 0]

    # A clip that never shows both shoulders: the middle and spread of whatever it shows.
    weight = found_NT1L.to(points_NT2L.dtype)
    count_N111 = weight.sum((1, 3), keepdim=True).clamp_min(1.0)
    mean_N121 = points_NT2L.sum((1, 3), keepdim=True) / count_N111
    offsets = (points_NT2L - mean_N121) * weight
    # Once more from there: engines sum in different orders, and a still clip is made of what that leaves.
    mean_N121 = mean_N121 + offsets.sum((1, 3), keepdim=True) / count_N111
    spread_N111 = (offsets.square().sum((1, 2, 3), keepdim=True) / count_N111).sqrt()
    seen_N111 = both_N1T.any(2, keepdim=True)[..., None]
    middle_N121 = torch.where(seen_N111, middle_N12[..., None], mean_N121)
    width_N111 = torch.where(seen_N111, width_N11[..., None], 2 * spread_N111)

    scale_N111 = SIGNING_SPACE_SCALE / (SIGNING_SPACE_SPAN * torch.maximum(width_N111, floor_N111))
    body = (points_NT2L[..., BODY] - middle_N121) * scale_N111 + centre_2[:, None]
    return torch.where(found_NT1L[..., BODY], body, 0.0)


def _robust_centre(values_NGkT: Tensor, valid_N11T: Tensor) -> Tensor:
    """Return the geometric median (N, G, k, 1) over valid frames, by Weiszfeld's iteration (1937).

    Chosen over the median because it needs no sort: it exports to plain arithmetic and a masked frame
    adds an exact zero, so padding cannot change it.

    Args:
        values_NGkT: G groups of k coordinates; each group has a median of its own.
        valid_N11T: bool.
    """
    weight = valid_N11T.to(values_NGkT.dtype)
    count = weight.sum(3, keepdim=True).clamp_min(1.0)
    centre = (values_NGkT * weight).sum(3, keepdim=True) / count
    for _ in range(ROBUST_STEPS):
        distance = torch.linalg.vector_norm((values_NGkT - centre) * weight, dim=2, keepdim=True)
        softening = SOFTENING * distance.sum(3, keepdim=True) / count
        pull = weight / (distance + softening).clamp_min(SMALLEST)
        centre = (values_NGkT * pull).sum(3, keepdim=True) / pull.sum(3, keepdim=True).clamp_min(SMALLEST)
    return centre


def _hands_in_their_boxes(points_NT2L: Tensor, found_NT1L: Tensor, floor_N111: Tensor) -> Tensor:
    """Return each hand's points relative to the middle of its box, in units of the longer side: -0.5..0.5."""
    hands = slice(LEFT_HAND.start, RIGHT_HAND.stop)
    points, found = (x[..., hands].reshape(*x.shape[:3], 2, -1) for x in (points_NT2L, found_NT1L))
    far = torch.finfo(points.dtype).max
    low = torch.where(found, points, far).amin(4, keepdim=True)
    high = torch.where(found, points, -far).amax(4, keepdim=True)
    middle = low / 2 + high / 2  # halves first: where no point was found the sum would overflow
    side = torch.maximum((high - low).amax(2, keepdim=True), floor_N111[..., None])
    return torch.where(found, (points - middle) / side, 0.0).flatten(3)
