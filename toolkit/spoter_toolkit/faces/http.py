"""The face `http`: a server of this machine, started for the comparison, and asked over HTTP in binary."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import numpy as np

from spoter_runtime.bundle.manifest import Artefact, Bundle
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import BackendError, require
from spoter_runtime.landmarks import Float32Array
from spoter_toolkit.faces.face import Face
from spoter_toolkit.serving.client import ServedModel

_CLIPS: Final = 16  # of a request
_STOP_S: Final = 20


class HttpFace(Face):
    """Answers clips by `spoter-kit serve`, in a process of its own, on the plain ONNX file."""

    def __init__(self, bundle: Bundle, artefact: Artefact) -> None:
        command = [sys.executable, "-m", "spoter_toolkit", "serve", f"face={bundle.folder}", "--port", "0"]
        command += ["--backend", "ort-cpu", "--precision", artefact.precision]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        found = re.match(r"\S+", self._server.stdout.readline())
        if not found:
            _, said = self._server.communicate()
            raise BackendError(f"the server did not start: {said.strip()}")
        self._model = ServedModel(found[0])
        read = contract_told(self._model.metadata()["parameters"], bundle.contract)
        super().__init__("http", read, artefact)

    def predict(self, clips: Sequence[Float32Array]) -> Float32Array:
        """Return logits of clips, a few a request."""
        parts = [clips[begin : begin + _CLIPS] for begin in range(0, len(clips), _CLIPS)]
        return np.concatenate([self._model.infer(part, allow_empty=True) for part in parts])

    def close(self) -> None:
        """End the server."""
        self._model.close()
        self._server.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._server.communicate(timeout=_STOP_S)
        self._server.kill()

    def __del__(self) -> None:
        """End the server of a face that nobody closed."""
        if hasattr(self, "_server") and self._server.poll() is None:
            self._server.kill()
            self._server.communicate()


def contract_told(told: dict[str, Any], contract: GraphContract) -> GraphContract:
    """Return what a server tells of its model: its labels in its order, also those that the bundle lacks.

    Args:
        told: its `parameters`; they hold the names of the labels alone.
        contract: the bundle's, which knows the rest of a label by its name.
    """
    known = {label.name: label for label in contract.labels}
    labels = tuple(known.get(name) or Label(name=name) for name in told["labels"])
    return replace(contract, labels=labels, max_frames=told["max_frames"])


def open_face(bundle: Bundle, precision: str) -> HttpFace:
    """Start a server for a bundle.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
        BackendError: it does not start.
    """
    require("uvicorn", extra="serve")
    return HttpFace(bundle, bundle.onnx(precision))
