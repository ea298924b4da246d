"""MNN: the ONNX file converted by its own converter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REQUIREMENTS = ("MNN", "numpy")
PEERS = {"mnn": "MNN, fp32"}


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Convert."""
    source, target = str(folder / "notebook.onnx"), str(made / "notebook.mnn")
    arguments = ["-f", "ONNX", "--modelFile", source, "--MNNModel", target, "--bizCode", "spoter"]
    command = [sys.executable, "-m", "MNN.tools.mnnconvert", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not Path(target).is_file():
        raise RuntimeError(f"mnnconvert wrote nothing: {done.stdout.strip()[-200:]}")


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return the module as a function of arrays."""
    import MNN
    import MNN.expr as expr

    manager = MNN.nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": threads},))
    module = MNN.nn.load_module_from_file(
        str(made / "notebook.mnn"), ["poses"], ["logits"], runtime_manager=manager, shape_mutable=True
    )

    def infer(poses_NTD: Any) -> Any:
        given = expr.const(poses_NTD, list(poses_NTD.shape), expr.NCHW)
        return np.array(module.forward([given])[0].read())

    return infer
