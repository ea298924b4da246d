"""The frames of the last seconds, what each shows, and segments of them at the model's frame rate."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from spoter_runtime.landmarks import (
    LEFT_HAND,
    LEFT_SHOULDER,
    RIGHT_HAND,
    RIGHT_SHOULDER,
    Float32Array,
    detected,
)

MOST_FPS: Final = 125.0  # frames that come faster are left out: what is kept is bounded
_SPEED_MS: Final = 80.0  # a speed is measured over at least so long
_NEAR: Final = 1e-3  # share of the time between two frames that counts as none
_BRIDGED_MS: Final = 250.0  # points are interpolated over at most so long
# Right and left: the elbow-side wrist of the body, and the wrist of the hand.
_WRISTS: Final = ((10, RIGHT_HAND.start), (11, LEFT_HAND.start))


class Seen(NamedTuple):
    """What one frame shows, in shoulder widths.

    Attributes:
        height: of the higher wrist below the shoulders (0: at the shoulders, 2: hanging down); NaN: unknown.
        speed: of the faster wrist, shoulder widths a second; NaN: unknown.
    """

    t_ms: float
    height: float
    speed: float
    body: bool
    left_hand: bool
    right_hand: bool


class Frames:
    """Keeps the landmarks of the last `keep_ms`."""

    def __init__(self, keep_ms: float) -> None:
        self._keep_ms = keep_ms
        self.times: deque[float] = deque()
        self._poses: deque[Float32Array] = deque()
        self._wrists: deque[Float32Array] = deque()  # of the last moment, (2, 2) in shoulder widths
        self._wrist_times: deque[float] = deque()

    def add(self, t_ms: float, pose_LD: Float32Array) -> Seen:
        """Keep a frame, forget those that are too old, and return what it shows."""
        self.times.append(t_ms)
        self._poses.append(pose_LD)
        while self.times[0] < t_ms - self._keep_ms:
            self.times.popleft()
            self._poses.popleft()
        wrists = _wrists_of(pose_LD)
        heights = wrists[:, 1]
        known = not np.isnan(heights).all()
        return Seen(
            t_ms=t_ms,
            height=float(np.nanmin(heights)) if known else math.nan,
            speed=self._speed(t_ms, wrists),
            body=bool(np.isfinite(pose_LD[[LEFT_SHOULDER, RIGHT_SHOULDER]]).all()),
            left_hand=bool(np.isfinite(pose_LD[LEFT_HAND]).all(1).any()),
            right_hand=bool(np.isfinite(pose_LD[RIGHT_HAND]).all(1).any()),
        )

    def _speed(self, t_ms: float, wrists: Float32Array) -> float:
        self._wrist_times.append(t_ms)
        self._wrists.append(wrists)
        while len(self._wrist_times) > 2 and self._wrist_times[1] <= t_ms - _SPEED_MS:
            self._wrist_times.popleft()
            self._wrists.popleft()
        elapsed_s = (t_ms - self._wrist_times[0]) / 1000
        moved = np.hypot(*(wrists - self._wrists[0]).T)
        return float(np.nanmax(moved)) / elapsed_s if elapsed_s and not np.isnan(moved).all() else math.nan

    def cut(self, start_ms: float, end_ms: float, fps: float) -> Float32Array:
        """Return the segment (frames, 54, 2) at `fps`; see `resample_segment`."""
        times = list(self.times)
        return resample_segment(times, list(self._poses), start_ms, end_ms, fps)


def with_nan(pose_LD: npt.NDArray[Any]) -> Float32Array:
    """Return a float32 copy with NaN for each point that was not detected: (0, 0), or NaN in x or y."""
    pose = np.array(pose_LD, np.float32)
    pose[~detected(pose)] = np.nan
    return pose


def resample_segment(
    times_ms: Sequence[float], poses: Sequence[Float32Array], start_ms: float, end_ms: float, fps: float
) -> Float32Array:
    """Return the frames of a segment, both ends included, at another frame rate.

    A frame whose time fits is taken as it is. Between two frames a point that both have is interpolated;
    another point comes from the nearer frame: a position between found and not found would be invented.

    Args:
        times_ms: growing; of `poses`.
        poses: (54, 2) each, NaN where not detected; see `with_nan`.
        start_ms: the first frame's time.
        end_ms: the last frame is not later.
        fps: of the result.
    """
    step_ms = 1000 / fps
    wanted = start_ms + step_ms * np.arange(math.floor((end_ms - start_ms) / step_ms + _NEAR) + 1)
    times = np.asarray(times_ms, np.float64)
    after = np.clip(np.searchsorted(times, wanted - _NEAR * step_ms), 0, len(times) - 1)
    clip = np.empty((len(wanted), *poses[0].shape), np.float32)
    for n, (t_ms, right) in enumerate(zip(wanted.tolist(), after.tolist(), strict=True)):
        left = max(right - 1, 0)
        gap = times[right] - times[left]
        share = min(max((t_ms - times[left]) / gap, 0.0), 1.0) if gap else 1.0
        nearer = poses[right] if share >= 0.5 else poses[left]
        if min(share, 1 - share) * gap <= _NEAR * step_ms or gap > _BRIDGED_MS:
            clip[n] = nearer
        else:
            between = poses[left] + np.float32(share) * (poses[right] - poses[left])
            clip[n] = np.where(np.isfinite(between), between, nearer)
    return clip


def _wrists_of(pose_LD: Float32Array) -> Float32Array:
    """Return both wrists relative to the middle of the shoulders, in shoulder widths; NaN: not known."""
    right, left = pose_LD[RIGHT_SHOULDER], pose_LD[LEFT_SHOULDER]
    width = float(np.hypot(*(left - right)))
    if not width > 0:
        return np.full((2, 2), np.nan, np.float32)
    found = np.stack(
        [pose_LD[hand] if pose_LD[hand, 0] == pose_LD[hand, 0] else pose_LD[body] for body, hand in _WRISTS]
    )
    wrists: Float32Array = (found - (left + right) / 2) / np.float32(width)
    return wrists
