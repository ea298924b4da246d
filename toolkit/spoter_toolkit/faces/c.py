"""The C face: the library spoter-runtime-c, called through ctypes as a program in C calls it."""

from __future__ import annotations

import ctypes
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, get_args

import numpy as np
import numpy.typing as npt

from spoter_runtime.bundle.manifest import Artefact, Bundle
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.landmarks import NUM_FEATURES, NUM_LANDMARKS, Float32Array
from spoter_runtime.live.events import AnyEvent
from spoter_runtime.live.settings import Gate, StreamSettings
from spoter_runtime.runner import Int32Array
from spoter_toolkit.faces._clibrary import (
    CClip,
    CEvent,
    CLandmarkerReplay,
    CPrediction,
    CReplay,
    check,
    load_library,
    options_of,
)
from spoter_toolkit.faces.face import Face

_EVENTS: Final = {kind.type: kind for kind in get_args(AnyEvent)}


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
        options = options_of(backend, precision, threads, resample=resample)
        check(
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
        check(
            self.library,
            call(self.handle, poses_NTD.ctypes.data, lengths, batch, frames, logits.ctypes.data),
        )
        return logits

    def predict_many(
        self, clips: Sequence[Float32Array], names: Sequence[str] | None = None
    ) -> list[CPrediction]:
        """Return the library's predictions of clips (frames, 54, 2) float32."""
        arrays = [np.ascontiguousarray(clip, np.float32) for clip in clips]
        given = (CClip * len(clips))(
            *(
                CClip(array.ctypes.data, len(array), names[i].encode() if names else None)
                for i, array in enumerate(arrays)
            )
        )
        found = (CPrediction * len(clips))()
        check(
            self.library,
            self.library.spoter_predict_many(self.handle, given, len(clips), found, None),
        )
        return list(found)


class _Followed:
    """An object of the library that follows one video: `KIND` names its functions."""

    KIND: ClassVar[str]

    def __init__(self, library: Any) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        check(self._library, getattr(self._library, f"spoter_{self.KIND}_{name}")(*arguments))

    def reset(self) -> None:
        """Forget the frames before."""
        self._call("reset", self._handle)

    def __del__(self) -> None:
        """Free it."""
        if self._handle:
            getattr(self._library, f"spoter_{self.KIND}_destroy")(self._handle)


class CStream(_Followed):
    """A stream of the C library, with the methods of `SignStream`; its events come out of their JSON.

    Attributes:
        settings: as they were given.
    """

    KIND = "stream"

    def __init__(self, recognizer: CRecognizer, gate: Gate = "rest", settings: StreamSettings | None = None):
        """Make a stream of a recogniser, which must outlive it.

        Raises:
            ConfigError: as `SignStream`.
        """
        super().__init__(recognizer.library)
        self.settings = settings or StreamSettings()
        self._recognizer = recognizer
        text = json.dumps(self.settings.as_json()).encode() if settings else None
        self._call("create", recognizer.handle, gate.encode(), text, ctypes.byref(self._handle))

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


class CLandmarker(_Followed):
    """The landmarker of the C library, with the methods of `Landmarker`."""

    KIND = "landmarker"

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        """Open a landmarker's folder, or a bundle that has one.

        Raises:
            SpoterError: as `Landmarker.load`.
        """
        super().__init__(load_library())
        options = options_of(None, "fp32", threads)
        self._call("create", os.fsencode(path), ctypes.byref(options), ctypes.byref(self._handle))
        self.sha256: str = self._library.spoter_landmarker_sha256(self._handle).decode()

    @property
    def persons(self) -> int:
        """How many were seen when the body was last looked for."""
        found: int = self._library.spoter_landmarker_persons(self._handle)
        return found

    def __call__(self, frame_rgb: npt.NDArray[np.uint8], t_ms: float | None = None) -> Float32Array:
        """Return the landmarks (54, 2) of a frame whose rows may have gaps between them."""
        height, width, _ = frame_rgb.shape
        found = np.empty((NUM_LANDMARKS, 2), np.float32)
        size = (height, width, frame_rgb.strides[0])
        t_ms = math.nan if t_ms is None else t_ms
        self._call("accept", self._handle, frame_rgb.ctypes.data, *size, t_ms, found.ctypes.data)
        return found


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
    options = options_of(backend, precision, 0)
    check(library, library.spoter_verify(os.fsencode(path), ctypes.byref(options), ctypes.byref(replay)))
    return replay


def verify_landmarker(path: Path) -> CLandmarkerReplay:
    """Return the C library's golden test of a landmarker.

    Raises:
        SpoterError: as `spoter_runtime.camera.goldens.replay`.
    """
    library, replay = load_library(), CLandmarkerReplay()
    options = options_of(None, "fp32", 0)
    call = library.spoter_landmarker_verify
    check(library, call(os.fsencode(path), ctypes.byref(options), ctypes.byref(replay)))
    return replay
