"""IREE: the ONNX file imported, compiled for this CPU, run by its local executor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REQUIREMENTS = ("iree-base-compiler[onnx]", "iree-base-runtime", "numpy")
PEERS = {"iree": "IREE, llvm-cpu"}


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Import and compile."""
    import iree.compiler.tools as tools

    graph, module = made / "notebook.mlir", made / "notebook.vmfb"
    importing = [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(folder / "notebook.onnx")]
    done = subprocess.run([*importing, "-o", str(graph)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    tools.compile_file(
        str(graph),
        output_file=str(module),
        input_type="onnx",
        target_backends=["llvm-cpu"],
        extra_args=["--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3"],
    )


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return the compiled function; `local-sync` computes in the calling thread."""
    import iree.runtime as runtime

    config = runtime.Config("local-sync" if threads == 1 else "local-task")
    module = runtime.VmModule.mmap(config.vm_instance, str(made / "notebook.vmfb"))
    loaded = runtime.load_vm_modules(module, config=config)[-1]
    names = [name for name in loaded.vm_module.function_names if "$async" not in name and name[0] != "_"]
    function = loaded[names[0]]
    return lambda poses_NTD: np.array(function(poses_NTD).to_host())
