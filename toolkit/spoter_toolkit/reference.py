"""Open the PyTorch model of a bundle as a runner."""

from __future__ import annotations

from pathlib import Path

import torch

from spoter_export.torch_runner import CompiledTorchRunner, GraphedTorchRunner, TorchRunner
from spoter_runtime.bundle.manifest import Bundle
from spoter_runtime.errors import BackendError
from spoter_toolkit.runs.run import find_run


def open_reference(
    bundle: Bundle, run: Path | None = None, backend: str = "torch", *, threads: int | None = None
) -> TorchRunner:
    """Return the PyTorch model of a bundle as a runner.

    Args:
        bundle: from `read_bundle`.
        run: see `find_run`.
        backend: one of `spoter_toolkit.backends.TORCH_BACKENDS`.
        threads: torch's threads, for the whole process; None does not change them.

    Raises:
        BackendError: the backend needs a GPU and torch can use none.
        CheckpointError: see `find_run`.
    """
    if backend != "torch" and torch.version.cuda is None:
        raise BackendError(
            f"{backend}: torch {torch.__version__} is built without CUDA",
            fix="install a CUDA build of torch, see https://pytorch.org/get-started/locally",
        )
    if backend != "torch" and not torch.cuda.is_available():
        raise BackendError(
            f"{backend}: torch {torch.__version__} finds no NVIDIA GPU, or a driver too old for CUDA "
            f"{torch.version.cuda}",
            fix="spoter-kit doctor says what is there",
        )
    if threads is not None:
        torch.set_num_threads(threads)
    module = find_run(bundle, run).load_model()
    if backend == "torch":
        return TorchRunner(module, bundle.contract)
    module = module.to("cuda")
    runners: dict[str, type[CompiledTorchRunner | GraphedTorchRunner]] = {
        "torch-cuda-compile": CompiledTorchRunner,
        "torch-cuda-graph": GraphedTorchRunner,
    }
    return runners.get(backend, TorchRunner)(module, bundle.contract, name=backend)
