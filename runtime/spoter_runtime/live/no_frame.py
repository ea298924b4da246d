"""What makes a frame for a stream of an array that is none."""

from __future__ import annotations

from typing import Any, Final

import numpy.typing as npt

from spoter_runtime.errors import InputError
from spoter_runtime.landmarks import NUM_LANDMARKS

_MEDIAPIPE: Final = (21, 33, 75, 543)  # points of a hand, a pose, both hands with it, and the face too


def no_frame(array: npt.NDArray[Any]) -> InputError:
    """Return the error for an array that is no frame, with what makes one of it."""
    shape, floats = array.shape, f"({NUM_LANDMARKS}, 2) floats"
    fix = "numpy.asarray(landmarks, 'float32')"
    if array.dtype.kind not in "fiu":
        fix = "landmarks of float32, or a picture; video_frames(path) gives those of a video"
    elif len(shape) == 3:
        is_clip = shape[1:] == (NUM_LANDMARKS, 2)
        fix = "for frame in clip: stream.accept(frame, t_ms)" if is_clip else "frame.astype('uint8')"
    elif len(shape) == 2 and shape[0] in _MEDIAPIPE:
        clip = "landmarks_from_mediapipe(pose, left_hand, right_hand)"
        fix = f"for frame in {clip}: stream.accept(frame, t_ms)"
    elif len(shape) == 2 and shape[1] > 4:
        fix = "numpy.stack([frame] * 3, axis=-1)"
    got = f"got {shape} {array.dtype}"
    return InputError(f"frame: expected {floats} or a picture (height, width, 3) of uint8, {got}", fix=fix)
