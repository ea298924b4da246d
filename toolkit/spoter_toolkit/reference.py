"""Open the PyTorch model that a bundle was made from, after checking that it is the one."""

from __future__ import annotations

from pathlib import Path

import torch

from spoter_export.torch_runner import TorchRunner
from spoter_runtime.bundle import Bundle
from spoter_runtime.errors import BundleError, CheckpointError
from spoter_runtime.files import sha256_of
from spoter_toolkit.checkpoint import Run, read_run
from spoter_toolkit.locate import LAST, RUN_WEIGHTS, RUNS


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
                f"{RUNS / made_from['name']}. Fix: name it with --run"
            )
    found = read_run(folder)
    digest = found.weights_sha256()
    if digest != made_from["weights_sha256"]:
        raise CheckpointError(
            f"{folder}: its weights are {digest[:12]}…, the bundle {bundle.folder} was made from "
            f"{made_from['weights_sha256'][:12]}…. Fix: name the right one with --run, or export again"
        )
    return found


def open_reference(bundle: Bundle, run: Path | None = None, *, threads: int | None = None) -> TorchRunner:
    """Return the PyTorch model of a bundle as a runner.

    Args:
        bundle: from `read_bundle`.
        run: see `find_run`.
        threads: torch's threads in this whole process; None leaves them as they are.

    Raises:
        CheckpointError: see `find_run`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchRunner(find_run(bundle, run).load_model(), bundle.contract)
