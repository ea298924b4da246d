"""The 54 landmarks: their names and order, where they come from, and the checks on one clip.

Order (SPOTER, Boháček & Hrúz 2022): 12 body points, 21 left-hand points, 21 right-hand points; hands in
MediaPipe Hands order. "Left" and "right" are the signer's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import InputError

Float32Array = npt.NDArray[np.float32]

BODY_NAMES: Final = (
    "nose",
    "neck",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
    "right_shoulder",
    "left_shoulder",
    "right_elbow",
    "left_elbow",
    "right_wrist",
    "left_wrist",
)
HAND_NAMES: Final = (
    "wrist",
    *(f"{finger}_{joint}" for finger in ("thumb",) for joint in ("cmc", "mcp", "ip", "tip")),
    *(
        f"{finger}_{joint}"
        for finger in ("index", "middle", "ring", "little")
        for joint in ("mcp", "pip", "dip", "tip")
    ),
)
LANDMARK_NAMES: Final = (
    *BODY_NAMES,
    *(f"left_hand_{name}" for name in HAND_NAMES),
    *(f"right_hand_{name}" for name in HAND_NAMES),
)
NUM_LANDMARKS: Final = 54
NUM_FEATURES: Final = 2 * NUM_LANDMARKS  # x0 y0 x1 y1 …

BODY: Final = slice(0, 12)
LEFT_HAND: Final = slice(12, 33)
RIGHT_HAND: Final = slice(33, 54)
RIGHT_SHOULDER: Final = 6
LEFT_SHOULDER: Final = 7

# Landmark i of a mirrored signer is landmark MIRRORED[i] of the original one.
MIRRORED: Final = (
    *(0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10),
    *range(33, 54),
    *range(12, 33),
)

# MediaPipe Pose indices whose mean is each body point; the neck is between the shoulders.
MEDIAPIPE_POSE: Final[tuple[tuple[int, ...], ...]] = (
    *((0,), (11, 12), (5,), (2,), (8,), (7,), (12,), (11,), (14,), (13,), (16,), (15,)),
)

# The two hand topologies' bones, for drawing: pairs of landmark indices.
_FINGERS: Final = tuple((0, *range(1 + 4 * f, 5 + 4 * f)) for f in range(5))
_HAND_BONES: Final = tuple(bone for f in _FINGERS for bone in pairwise(f))
BONES: Final = (
    *((0, 1), (0, 2), (0, 3), (2, 4), (3, 5), (6, 7), (6, 8), (8, 10), (7, 9), (9, 11)),
    *((12 + a, 12 + b) for a, b in _HAND_BONES),
    *((33 + a, 33 + b) for a, b in _HAND_BONES),
)

# Image coordinates are about 0..1 and pixels a few thousand; far beyond that float32 sums lose digits.
COORDINATE_LIMIT: Final = 1e4


def landmarks_from_mediapipe(
    pose_TPD: npt.NDArray[Any] | None,
    left_hand_THD: npt.NDArray[Any] | None,
    right_hand_THD: npt.NDArray[Any] | None,
) -> Float32Array:
    """Return one clip (frames, 54, 2) float32 from MediaPipe pose and hand landmarks.

    Args:
        pose_TPD: (frames, 33, 2 or more) x, y first; further columns (z, visibility) are ignored.
            None where there was no pose at all.
        left_hand_THD: (frames, 21, 2 or more), the signer's left hand; None where there was none.
        right_hand_THD: the same for the right hand.

    Returns:
        x, y in the coordinates that came in; NaN where x or y is NaN or both are 0 (not detected).

    Raises:
        InputError: nothing given, a wrong number of points, or parts of different lengths.
    """
    parts = {
        name: array_from(part, f"{name} landmarks")
        for name, part in (("pose", pose_TPD), ("left hand", left_hand_THD), ("right hand", right_hand_THD))
        if part is not None
    }
    if not parts:
        raise InputError("no landmarks: pose, left hand and right hand are all None")
    for name, part in parts.items():
        points = 33 if name == "pose" else 21
        if part.ndim != 3 or part.shape[1] != points or part.shape[2] < 2:
            raise InputError(f"{name} landmarks: expected (frames, {points}, 2 or more), got {part.shape}")
        if part.dtype.kind not in "fiu":
            raise InputError(
                f"{name} landmarks: expected numbers, got dtype {part.dtype}",
                fix="numpy.asarray(landmarks, 'float32'); None becomes NaN, not detected",
            )
    lengths = {name: len(part) for name, part in parts.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"parts of one clip have different numbers of frames: {lengths}")
    clip_TLD = np.full((next(iter(lengths.values())), NUM_LANDMARKS, 2), np.nan, np.float32)
    if "pose" in parts:
        pose = np.where(_missing(parts["pose"][..., :2])[..., None], np.nan, parts["pose"][..., :2])
        for landmark, sources in enumerate(MEDIAPIPE_POSE):
            clip_TLD[:, landmark] = pose[:, list(sources)].mean(axis=1)
    if "left hand" in parts:
        clip_TLD[:, LEFT_HAND] = parts["left hand"][..., :2]
    if "right hand" in parts:
        clip_TLD[:, RIGHT_HAND] = parts["right hand"][..., :2]
    clip_TLD[_missing(clip_TLD)] = np.nan
    return clip_TLD


def _missing(points: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return a mask of the points that were not detected: NaN in x or y, or exactly (0, 0)."""
    return np.asarray(np.isnan(points).any(axis=-1) | (points == 0).all(axis=-1))


def _any_detected(points: npt.NDArray[Any]) -> bool:
    """Return `detected(points).any()` in fewer operations, for points that are finite or NaN."""
    sizes = np.abs(points)
    # fmax ignores NaN, which a missing x or y leaves; fmax of all-NaN is NaN, and NaN compares false.
    return float(np.fmax.reduce(sizes[..., 0] + sizes[..., 1], axis=None)) > 0


def detected(clip_TLD: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return a mask of the detected landmarks; the input's last axis is (x, y)."""
    return ~_missing(clip_TLD)


def check_clip(clip: Any, *, max_frames: int, where: str = "clip", allow_empty: bool = False) -> Float32Array:
    """Check a clip and return it as contiguous float32 (frames, 54, 2).

    Args:
        clip: array-like (frames, 54, 2) or (frames, 108), any float type; NaN or (0, 0) = not detected.
        max_frames: the most frames the model takes.
        where: how the message names this clip.
        allow_empty: accept a clip in which no landmark is detected at all.

    Raises:
        InputError: wrong rank, shape or type, no frames, too many, an infinity, a coordinate beyond
            `COORDINATE_LIMIT`, or (unless `allow_empty`) nothing detected in any frame.
    """
    array = array_from(clip, where)
    if array.dtype.kind != "f":
        from spoter_runtime.input_fixes import fix_of_dtype  # not at the top: no good clip needs it

        raise InputError(
            f"{where}: expected floating-point landmarks, got dtype {array.dtype}",
            fix=f"{fix_of_dtype(array, clip)}",
        )
    if array.ndim == 3 and array.shape[1] == NUM_LANDMARKS and array.shape[2] != 2:
        raise InputError(
            f"{where}: expected {NUM_LANDMARKS}×2 values a frame, got {NUM_LANDMARKS}×{array.shape[2]}",
            fix="keep x and y only: landmarks[..., :2]",
        )
    if array.ndim == 2 and array.shape[1] == NUM_FEATURES:
        array = array.reshape(len(array), NUM_LANDMARKS, 2)
    if array.ndim != 3 or array.shape[1:] != (NUM_LANDMARKS, 2):
        raise InputError(
            f"{where}: expected (frames, {NUM_LANDMARKS}, 2) or (frames, {NUM_FEATURES}), got {array.shape}",
            fix="numpy.stack(frames), where each frame is (54, 2); landmarks_from_mediapipe makes such clips",
        )
    if len(array) == 0:
        raise InputError(f"{where}: 0 frames, the model takes 1..{max_frames}")
    if len(array) > max_frames:
        raise InputError(
            f"{where}: {len(array)} frames, the model takes 1..{max_frames}",
            fix="cut the clip, or "
            "resample it: Recognizer.load(bundle, long='resample'), spoter-kit predict --long resample",
        )
    check_coordinates(array, where=where)
    # The first frame settles most clips; checking all frames takes as long as the other checks together.
    if not allow_empty and not _any_detected(array[0]) and not _any_detected(array):
        raise InputError(
            f"{where}: no landmark is detected in any of its {len(array)} frames, so there is "
            "nothing to recognise"
        )
    return np.ascontiguousarray(array, np.float32)


def array_from(values: Any, where: str) -> npt.NDArray[Any]:
    """Return `np.asarray(values)`.

    Raises:
        InputError: numpy cannot convert the values, or they are masked.
    """
    if type(values) is np.ndarray:
        return values
    from spoter_runtime.input_fixes import fix_of_values, is_masked  # not at the top: few need it

    if any(map(is_masked, values if isinstance(values, list | tuple) else (values,))):
        raise InputError(f"{where}: has masked values", fix=f"{fix_of_values(values)}")
    try:
        return np.asarray(values)
    except MemoryError:
        raise
    except Exception as error:  # each library's tensors raise errors of their own
        uneven = isinstance(error, ValueError) and isinstance(values, list | tuple)
        what = "rows of different sizes do" if uneven else f"a {type(values).__name__} does"
        raise InputError(
            f"{where}: {what} not make an array: {error}", fix=f"{fix_of_values(values)}"
        ) from error


def check_coordinates(points: npt.NDArray[Any], *, where: str) -> None:
    """Raise for an infinity or a coordinate beyond `COORDINATE_LIMIT`; NaN passes (not detected).

    Raises:
        InputError: names the first bad value and its index.
    """
    # fmax ignores NaN, and all-NaN compares false. As a Python number: in float16 the limit itself would be
    # infinity.
    if points.size and float(np.fmax.reduce(np.abs(points), axis=None)) > COORDINATE_LIMIT:
        with np.errstate(invalid="ignore"):
            bad = np.abs(points) > np.float32(COORDINATE_LIMIT)
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{where}: value {points[index]} at index {index}; coordinates are finite and at most "
            f"{COORDINATE_LIMIT:g}",
            fix="use NaN where a landmark was not detected",
        )


def resample_clip(clip_TLD: Float32Array, frames: int) -> Float32Array:
    """Return the clip with `frames` frames, each a copy of the nearest original one.

    Not linear: interpolating between a detected and a missing landmark would invent a position.
    """
    positions = (np.arange(frames) + 0.5) * len(clip_TLD) / frames
    return np.ascontiguousarray(clip_TLD[np.minimum(positions.astype(int), len(clip_TLD) - 1)])
