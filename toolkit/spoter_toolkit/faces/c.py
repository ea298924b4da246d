"""The C face: the library spoter-runtime-c, called through ctypes as a program in C calls it."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from spoter_runtime.bundle.manifest import Artefact, Bundle
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import (
    BackendError,
    BundleError,
    ConfigError,
    InputError,
    MissingExtraError,
    NotFiniteError,
    SpoterError,
)
from spoter_runtime.landmarks import NUM_FEATURES, Float32Array
from spoter_runtime.live.events import AnyEvent
from spoter_runtime.live.settings import Gate, StreamSettings
from spoter_runtime.ort.installed import import_onnxruntime
from spoter_runtime.runner import Int32Array
from spoter_toolkit.faces.face import Face

LIBRARY: Final = "SPOTER_C_LIBRARY"  # names the library, instead of the installed wheel's

# By spoter_status of spoter.h.
_ERRORS: Final = {
    **{1: InputError, 2: BundleError, 3: BackendError, 4: NotFiniteError, 5: MissingExtraError},
    8: ConfigError,
}
_EVENTS: Final = {kind.type: kind for kind in get_args(AnyEvent)}


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("onnxruntime", ctypes.c_char_p),
        ("backend", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("threads", ctypes.c_int),
        ("resample", ctypes.c_int),
    )


class _Label(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_char_p) for name in ("name", "gloss", "bengali", "romanised"))


class _Clip(ctypes.Structure):
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


class CEvent(ctypes.Structure):
    """`spoter_event` of spoter.h."""

    _fields_ = (
        ("type", ctypes.c_char_p),
        *((name, ctypes.c_double) for name in ("t_ms", "start_ms", "end_ms", "score", "probability")),
        *((name, ctypes.c_char_p) for name in ("label", "code", "reason", "json")),
    )


class CRecognizer:
    """A recogniser of the C library; its errors are those of the runtime, with the library's words."""

    def __init__(
        self,
        path: Path,
        *,
        backend: str | None = None,
        precision: str = "fp32",
        threads: int = 0,
        resample: bool = False,
    ) -> None:
        """Open a bundle.

        Raises:
            SpoterError: as `spoter_runtime.Recognizer.load`.
        """
        self.library = load_library()
        self.handle = ctypes.c_void_p()
        options = _options(backend, precision, threads, resample=resample)
        _check(
            self.library,
            self.library.spoter_recognizer_create(
                os.fsencode(path), ctypes.byref(options), ctypes.byref(self.handle)
            ),
        )

    def close(self) -> None:
        """Free it."""
        self.library.spoter_recognizer_destroy(self.handle)
        self.handle = ctypes.c_void_p()

    @property
    def file(self) -> str:
        """The bundle's file that it runs."""
        return self._text("file")

    @property
    def backend(self) -> str:
        """The backend that it chose."""
        return self._text("backend")

    def _text(self, name: str) -> str:
        text: bytes = getattr(self.library, f"spoter_recognizer_{name}")(self.handle)
        return text.decode()

    def contract(self) -> GraphContract:
        """Return what the library read of the contract."""
        count, *most = (
            getattr(self.library, f"spoter_recognizer_{name}")(self.handle)
            for name in ("label_count", "max_frames", "max_batch")
        )
        labels = [self.library.spoter_recognizer_label(self.handle, i) for i in range(count)]
        return GraphContract(
            labels=tuple(
                Label(**{name: getattr(label, name).decode() for name, _ in label._fields_})
                for label in labels
            ),
            max_frames=most[0],
            max_batch=most[1],
        )

    def infer(self, poses_NTD: Float32Array, lengths_N: Int32Array | None, classes: int) -> Float32Array:
        """Return the logits of a padded batch."""
        batch, frames, _ = poses_NTD.shape
        logits = np.empty((batch, classes), np.float32)
        lengths = None if lengths_N is None else lengths_N.ctypes.data
        call = self.library.spoter_infer
        _check(
            self.library,
            call(self.handle, poses_NTD.ctypes.data, lengths, batch, frames, logits.ctypes.data),
        )
        return logits

    def predict_many(
        self, clips: Sequence[Float32Array], names: Sequence[str] | None = None
    ) -> list[CPrediction]:
        """Return the library's predictions of clips (frames, 54, 2) float32."""
        arrays = [np.ascontiguousarray(clip, np.float32) for clip in clips]
        given = (_Clip * len(clips))(
            *(
                _Clip(array.ctypes.data, len(array), names[i].encode() if names else None)
                for i, array in enumerate(arrays)
            )
        )
        found = (CPrediction * len(clips))()
        _check(
            self.library,
            self.library.spoter_predict_many(self.handle, given, len(clips), found, None),
        )
        return list(found)


class CStream:
    """A stream of the C library, with the methods of `SignStream`; its events come out of their JSON.

    Attributes:
        settings: as they were given.
    """

    def __init__(self, recognizer: CRecognizer, gate: Gate = "rest", settings: StreamSettings | None = None):
        """Make a stream of a recogniser, which must outlive it.

        Raises:
            ConfigError: as `SignStream`.
        """
        self.settings = settings or StreamSettings()
        self._recognizer = recognizer
        self._library = recognizer.library
        self._handle = ctypes.c_void_p()
        text = json.dumps(self.settings.as_json()).encode() if settings else None
        self._call("create", recognizer.handle, gate.encode(), text, ctypes.byref(self._handle))

    def _call(self, name: str, *arguments: Any) -> None:
        _check(self._library, getattr(self._library, f"spoter_stream_{name}")(*arguments))

    def reset(self) -> None:
        """Forget everything."""
        self._call("reset", self._handle)

    def push(self, signing: bool) -> None:
        """Say that a sign begins or ends with the next frame."""
        self._call("push", self._handle, int(signing))

    def accept(self, frame: Any, t_ms: float, *, dropped: int = 0, persons: int | None = None) -> None:
        """Take the next frame of landmarks."""
        pose = np.ascontiguousarray(frame, np.float32)
        seen = -1 if persons is None else persons
        self._call("accept_landmarks", self._handle, pose.ctypes.data, t_ms, dropped, seen)

    def flush(self) -> None:
        """End what goes on."""
        self._call("flush", self._handle)

    def events(self) -> list[AnyEvent]:
        """Return the events since the last call."""
        found: list[AnyEvent] = []
        event = CEvent()
        while True:
            self._call("next_event", self._handle, ctypes.byref(event))
            if event.type is None:
                return found
            found.append(event_from_json(json.loads(event.json)))

    def __del__(self) -> None:
        """Free it."""
        if self._handle:
            self._library.spoter_stream_destroy(self._handle)


def event_from_json(value: dict[str, Any]) -> AnyEvent:
    """Return the event of a JSON object, which another language wrote."""
    fields = {name: given for name, given in value.items() if name != "type"}
    if "best" in fields:
        fields["best"] = tuple((one["label"], one["score"]) for one in fields["best"])
    event: AnyEvent = _EVENTS[value["type"]](**fields)
    return event


class CFace(Face):
    """The C library as a face: batches go through `spoter_infer`."""

    def __init__(self, recognizer: CRecognizer, artefact: Artefact) -> None:
        """Take a recogniser; it is closed with this face."""
        super().__init__("c", recognizer.contract(), artefact)
        self._recognizer = recognizer

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        # With its padding, unlike other faces: the library takes padded batches.
        return self._recognizer.infer(poses_NTD, lengths_N, self.contract.num_classes)

    def predict(self, clips: Sequence[Float32Array]) -> Float32Array:
        """Return the logits of clips, one at a time."""
        flat = [np.ascontiguousarray(clip, np.float32).reshape(1, -1, NUM_FEATURES) for clip in clips]
        return np.concatenate([self._recognizer.infer(one, None, self.contract.num_classes) for one in flat])

    def stream(self, gate: Gate, settings: StreamSettings) -> CStream:
        """Return a stream of the library."""
        return CStream(self._recognizer, gate, settings)

    def close(self) -> None:
        """Free the recogniser."""
        self._recognizer.close()


def open_face(bundle: Bundle, precision: str) -> CFace:
    """Open a bundle in the C library.

    Raises:
        MissingExtraError: the library or ONNX Runtime is not installed.
        SpoterError: the library refuses the bundle.
    """
    recognizer = CRecognizer(bundle.folder, precision=precision)
    return CFace(recognizer, next(one for one in bundle.artefacts if one.path == recognizer.file))


def verify(path: Path, *, backend: str | None = None, precision: str = "fp32") -> CReplay:
    """Return the C library's golden test of a bundle.

    Raises:
        SpoterError: as `spoter_runtime.verify.verify_bundle`.
    """
    library, replay = load_library(), CReplay()
    options = _options(backend, precision, 0)
    _check(library, library.spoter_verify(os.fsencode(path), ctypes.byref(options), ctypes.byref(replay)))
    return replay


def _options(backend: str | None, precision: str, threads: int, *, resample: bool = False) -> _Options:
    name = None if backend is None else backend.encode()
    engine = os.fsencode(onnxruntime_library())
    return _Options(ctypes.sizeof(_Options), engine, name, precision.encode(), threads, int(resample))


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
    for name in ("version", "error_message", "error_fix"):
        getattr(library, f"spoter_{name}").restype = text
    for name in ("backend", "file", "onnxruntime"):
        function = getattr(library, f"spoter_recognizer_{name}")
        function.restype, function.argtypes = text, [pointer]
    for name in ("max_frames", "max_batch", "label_count"):
        function = getattr(library, f"spoter_recognizer_{name}")
        function.restype, function.argtypes = size, [pointer]
    library.spoter_recognizer_label.restype = _Label
    library.spoter_recognizer_label.argtypes = [pointer, size]
    library.spoter_recognizer_destroy.argtypes = [pointer]
    library.spoter_infer.argtypes = [pointer, pointer, pointer, size, size, pointer]
    library.spoter_predict_many.argtypes = [pointer, pointer, size, pointer, pointer]
    library.spoter_stream_create.argtypes = [pointer, text, text, pointer]
    library.spoter_stream_accept_landmarks.argtypes = [pointer, pointer, ctypes.c_double, size, ctypes.c_int]
    library.spoter_stream_push.argtypes = [pointer, ctypes.c_int]
    library.spoter_stream_next_event.argtypes = [pointer, pointer]
    for name in ("reset", "flush", "destroy"):
        getattr(library, f"spoter_stream_{name}").argtypes = [pointer]
    return library


def _check(library: Any, status: int) -> None:
    if status == 0:
        return
    message, fix = (
        text.decode(errors="replace") for text in (library.spoter_error_message(), library.spoter_error_fix())
    )
    raise _ERRORS.get(status, SpoterError)(message, fix=fix)
