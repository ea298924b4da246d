"""Run a sign-language recogniser on the device: numpy and one inference engine, no torch.

    from spoter_runtime import Recognizer
    recognizer = Recognizer.load("model.spoter")
    prediction = recognizer.predict(landmarks)  # (frames, 54, 2)

Importing this package sets no thread counts, touches no device and imports no engine.
"""

from typing import TYPE_CHECKING

from spoter_runtime._version import __version__
from spoter_runtime.bundle.manifest import Artefact, Bundle, Goldens, read_bundle
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import (
    BackendError,
    BundleError,
    CheckpointError,
    ConfigError,
    DataError,
    ExportError,
    InputError,
    MissingExtraError,
    SpoterError,
)
from spoter_runtime.landmarks import LANDMARK_NAMES, landmarks_from_mediapipe
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.recognizer import Prediction, Recognizer
from spoter_runtime.runner import Runner

if TYPE_CHECKING:
    from spoter_runtime.doctor import Finding, diagnose
    from spoter_runtime.live.settings import StreamSettings
    from spoter_runtime.live.stream import SignStream
    from spoter_runtime.verify import VerifyReport, verify_bundle

__all__ = [
    "LANDMARK_NAMES",
    "Artefact",
    "BackendError",
    "Bundle",
    "BundleError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ExportError",
    "Finding",
    "Goldens",
    "GraphContract",
    "InputError",
    "Label",
    "MissingExtraError",
    "OrtRunner",
    "Prediction",
    "Recognizer",
    "Runner",
    "SignStream",
    "SpoterError",
    "StreamSettings",
    "VerifyReport",
    "__version__",
    "diagnose",
    "landmarks_from_mediapipe",
    "read_bundle",
    "verify_bundle",
]

# Loaded lazily: recognising a clip needs none, and importing all would slow a cold start.
_LATER = {
    **{"Finding": "doctor", "diagnose": "doctor", "VerifyReport": "verify", "verify_bundle": "verify"},
    **{"SignStream": "live.stream", "StreamSettings": "live.settings"},
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return __all__
