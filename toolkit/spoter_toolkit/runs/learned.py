"""Clips that a model was trained on, which are no test of it."""

from __future__ import annotations

import shlex
from pathlib import Path

from spoter_runtime.bundle.manifest import Bundle
from spoter_runtime.errors import BundleError, CheckpointError, DataError
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.data.leaks import names_of
from spoter_toolkit.runs.run import Run, find_run


def run_of(source: Run | Bundle, run: Path | None = None) -> Run | None:
    """Return a RUN, or the one that a BUNDLE was made from; None where that is not here."""
    try:
        return find_run(source, run) if isinstance(source, Bundle) else source
    except (BundleError, CheckpointError):
        return None


def learned_among(dataset: Dataset, split: str, run: Run | None) -> int:
    """Return how many clips of a split, or of ``"all"``, a model was trained on: no test of new ones.

    Raises:
        DataError: they are clips of the test or of the validation, of a data set that was split anew.
    """
    if run is None or not (learned := run.learned()):
        return 0
    clips = dataset.clips if split == "all" else dataset.clips_in(split)
    known = sum(name in learned for name in names_of(dataset, clips))
    if known and split in ("val", "test"):
        folder = shlex.quote(str(dataset.folder))
        raise DataError(
            f"{dataset.folder}: {run.folder} was trained on {known} of the {len(clips)} clips of {split}, so "
            "they are no test",
            fix=f"spoter-kit train {folder} trains on this split",
        )
    return known
