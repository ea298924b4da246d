"""PyTorch: the notebook's module as it is, and compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from many_clips import in_batches

REQUIREMENTS = ("torch", "numpy")
PEERS = {
    "torch-eager": "the notebook's module in PyTorch",
    "torch-compile": "the notebook's module through torch.compile, any length",
}


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Do nothing: the weights are read as they are."""


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return the module as a function of arrays."""
    import torch
    from notebook_module import module_from

    torch.set_num_threads(threads)
    module: Any = module_from(folder)
    if peer == "torch-compile":
        module = torch.compile(module, dynamic=True)

    def infer(poses_NTD: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(poses_NTD)).numpy()

    return infer


def many(peer: str, folder: Path, made: Path, threads: int) -> Callable[[list[Any]], Any]:
    """Return the notebook's way with many clips: padded with zeros or cut to 100 frames, 16 at a time."""
    return in_batches(load(peer, folder, made, threads), frames=100)
