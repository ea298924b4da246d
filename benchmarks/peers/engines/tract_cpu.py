"""tract: the ONNX file, optimised by tract itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

REQUIREMENTS = ("tract", "numpy")
PEERS = {"tract": "tract"}


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Do nothing: the file is read as it is."""


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return the runnable model, clips and frames open; tract computes in one thread."""
    import tract

    runnable = tract.onnx().load(str(folder / "notebook.onnx")).into_model().into_runnable()
    return lambda poses_NTD: runnable.run([poses_NTD])[0].to_numpy().copy()
