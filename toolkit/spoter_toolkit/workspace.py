"""The folder of runs: a name for each, the change from an old run to a new one, `last` at the newest."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from spoter_export.bundle.files import lock_of
from spoter_runtime.errors import CheckpointError, require
from spoter_runtime.files import is_replaceable, move_into_place, put_back, recover, remove
from spoter_toolkit.locate import LAST, RUN_JSON, RUNS

# In a run that is made to replace another one. Found under the other one's name, the two have changed places.
_REPLACES: Final = ".replaces"


def new_run_folder(out: Path | None, name: str, *, force: bool = False) -> Path:
    """Return a path for a new run: `out` where given, else the next free ``runs/<name>-N``.

    Raises:
        CheckpointError: see `check_run_target`.
    """
    if out is None:
        return next(path for i in range(1, 10**6) if not (path := RUNS / f"{name}-{i}").exists())
    out = without_link(out)
    check_run_target(out, force=force, or_else=", or go on with --resume")
    return out


def without_link(folder: Path) -> Path:
    """Return a folder by its own name: what replaces it must not replace a link to it, or ``.``."""
    if folder.name in ("", ".."):
        return folder.resolve()
    return Path(os.path.relpath(folder.resolve())) if folder.is_symlink() else folder


def check_run_target(folder: Path, *, force: bool, or_else: str = "") -> None:
    """Refuse a place where a run cannot be written; an empty folder counts as free.

    Args:
        folder: of the run.
        force: whether a run that is there may be replaced.
        or_else: what else to do where one is there.

    Raises:
        CheckpointError: something is there and `force` is not given, or what is there is no run.
    """
    if folder.exists() and not is_replaceable(folder, RUN_JSON):
        raise CheckpointError(f"{folder}: exists already and is no run", fix="choose another -o")
    if (folder / RUN_JSON).exists() and not force:
        unfinished = " (a run that was to replace it is unfinished)" if hidden_beside(folder).exists() else ""
        raise CheckpointError(
            f"{folder}: exists already{unfinished}",
            fix=f"choose another -o, or replace it with --force{or_else}",
        )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time write a folder; a killed one lets go, and what it has left is put in order.

    Raises:
        CheckpointError: another process is writing it.
    """
    filelock = require("filelock", extra="toolkit")
    lock = lock_of(folder)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise CheckpointError(
            f"{folder}: another process is writing it", fix="wait until it ends, or choose another -o"
        ) from error
    try:
        hidden = hidden_beside(folder)
        for place in (folder, hidden):
            recover(place)
        if not (hidden / _REPLACES).exists():  # a kill in the middle of `replace_run`
            remove(hidden)
            remove(folder / _REPLACES)
        yield
    finally:
        lock.release()


def place_to_train(folder: Path, *, resume: bool) -> Path:
    """Return the folder that a training writes to.

    A run that is there stays whole until the new one is complete, which until then is in a hidden folder
    beside it. A resumed training goes on with that one, where there is one.
    """
    put_back(folder)
    hidden = hidden_beside(folder)
    replaces = (hidden / _REPLACES if resume else folder / RUN_JSON).exists()
    return hidden if replaces else folder


def hidden_beside(folder: Path) -> Path:
    """Return where a run is made that is to replace the one at `folder`."""
    return folder.with_name(f".{folder.name}.new-run")


def mark_as_replacing(hidden: Path) -> None:
    """Note in a run that it is to replace the one beside it."""
    (hidden / _REPLACES).touch()


def replace_run(hidden: Path, folder: Path) -> None:
    """Give a complete run the name of the one that it replaces, and delete that one.

    A kill leaves one of the two under the name, or, where the system cannot exchange two names in one step,
    for `put_back` to put there. The mark tells which of the two has the name.
    """
    move_into_place(hidden, folder)
    remove(hidden)  # the old run now
    remove(folder / _REPLACES)


def point_last_at(folder: Path) -> None:
    """Make ``runs/last`` point at a run, by one rename."""
    if (RUNS / LAST).resolve() == folder.resolve():
        return
    RUNS.mkdir(exist_ok=True)
    link = RUNS / f".{LAST}.{uuid.uuid4().hex[:8]}"
    link.symlink_to(folder.resolve())
    link.replace(RUNS / LAST)
