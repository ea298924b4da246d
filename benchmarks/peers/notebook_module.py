"""The notebook's module with a model's weights, for the engines that start from torch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from notebook import NotebookBdslSpoter

MOST_FRAMES = 299


def module_from(folder: Path) -> NotebookBdslSpoter:
    """Return the module, ready to answer, from a model's folder."""
    weights = torch.load(folder / "notebook.pt", weights_only=True)
    module = NotebookBdslSpoter(num_classes=len(weights["bdsl_classifier.7.bias"]))
    missing, unexpected = module.load_state_dict(weights, strict=False)
    if unexpected or any(not name.startswith("classifier.") for name in missing):
        raise ValueError(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    return module.eval().requires_grad_(False)


def exported_program(folder: Path, *, batch: int | None = 1) -> torch.export.ExportedProgram:
    """Return the module as torch.export sees it, with any number of frames; `batch` None leaves it open."""
    frames = torch.export.Dim("frames", min=1, max=MOST_FRAMES)
    shapes: dict[int, object] = {1: frames}
    if batch is None:
        shapes[0] = torch.export.Dim("clips", min=1, max=1024)
    example = torch.zeros(batch or 2, 60, 108)
    return torch.export.export(module_from(folder), (example,), dynamic_shapes=(shapes,))
