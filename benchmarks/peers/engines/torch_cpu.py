"""PyTorch: the notebook's module as it is, and compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REQUIREMENTS = ("torch", "numpy")
PEERS = {
    "torch-eager": "the notebook's module in PyTorch",
    "torch-compile": "the notebook's module through torch.compile, any length",
}
BATCH, FRAMES = 16, 100  # the notebook's


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Do nothing: the weights are read as they are."""


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return the module as a function of arrays."""
    import torch
    from notebook_module import AnyBatch, module_from

    torch.set_num_threads(threads)
    compiled = peer == "torch-compile"
    module: Any = module_from(folder, AnyBatch) if compiled else module_from(folder)
    if compiled:
        module = torch.compile(module, dynamic=True)

    def infer(poses_NTD: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(poses_NTD)).numpy()

    return infer


def many(peer: str, folder: Path, made: Path, threads: int) -> Callable[[list[Any]], Any]:
    """Return the notebook's way with many clips: padded with zeros or cut to 100 frames, 16 at a time."""
    infer = load(peer, folder, made, threads)

    def answer(clips: list[Any]) -> Any:
        logits = []
        for begin in range(0, len(clips), BATCH):
            batch = clips[begin : begin + BATCH]
            poses = np.zeros((len(batch), FRAMES, 108), np.float32)
            for row, clip in zip(poses, batch, strict=True):
                row[: len(clip)] = clip[:FRAMES]
            logits.append(infer(poses))
        return np.concatenate(logits)

    return answer
