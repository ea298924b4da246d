"""Fixes to paste for a clip that is not an array of floats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

_FLOATS = "numpy.asarray(landmarks, 'float32')"
_MADE = "landmarks_from_mediapipe(pose, left_hand, right_hand)"
_CLIP = f"give the landmarks of a clip, (frames, 54, 2) floats, as {_MADE} returns them"
_ALIKE = (
    f"give each frame as many numbers as the others, NaN where a landmark was not detected; {_MADE} does so"
)


def fix_of_values(values: Any) -> str:
    """Return the fix for values that numpy cannot convert, or converts wrongly."""
    parts = values if isinstance(values, list | tuple) else (values,)
    each = "[{} for frame in landmarks]" if parts is values else "{}"
    one = "frame" if parts is values else "landmarks"
    if tensors := [part for part in parts if hasattr(part, "detach")]:
        calls = _torch_calls(tensors[0])
        return each.format(f"{one}{calls}") if calls else _CLIP
    if masked := [part for part in parts if is_masked(part)]:
        return each.format(f"{one}.astype('float32').filled(numpy.nan)") if masked[0].ndim else _CLIP
    if any(hasattr(part, "get") and hasattr(part, "device") for part in parts):  # CuPy
        return each.format(f"{one}.get()")
    if parts is values and any(part is None for part in parts):
        return "[numpy.full((54, 2), numpy.nan) if frame is None else frame for frame in landmarks]"
    return _ALIKE if parts is values else _CLIP


def _torch_calls(tensor: Any) -> str:
    """Return the code that converts a torch tensor to numpy; empty for a nested or meta tensor."""
    if tensor.is_nested or tensor.device.type == "meta":
        return ""
    dense = "" if str(tensor.layout) == "torch.strided" else ".to_dense()"
    plain = ".dequantize()" if tensor.is_quantized else ""
    real = ".real" if tensor.is_complex() else ""
    return f".detach(){dense}{plain}{real}.cpu().float().numpy()"


def fix_of_dtype(array: npt.NDArray[Any], values: Any) -> str:
    """Return the fix for an array that is not of floats; `values` is the user's object, before numpy."""
    if array.dtype.kind == "c":
        return "landmarks.real.astype('float32')"
    if array.dtype.kind in "SU" and array.ndim == 0:
        return "numpy.load(path), where it names a file: this takes its landmarks"
    if array.dtype.kind != "O":
        return f"{_FLOATS}, with NaN or (0, 0) where a landmark was not detected"
    if array.ndim == 0:
        content = array.item()
        frames = isinstance(content, Iterable) and not isinstance(content, dict | set | type)
        return "list(landmarks), of the frames" if frames and values is not array else _CLIP
    if array.ndim == 1:
        shapes = {part.shape if type(part) is np.ndarray else None for part in array}
        return "list(landmarks)" if len(shapes) == 1 and None not in shapes else fix_of_values(list(array))
    try:
        np.asarray(values, np.float32)
    except (TypeError, ValueError, OverflowError):
        return _CLIP
    return f"{_FLOATS}; None becomes NaN, which is a landmark that was not detected"


def is_masked(values: Any) -> bool:
    """Return True for a numpy array with masked values, whose data numpy would use as landmarks."""
    return isinstance(values, np.ndarray) and bool(np.any(getattr(values, "mask", False)))
