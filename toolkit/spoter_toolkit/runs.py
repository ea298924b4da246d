"""The folder of runs: a fresh name for each, and `last` pointing at the newest."""

from __future__ import annotations

import uuid
from pathlib import Path

from spoter_runtime.errors import CheckpointError
from spoter_runtime.files import remove
from spoter_toolkit.locate import LAST, RUNS


def new_run_folder(out: Path | None, name: str, *, force: bool = False) -> Path:
    """Return a path for a new run: `out` where given, else the next free ``runs/<name>-N``.

    Raises:
        CheckpointError: `out` exists and `force` is not given; with `force` it is removed.
    """
    if out is None:
        return next(path for i in range(1, 10**6) if not (path := RUNS / f"{name}-{i}").exists())
    if out.exists() and not force:
        raise CheckpointError(
            f"{out}: exists already. Fix: choose another -o, replace it with --force, or go on with --resume"
        )
    remove(out)
    return out


def point_last_at(folder: Path) -> None:
    """Make ``runs/last`` point at a run, by one rename."""
    RUNS.mkdir(exist_ok=True)
    link = RUNS / f".{LAST}.{uuid.uuid4().hex[:8]}"
    link.symlink_to(folder.resolve())
    link.replace(RUNS / LAST)
