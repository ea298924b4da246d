"""ONNX Runtime with the file that torch.onnx.export writes, and with the same after its own optimiser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from many_clips import in_batches

REQUIREMENTS = ("onnxruntime", "onnx", "sympy", "torch", "numpy")  # all but the first: its optimiser
PEERS = {
    "ort-stock": "torch.onnx.export, ONNX Runtime's default session",
    "ort-optimiser": "torch.onnx.export, then onnxruntime.transformers.optimizer (bert, its own choice)",
}


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Let ONNX Runtime's optimiser for transformers rewrite the file."""
    if peer != "ort-optimiser":
        return
    from onnxruntime.transformers import optimizer

    optimised = optimizer.optimize_model(str(folder / "notebook.onnx"), model_type="bert")
    (made / "fused.txt").write_text(str(optimised.get_fused_operator_statistics()))
    optimised.save_model_to_file(str(made / "notebook.onnx"))


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return a session as a function of arrays; all but the threads as ONNX Runtime has it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    file = (made if peer == "ort-optimiser" else folder) / "notebook.onnx"
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda poses_NTD: session.run(None, {name: poses_NTD})[0]


def many(peer: str, folder: Path, made: Path, threads: int) -> Callable[[list[Any]], Any]:
    """Return a function of many clips: as they come, 16 a batch, each batch padded to its longest clip."""
    return in_batches(load(peer, folder, made, threads))
