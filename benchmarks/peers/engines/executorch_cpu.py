"""ExecuTorch: the exported program, its products on XNNPACK."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

REQUIREMENTS = ("executorch", "torch", "numpy")
PEERS = {"executorch": "ExecuTorch, XNNPACK"}


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Lower one clip of any number of frames to XNNPACK where it takes it."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from notebook_module import exported_program

    lowered = to_edge_transform_and_lower(exported_program(folder), partitioner=[XnnpackPartitioner()])
    (made / "notebook.pte").write_bytes(lowered.to_executorch().buffer)


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return the program's forward as a function of arrays."""
    import torch
    from executorch.runtime import Runtime

    torch.set_num_threads(threads)
    try:
        from executorch.extension.pybindings.portable_lib import _threadpool_set_num_threads
    except ImportError:
        pass
    else:
        _threadpool_set_num_threads(threads)
    method = Runtime.get().load_program(str(made / "notebook.pte")).load_method("forward")
    return lambda poses_NTD: method.execute([torch.from_numpy(poses_NTD)])[0].numpy().copy()
