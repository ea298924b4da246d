"""The C library spoter-runtime-c: where it lies, its structures, and its functions with their types."""

from __future__ import annotations

import ctypes
import importlib
import os
from pathlib import Path
from typing import Any, Final

from spoter_runtime.camera.files import GRAPHS
from spoter_runtime.errors import (
    BackendError,
    BundleError,
    ConfigError,
    InputError,
    MissingExtraError,
    NotFiniteError,
    SpoterError,
)
from spoter_runtime.ort.installed import import_onnxruntime

LIBRARY: Final = "SPOTER_C_LIBRARY"  # names the library, instead of the installed wheel's

# By spoter_status of spoter.h.
_ERRORS: Final = {
    **{1: InputError, 2: BundleError, 3: BackendError, 4: NotFiniteError, 5: MissingExtraError},
    8: ConfigError,
}


class COptions(ctypes.Structure):
    """`spoter_options` of spoter.h."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("onnxruntime", ctypes.c_char_p),
        ("backend", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("threads", ctypes.c_int),
        ("resample", ctypes.c_int),
    )


class CLabel(ctypes.Structure):
    """`spoter_label` of spoter.h."""

    _fields_ = tuple((name, ctypes.c_char_p) for name in ("name", "gloss", "bengali", "romanised"))


class CClip(ctypes.Structure):
    """`spoter_clip` of spoter.h."""

    _fields_ = (("landmarks", ctypes.c_void_p), ("frames", ctypes.c_size_t), ("name", ctypes.c_char_p))


class CPrediction(ctypes.Structure):
    """`spoter_prediction` of spoter.h."""

    _fields_ = (
        ("label", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("score", ctypes.c_double),
        ("probability", ctypes.c_double),
        ("is_sign", ctypes.c_int),
        ("latency_ms", ctypes.c_double),
        ("reason", ctypes.c_char * 256),
    )


class CReplay(ctypes.Structure):
    """`spoter_replay` of spoter.h."""

    _fields_ = (
        ("passed", ctypes.c_int),
        ("files", ctypes.c_size_t),
        ("clips", ctypes.c_size_t),
        ("labels_agree", ctypes.c_size_t),
        ("max_logit_diff", ctypes.c_double),
        ("tolerance", ctypes.c_double),
    )


class CLandmarkerReplay(ctypes.Structure):
    """`spoter_landmarker_replay` of spoter.h."""

    _fields_ = (
        ("passed", ctypes.c_int),
        *((name, ctypes.c_double) for name in (*GRAPHS, "tolerance")),
    )


class CEvent(ctypes.Structure):
    """`spoter_event` of spoter.h."""

    _fields_ = (
        ("type", ctypes.c_char_p),
        *((name, ctypes.c_double) for name in ("t_ms", "start_ms", "end_ms", "score", "probability")),
        *((name, ctypes.c_char_p) for name in ("label", "code", "reason", "json")),
    )


def options_of(backend: str | None, precision: str, threads: int, *, resample: bool = False) -> COptions:
    """Return the library's options, with the installed ONNX Runtime."""
    name = None if backend is None else backend.encode()
    engine = os.fsencode(onnxruntime_library())
    return COptions(ctypes.sizeof(COptions), engine, name, precision.encode(), threads, int(resample))


def onnxruntime_library() -> Path:
    """Return the shared library of the installed ONNX Runtime.

    Raises:
        MissingExtraError: none is installed, or the package has no library of its own.
    """
    folder = Path(import_onnxruntime().__file__).parent / "capi"
    found = sorted(folder.glob("libonnxruntime.so.*"))
    if not found:
        raise MissingExtraError(f"{folder}: has no libonnxruntime.so", fix="pip install 'onnxruntime>=1.25'")
    return found[-1]


def library_path() -> Path:
    """Return the C library: that of the wheel spoter-runtime-c, or the one that `LIBRARY` names.

    Raises:
        MissingExtraError: it is not installed.
    """
    if path := os.environ.get(LIBRARY):
        return Path(path)
    try:
        found: Path = importlib.import_module("spoter_runtime_c").library()
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "the C library is not installed", fix="pip install ./runtime/cpp, in a clone of spoter-kit"
        ) from error
    return found


def load_library() -> Any:
    """Return the C library, with the types of its functions.

    Raises:
        MissingExtraError: it is not installed.
        BackendError: it cannot be loaded.
    """
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(f"{path}: cannot be loaded: {error}") from error
    size, text, pointer = ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p
    for name in ("version", "error_message", "error_fix", "landmarker_sha256"):
        getattr(library, f"spoter_{name}").restype = text
    for name in ("backend", "file", "onnxruntime"):
        function = getattr(library, f"spoter_recognizer_{name}")
        function.restype, function.argtypes = text, [pointer]
    for name in ("max_frames", "max_batch", "label_count"):
        function = getattr(library, f"spoter_recognizer_{name}")
        function.restype, function.argtypes = size, [pointer]
    library.spoter_recognizer_label.restype = CLabel
    library.spoter_recognizer_label.argtypes = [pointer, size]
    library.spoter_recognizer_destroy.argtypes = [pointer]
    library.spoter_infer.argtypes = [pointer, pointer, pointer, size, size, pointer]
    library.spoter_predict_many.argtypes = [pointer, pointer, size, pointer, pointer]
    library.spoter_stream_create.argtypes = [pointer, text, text, pointer]
    library.spoter_stream_accept_landmarks.argtypes = [pointer, pointer, ctypes.c_double, size, ctypes.c_int]
    library.spoter_stream_push.argtypes = [pointer, ctypes.c_int]
    library.spoter_stream_next_event.argtypes = [pointer, pointer]
    library.spoter_landmarker_accept.argtypes = [
        *(pointer, pointer, size, size, size),
        *(ctypes.c_double, pointer),
    ]
    for name in ("stream_reset", "stream_flush", "stream_destroy", "landmarker_reset", "landmarker_destroy"):
        getattr(library, f"spoter_{name}").argtypes = [pointer]
    for name in ("sha256", "persons"):
        getattr(library, f"spoter_landmarker_{name}").argtypes = [pointer]
    return library


def check(library: Any, status: int) -> None:
    """Raise the error of a status, with the library's words.

    Raises:
        SpoterError: by the status.
    """
    if status == 0:
        return
    message, fix = (
        text.decode(errors="replace") for text in (library.spoter_error_message(), library.spoter_error_fix())
    )
    raise _ERRORS.get(status, SpoterError)(message, fix=fix)
