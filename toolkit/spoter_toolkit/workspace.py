"""The folders of a project: find the newest run, bundle and data set; name runs and replace them safely."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from spoter_runtime.bundle.manifest import MANIFEST
from spoter_runtime.errors import BundleError, CheckpointError, DataError, require
from spoter_runtime.files import check_replaceable, move_into_place, put_back, recover, remove
from spoter_toolkit.data.dataset import DATASET_JSON

RUNS: Final = Path("runs")
BUNDLES: Final = Path("bundles")
DATASETS: Final = Path("datasets")
LAST: Final = "last"  # runs/last points at the newest run
RUN_JSON: Final = "run.json"  # in a RUN
RUN_WEIGHTS: Final = "model.safetensors"  # in a RUN

# In a run that is made to replace another one. Found under the other one's name, the two have changed places.
_REPLACES: Final = ".replaces"


def newest_bundle() -> Path:
    """Return the bundle in ``bundles/`` that was written last.

    Raises:
        BundleError: there is none.
    """
    if folder := newest_with(BUNDLES, f"*.spoter/{MANIFEST}"):
        return folder
    raise BundleError(f"{BUNDLES}/: no bundle there", fix="spoter-kit export --onnx, or name one")


def newest_dataset(folder: Path = DATASETS) -> Path:
    """Return the dataset that was written last under `folder`.

    Raises:
        DataError: there is none.
    """
    if newest := newest_with(folder, f"*/{DATASET_JSON}"):
        return newest
    raise DataError(f"{folder}/: no dataset there", fix="spoter-kit data synth, or name one")


def newest_with(folder: Path, pattern: str) -> Path | None:
    """Return the folder of the newest file that matches a pattern; None where there is none.

    Hidden folders do not count: a kill in the middle of a write has left them.
    """
    found = [path for path in folder.glob(pattern) if not path.parent.name.startswith(".")]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


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


def new_run_folder(out: Path | None, name: str, *, force: bool = False) -> Path:
    """Return a path for a new run: `out` if it is given, else the next free ``runs/<name>-N``.

    Raises:
        CheckpointError: see `check_run_target`.
    """
    if out is None:
        return next(path for i in range(1, 10**6) if not (path := RUNS / f"{name}-{i}").exists())
    out = without_link(out)
    check_run_target(out, force=force, or_else=", or go on with --resume")
    return out


def without_link(folder: Path) -> Path:
    """Return a folder by its own name, not by a link or ``.``: a folder must not replace a link."""
    if folder.name in ("", ".."):
        return folder.resolve()
    return Path(os.path.relpath(folder.resolve())) if folder.is_symlink() else folder


def check_run_target(folder: Path, *, force: bool, or_else: str = "") -> None:
    """Check that a run can be written to a folder; an empty folder is free.

    Args:
        folder: of the run.
        force: whether an existing run may be replaced.
        or_else: the end of the fix, for a verb that can do more than replace a run.

    Raises:
        CheckpointError: a run is there and `force` is not given, or something else is there.
    """
    check_replaceable(
        folder,
        RUN_JSON,
        force=force,
        foreign="is no run",
        error=CheckpointError,
        note=" (a run that was to replace it is unfinished)" if hidden_beside(folder).exists() else "",
        or_else=or_else,
    )


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time write a folder; clean up after a process that was killed.

    Raises:
        CheckpointError: another process is writing it.
    """
    from spoter_export.bundle.files import lock_of  # not at the top: finding a folder needs no lock

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

    An existing run stays whole until the new one is complete; until then the new one is in a hidden folder
    beside it. A resumed training continues in the hidden folder, if there is one.
    """
    put_back(folder)
    hidden = hidden_beside(folder)
    replaces = (hidden / _REPLACES if resume else folder / RUN_JSON).exists()
    return hidden if replaces else folder


def hidden_beside(folder: Path) -> Path:
    """Return the hidden folder in which the run is made that replaces the one at `folder`."""
    return folder.with_name(f".{folder.name}.new-run")


def mark_as_replacing(hidden: Path) -> None:
    """Note in a run that it replaces the one beside it."""
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
    """Point ``runs/last`` at a run, in one rename."""
    if (RUNS / LAST).resolve() == folder.resolve():
        return
    RUNS.mkdir(exist_ok=True)
    link = RUNS / f".{LAST}.{uuid.uuid4().hex[:8]}"
    link.symlink_to(folder.resolve())
    link.replace(RUNS / LAST)
