"""Face: a runner whose answers come from another language or from a server, a clip at a time."""

from __future__ import annotations

import abc
import importlib
import pkgutil
from collections.abc import Sequence

import spoter_toolkit.faces
from spoter_runtime.bundle.libraries import FACE
from spoter_runtime.bundle.manifest import Artefact, Bundle
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import BackendError, ConfigError, nearest_known
from spoter_runtime.landmarks import NUM_LANDMARKS, Float32Array
from spoter_runtime.live.log import TakesFrames
from spoter_runtime.live.settings import Gate, StreamSettings
from spoter_runtime.runner import Int32Array, Runner


class Face(Runner):
    """Answers clips as an application of that face would; parity compares it like any other backend.

    Attributes:
        artefact: the bundle's file that it runs.
    """

    def __init__(self, name: str, contract: GraphContract, artefact: Artefact) -> None:
        """Name the face as in ``--face``; `contract` is the one that the face itself has read."""
        self.name = FACE + name
        self.contract = contract
        self.artefact = artefact

    @abc.abstractmethod
    def predict(self, clips: Sequence[Float32Array]) -> Float32Array:
        """Return logits (N, C) float32 of clips (frames, 54, 2), in the order given.

        Clips in which nothing was detected are among them: parity asks for their logits too.
        """

    def stream(self, gate: Gate, settings: StreamSettings) -> TakesFrames:
        """Return a stream of this face, with the methods of `SignStream`.

        Raises:
            BackendError: the face has no stream, or parity cannot reach it.
        """
        raise BackendError(f"{self.name}: parity knows no stream of this face")

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        return self.predict(
            [
                poses_TD[:frames].reshape(frames, NUM_LANDMARKS, 2)
                for poses_TD, frames in zip(poses_NTD, lengths_N.tolist(), strict=True)
            ]
        )


def face_names() -> list[str]:
    """Return the faces that parity knows, by their files in this folder."""
    found = (module.name for module in pkgutil.iter_modules(spoter_toolkit.faces.__path__))
    return sorted(name for name in found if name != "face" and not name.startswith("_"))


def check_face(backend: str) -> None:
    """Raise a ConfigError unless a backend's name is that of a face: ``face-c``."""
    name, names = backend.removeprefix(FACE), face_names()
    if name not in names:
        raise ConfigError(f"unknown face {name!r}; {nearest_known(name, names)}")


def open_face(backend: str, bundle: Bundle, precision: str = "fp32") -> Face:
    """Open a bundle in a face.

    Args:
        backend: ``face-NAME``.
        bundle: from `read_bundle`.
        precision: of the file that the face shall run.

    Raises:
        SpoterError: the face is not built, or cannot open the bundle here.
    """
    module = importlib.import_module(f"{spoter_toolkit.faces.__name__}.{backend.removeprefix(FACE)}")
    face: Face = module.open_face(bundle, precision)
    return face
