"""LiteRT: the exported program as a .tflite file, run by its CPU interpreter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

REQUIREMENTS = ("litert-torch", "torch", "numpy")
PEERS = {"litert": "LiteRT, XNNPACK"}


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Convert one clip, any number of frames."""
    import litert_torch
    import torch
    from notebook_module import MOST_FRAMES, module_from

    shapes = ({1: torch.export.Dim("frames", min=1, max=MOST_FRAMES)},)
    module = module_from(folder)
    litert_torch.convert(module, (torch.zeros(1, 60, 108),), dynamic_shapes=shapes).export(
        str(made / "notebook.tflite")
    )


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return the interpreter; it is told the number of frames when that changes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(made / "notebook.tflite"), num_threads=threads)
    given, logits = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    shape: list[tuple[int, ...]] = []

    def infer(poses_NTD: Any) -> Any:
        if shape != [poses_NTD.shape]:
            shape[:] = [poses_NTD.shape]
            interpreter.resize_tensor_input(given, poses_NTD.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given, poses_NTD)
        interpreter.invoke()
        return interpreter.get_tensor(logits).copy()

    return infer
