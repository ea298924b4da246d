"""This project's runtime with a bundle: `Runner.infer` for one clip, `Recognizer.predict_many` for many."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REQUIREMENTS = ("onnxruntime", "numpy")
PEERS = {
    "ours": "ours: model.onnx (ort-cpu)",
    "ours-fused": "ours: model.ort.onnx (ort-cpu-fused)",
    "ours-int8": "ours: model.int8.onnx (ort-cpu)",
    "ours-fused-int8": "ours: model.int8.ort.onnx (ort-cpu-fused)",
}
READS_RAW = True  # landmarks as recorded: normalising is part of its graph

sys.path.insert(0, str(Path(__file__).parents[3] / "runtime"))


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Do nothing: the bundle is one of the files that all peers share."""


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return the runner's checked door."""
    runner: Callable[[Any], Any] = recognizer(peer, folder, threads).runner.infer
    return runner


def many(peer: str, folder: Path, made: Path, threads: int) -> Callable[[list[Any]], Any]:
    """Return `predict_many` on all cores, as its defaults have it."""
    opened = recognizer(peer, folder, None)
    return lambda clips: np.stack([answer.logits_C for answer in opened.predict_many(clips)])


def recognizer(peer: str, folder: Path, threads: int | None) -> Any:
    """Open the bundle as it is: without the execution that `tune` may have chosen for this machine."""
    from spoter_runtime.recognizer import Recognizer

    return Recognizer.load(
        folder / "ours.spoter",
        "ort-cpu-fused" if "fused" in peer else "ort-cpu",
        precision="int8" if "int8" in peer else "fp32",
        threads=threads,
        tuned=False,
    )
