"""Draw a clip as a skeleton for a page: some of its frames side by side, or moving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from spoter_runtime.landmarks import BODY, BONES, LEFT_HAND, RIGHT_HAND, Float32Array, detected

SIDE: Final = 200  # of one frame, in the drawing's own units
_MARGIN: Final = 8
_STILL_FRAMES: Final = 8
_MOVING_FRAMES: Final = 40  # of any clip: page.html.j2 shows each for 2.5 % of the time
_FACE: Final = range(2, 6)  # eyes and ears: a circle stands for the head
_NOSE, _NECK = 0, 1
_HEAD: Final = 0.45  # radius of the head, in distances from nose to neck
_PARTS: Final = {"body": BODY, "left": LEFT_HAND, "right": RIGHT_HAND}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame: an SVG path for each part that is seen, and a circle (x, y, radius) for the head."""

    paths: dict[str, str]
    head: tuple[float, float, float] | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A clip as a skeleton.

    Attributes:
        moving: the frames follow one another; else they stand side by side.
        seconds: one pass of a moving clip.
        alt: the clip in words.
    """

    kind: ClassVar = "skeleton"
    caption: str
    alt: str
    frames: Sequence[Frame]
    moving: bool
    seconds: float

    @property
    def side(self) -> int:
        """Width and height of a frame, in the drawing's own units."""
        return SIDE


def skeleton_of(
    poses_TLD: Float32Array, *, caption: str, alt: str, fps: float | None = None, moving: bool = False
) -> Skeleton:
    """Return a clip's skeleton.

    Args:
        poses_TLD: (frames, 54, 2) image coordinates, y down; landmarks not detected are not drawn.
        caption: below the drawing.
        alt: the clip in words, for people who cannot see it.
        fps: frames a second; None takes 30.
        moving: see `Skeleton`.
    """
    count = len(poses_TLD)
    wanted = np.linspace(0, count - 1, _MOVING_FRAMES if moving else _STILL_FRAMES).round().astype(int)
    chosen = wanted if moving else np.unique(wanted)
    points_TLD = _fitted(poses_TLD)
    frames = [_frame(points_TLD[t], f"{t / (fps or 30.0):.1f} s") for t in chosen]
    seconds = count / (fps or 30.0)
    return Skeleton(caption=caption, alt=alt, frames=frames, moving=moving, seconds=round(seconds, 2))


def _fitted(poses_TLD: Float32Array) -> Float32Array:
    """Return the clip in the drawing's units, the same for all frames; NaN where not detected."""
    points_TLD = np.where(detected(poses_TLD)[..., None], poses_TLD, np.nan)
    if np.isnan(points_TLD).all():
        return points_TLD
    low, high = np.nanmin(points_TLD, axis=(0, 1)), np.nanmax(points_TLD, axis=(0, 1))
    necks_T = np.linalg.norm(points_TLD[:, _NOSE] - points_TLD[:, _NECK], axis=-1)
    low = low - (0.0, _HEAD * np.nanmax(necks_T, initial=0.0))  # the head is a circle around the nose
    scale = (SIDE - 2 * _MARGIN) / max(*(high - low), 1e-6)
    return np.asarray((points_TLD - (low + high) / 2) * scale + SIDE / 2, np.float32)


def _frame(points_LD: Float32Array, text: str) -> Frame:
    paths = {}
    for name, part in _PARTS.items():
        bones = [(a, b) for a, b in BONES if part.start <= a < part.stop and not {a, b} & set(_FACE)]
        seen = [bone for bone in bones if not np.isnan(points_LD[list(bone)]).any()]
        if seen:
            paths[name] = "".join(f"M{_point(points_LD[a])}L{_point(points_LD[b])}" for a, b in seen)
    head = None
    if not np.isnan(points_LD[[_NOSE, _NECK]]).any():
        x, y = points_LD[_NOSE]
        head = (
            round(float(x)),
            round(float(y)),
            round(_HEAD * float(np.linalg.norm(points_LD[_NOSE] - points_LD[_NECK]))),
        )
    return Frame(paths=paths, head=head, text=text if paths else f"{text}, nothing seen")


def _point(point_D: Float32Array) -> str:
    return f"{point_D[0]:.0f} {point_D[1]:.0f}"
