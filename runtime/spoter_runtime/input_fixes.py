"""What to do about a clip that is not an array of floats: a fix to paste for each kind that people have."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_FLOATS = "numpy.asarray(landmarks, 'float32')"
_ALIKE = (
    "give each frame as many numbers as the others, NaN where a landmark was not detected; "
    "landmarks_from_mediapipe(pose, left_hand, right_hand) does so"
)


def fix_of_values(values: Any) -> str:
    """Return the fix for what numpy makes no array of, or not the one that was meant."""
    parts = values if isinstance(values, list | tuple) else (values,)
    each = "[{} for frame in landmarks]" if parts is values else "{}"
    one = "frame" if parts is values else "landmarks"
    if any(hasattr(part, "detach") for part in parts):  # torch: with a gradient, elsewhere, in bfloat16
        return each.format(f"{one}.detach().cpu().float().numpy()")
    if any(is_masked(part) for part in parts):
        return each.format(f"{one}.astype('float32').filled(numpy.nan)")
    if any(hasattr(part, "get") and hasattr(part, "device") for part in parts):  # CuPy
        return each.format(f"{one}.get()")
    if any(part is None for part in parts):
        return "[numpy.full((54, 2), numpy.nan) if frame is None else frame for frame in landmarks]"
    return _ALIKE if parts is values else _FLOATS


def fix_of_dtype(array: npt.NDArray[Any], values: Any) -> str:
    """Return the fix for an array of something else than floats, and what it was made of."""
    if array.dtype.kind == "c":
        return "landmarks.real.astype('float32')"
    if array.dtype.kind in "SU" and array.ndim == 0:
        return "numpy.load(path), where it names a file: this takes its landmarks"
    if array.dtype.kind != "O":
        return f"{_FLOATS}, with NaN or (0, 0) where a landmark was not detected"
    if array.ndim == 0:
        return "list(landmarks), of the frames" if hasattr(values, "__iter__") else _ALIKE
    if array.ndim == 1:
        return fix_of_values(list(array))
    return f"{_FLOATS}; None becomes NaN, which is a landmark that was not detected"


def is_masked(values: Any) -> bool:
    """Tell whether a numpy array has masked values, which numpy would take for landmarks like the others."""
    return isinstance(values, np.ndarray) and bool(np.any(getattr(values, "mask", False)))
