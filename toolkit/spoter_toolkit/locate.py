"""Where the command puts things, and finds them again when no path is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from spoter_runtime.bundle.manifest import MANIFEST
from spoter_runtime.errors import BundleError, CheckpointError, DataError
from spoter_runtime.files import put_back

RUNS: Final = Path("runs")
BUNDLES: Final = Path("bundles")
DATASETS: Final = Path("datasets")
LAST: Final = "last"  # runs/last points at the newest run
RUN_JSON: Final = "run.json"  # in a RUN
RUN_WEIGHTS: Final = "model.safetensors"  # in a RUN


def newest_bundle(folder: Path = BUNDLES) -> Path:
    """Return the bundle that was written last under `folder`.

    Raises:
        BundleError: there is none.
    """
    found = _newest_last(folder, f"*.spoter/{MANIFEST}")
    if not found:
        raise BundleError(f"{folder}/: no bundle there", fix="spoter-kit export --onnx, or name one")
    return found[-1].parent


def newest_dataset(folder: Path = DATASETS) -> Path:
    """Return the dataset that was written last under `folder`.

    Raises:
        DataError: there is none.
    """
    found = _newest_last(folder, "*/dataset.json")
    if not found:
        raise DataError(f"{folder}/: no dataset there", fix="spoter-kit data synth, or name one")
    return found[-1].parent


def _newest_last(folder: Path, pattern: str) -> list[Path]:
    # Hidden folders are what a kill in the middle of a write has left.
    found = [path for path in folder.glob(pattern) if not path.parent.name.startswith(".")]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def last_run(folder: Path = RUNS) -> Path:
    """Return the run that `runs/last` points at.

    Raises:
        CheckpointError: there is none.
    """
    run = folder / LAST
    put_back(run.resolve())
    if not run.exists():
        raise CheckpointError(f"{run}: no run there", fix="spoter-kit train, or name one")
    return Path(os.path.relpath(run.resolve()))
