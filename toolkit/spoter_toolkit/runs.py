"""The folder of runs: a fresh name for each, and `last` pointing at the newest."""

from __future__ import annotations

import uuid
from pathlib import Path

from spoter_runtime.errors import CheckpointError
from spoter_runtime.files import is_replaceable
from spoter_toolkit.locate import LAST, RUN_JSON, RUNS


def new_run_folder(out: Path | None, name: str, *, force: bool = False) -> Path:
    """Return a path for a new run: `out` where given, else the next free ``runs/<name>-N``.

    Raises:
        CheckpointError: see `check_run_target`.
    """
    if out is None:
        return next(path for i in range(1, 10**6) if not (path := RUNS / f"{name}-{i}").exists())
    check_run_target(out, force=force)
    return out


def check_run_target(folder: Path, *, force: bool) -> None:
    """Refuse a place where a run cannot be written; an empty folder counts as free.

    Raises:
        CheckpointError: something is there and `force` is not given, or what is there is no run.
    """
    if folder.exists() and not is_replaceable(folder, RUN_JSON):
        raise CheckpointError(f"{folder}: exists already and is no run. Fix: choose another -o")
    if (folder / RUN_JSON).exists() and not force:
        raise CheckpointError(
            f"{folder}: exists already. Fix: choose another -o, replace it with --force, "
            "or go on with --resume"
        )


def point_last_at(folder: Path) -> None:
    """Make ``runs/last`` point at a run, by one rename."""
    RUNS.mkdir(exist_ok=True)
    link = RUNS / f".{LAST}.{uuid.uuid4().hex[:8]}"
    link.symlink_to(folder.resolve())
    link.replace(RUNS / LAST)
