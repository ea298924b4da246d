"""The folders of a project: find the newest run, bundle and data set; name, lock and replace runs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from spoter_runtime.bundle.manifest import MANIFEST, read_bundle
from spoter_runtime.errors import BundleError, CheckpointError, DataError, require
from spoter_runtime.files import check_replaceable, move_into_place, put_back, recover, remove, sha256_of
from spoter_toolkit.data.dataset import DATASET_JSON

RUNS: Final = Path("runs")
BUNDLES: Final = Path("bundles")
DATASETS: Final = Path("datasets")
LAST: Final = "last"  # link in runs/ to the newest run
RUN_JSON: Final = "run.json"  # file of a RUN
RUN_WEIGHTS: Final = "model.safetensors"  # file of a RUN
RUN_LEARNED: Final = "learned.txt"  # file of a RUN: which clips it was trained on

# File in a run that will replace another one; in the folder of that name, it shows that the two were
# exchanged.
_REPLACES: Final = ".replaces"


def newest_bundle() -> Path:
    """Return the bundle in ``bundles/`` that was written last.

    Raises:
        BundleError: there is none.
    """
    if folder := newest_with(BUNDLES, f"*.spoter/{MANIFEST}"):
        return folder
    raise BundleError(f"{BUNDLES}/: no bundle there", fix="spoter-kit export --onnx, or name one")


def run_after(bundle: Path) -> Path | None:
    """Return the newest run where its weights were written after a bundle, and are not that bundle's."""
    weights = RUNS / LAST / RUN_WEIGHTS
    if not weights.is_file() or weights.stat().st_mtime < (bundle / MANIFEST).stat().st_mtime:
        return None
    stated = read_bundle(bundle).provenance.get("run")
    if isinstance(stated, dict) and stated.get("weights_sha256") == sha256_of(weights):
        return None
    return last_run()


def newest_dataset(folder: Path = DATASETS) -> Path:
    """Return the dataset that was written last under `folder`.

    Raises:
        DataError: there is none.
    """
    if newest := newest_with(folder, f"*/{DATASET_JSON}"):
        return newest
    raise DataError(f"{folder}/: no dataset there", fix="spoter-kit data synth, or name one")


def newest_with(folder: Path, pattern: str) -> Path | None:
    """Return the folder of the newest file that matches a pattern; None if none does.

    Ignores hidden folders, which are incomplete: a killed process left them.
    """
    found = [path for path in folder.glob(pattern) if not path.parent.name.startswith(".")]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def last_run(folder: Path = RUNS) -> Path:
    """Return the run that the link `runs/last` names.

    Raises:
        CheckpointError: there is none.
    """
    run = folder / LAST
    put_back(run.resolve())
    if not run.exists():
        raise CheckpointError(f"{run}: no run there", fix="spoter-kit train, or name one")
    return Path(os.path.relpath(run.resolve()))


def new_run_folder(out: Path | None, name: str, *, force: bool = False) -> Path:
    """Return the path of a new run: `out`, or the next free ``runs/<name>-N``.

    Raises:
        CheckpointError: see `check_run_target`.
    """
    if out is None:
        return next(path for i in range(1, 10**6) if not (path := RUNS / f"{name}-{i}").exists())
    out = without_link(out)
    check_run_target(out, force=force, or_else=", or go on with --resume")
    return out


def without_link(folder: Path) -> Path:
    """Resolve links and ``.`` in a folder's path, so that a folder does not replace a link."""
    if folder.name in ("", ".."):
        return folder.resolve()
    return Path(os.path.relpath(folder.resolve())) if folder.is_symlink() else folder


def check_run_target(folder: Path, *, force: bool, or_else: str = "") -> None:
    """Check that a run can be written to a folder: absent, empty, or a run with `force`.

    Args:
        folder: the run's folder.
        force: allow to replace an existing run.
        or_else: end of the fix, for a verb with another remedy than ``--force``.

    Raises:
        CheckpointError: the folder holds a run and `force` is not given, or holds something else.
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
    """Lock a folder for writing; first clean up after killed processes.

    Raises:
        CheckpointError: another process holds the lock.
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
        if not (hidden / _REPLACES).exists():  # `replace_run` was killed
            remove(hidden)
            remove(folder / _REPLACES)
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Tell whether a process holds the lock of a folder: a training that goes on does."""
    from spoter_export.bundle.files import lock_of  # not at the top: finding a folder needs no lock

    filelock = require("filelock", extra="toolkit")
    try:
        with lock_of(folder).acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True


def place_to_train(folder: Path, *, resume: bool) -> Path:
    """Return the folder that a training writes to.

    To keep an existing run until the new one is complete, the training writes to a hidden folder beside it. A
    resumed training continues in the hidden folder, if there is one.
    """
    put_back(folder)
    hidden = hidden_beside(folder)
    replaces = (hidden / _REPLACES if resume else folder / RUN_JSON).exists()
    return hidden if replaces else folder


def hidden_beside(folder: Path) -> Path:
    """Return the hidden folder for a run that will replace the one at `folder`."""
    return folder.with_name(f".{folder.name}.new-run")


def mark_as_replacing(hidden: Path) -> None:
    """Mark a hidden run as the replacement of the one beside it."""
    (hidden / _REPLACES).touch()


def replace_run(hidden: Path, folder: Path) -> None:
    """Move a complete hidden run to its name, and delete the run that it replaces.

    After a kill, one of the two has the name, or, if the system cannot exchange names atomically, `put_back`
    gives it to one. The mark tells which of the two it is.
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
