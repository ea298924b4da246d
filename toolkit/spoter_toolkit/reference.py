"""Open the PyTorch model that a bundle was made from, after checking that it is the one."""

from __future__ import annotations

from pathlib import Path

import torch

from spoter_export.torch_runner import CompiledTorchRunner, GraphedTorchRunner, TorchRunner
from spoter_runtime.bundle.manifest import Bundle
from spoter_runtime.errors import BackendError, BundleError, CheckpointError
from spoter_runtime.files import sha256_of
from spoter_toolkit.runs.run import Run, read_run
from spoter_toolkit.workspace import LAST, RUN_WEIGHTS, RUNS


def find_run(bundle: Bundle, run: Path | None = None) -> Run:
    """Return the RUN that a bundle was made from.

    Args:
        bundle: from `read_bundle`.
        run: where it is; None looks at ``runs/<its name>``, then at the last run.

    Raises:
        BundleError: the bundle was made without spoter-kit's runs.
        CheckpointError: it is not there, or its weights are not those of the bundle.
    """
    made_from = bundle.provenance.get("run")
    if not isinstance(made_from, dict) or not {"name", "weights_sha256"} <= made_from.keys():
        raise BundleError(
            f"{bundle.folder}: does not say which run it was made from, so torch cannot load it"
        )
    folder = run or RUNS / made_from["name"]
    if run is None and not folder.is_dir():
        folder = RUNS / LAST  # a run that was made elsewhere with -o
        weights = folder / RUN_WEIGHTS
        if not weights.is_file() or sha256_of(weights) != made_from["weights_sha256"]:
            raise CheckpointError(
                f"{bundle.folder}: made from the run {made_from['name']!r}, which is not at "
                f"{RUNS / made_from['name']}",
                fix="name it with --run",
            )
    found = read_run(folder)
    digest = found.weights_sha256()
    if digest != made_from["weights_sha256"]:
        raise CheckpointError(
            f"{folder}: its weights are {digest[:12]}…, the bundle {bundle.folder} was made from "
            f"{made_from['weights_sha256'][:12]}…",
            fix="name the right one with --run, or export again",
        )
    return found


def open_reference(
    bundle: Bundle, run: Path | None = None, backend: str = "torch", *, threads: int | None = None
) -> TorchRunner:
    """Return the PyTorch model of a bundle as a runner.

    Args:
        bundle: from `read_bundle`.
        run: see `find_run`.
        backend: one of `spoter_toolkit.backends.TORCH_BACKENDS`.
        threads: torch's threads in this whole process; None leaves them as they are.

    Raises:
        BackendError: a GPU was asked for and torch can use none.
        CheckpointError: see `find_run`.
    """
    if backend != "torch":
        _check_cuda(backend)
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


def _check_cuda(backend: str) -> None:
    if torch.version.cuda is None:
        raise BackendError(
            f"{backend}: torch {torch.__version__} is built without CUDA",
            fix="install a CUDA build of torch, see https://pytorch.org/get-started/locally",
        )
    if not torch.cuda.is_available():
        raise BackendError(
            f"{backend}: torch {torch.__version__} finds no NVIDIA GPU, or a driver too old for CUDA "
            f"{torch.version.cuda}",
            fix="spoter-kit doctor says what is there",
        )
