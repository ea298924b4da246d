"""Errors about a source of videos or landmarks: the nearest name, or the command that takes it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from spoter_runtime.clip_files import is_video
from spoter_runtime.errors import DataError, nearest
from spoter_toolkit.data.dataset import DATASET_JSON

ASL33: Final = "data.npz"  # the file of the asl33 layout


def wrong_source(source: Path, expected: str, command: str) -> DataError:
    """Return the error of a source that is missing, or that another command takes.

    Args:
        source: as the user named it.
        expected: what should be there.
        command: that reads it, such as ``"spoter-kit data extract"``.
    """
    if not source.exists():
        near = nearest_beside(source)
        hint = f"; did you mean {near}?" if near else f"; expected {expected}"
        fix = f"{command} {shlex.quote(str(near))}" if near else "check the path"
        return DataError(f"{source}: no such {'file or ' * bool(source.suffix)}folder{hint}", fix=fix)
    if not source.is_dir():
        fix = f"spoter-kit predict {shlex.quote(str(source))}" if is_video(source) or _is_npy(source) else ""
        kind = "one video" if is_video(source) else "one clip of landmarks" if fix else "a file"
        return DataError(f"{source}: is {kind}, expected {expected}", fix=fix)
    if made := next(source.rglob(DATASET_JSON), None):
        return is_dataset_already(made.parent, expected)
    for path in source.rglob("*"):
        if is_video(path):
            kind, fix = "videos", f"spoter-kit data extract {shlex.quote(str(source))}"
        elif _is_npy(path):
            kind, fix = ".npy files", f"spoter-kit data import npy {shlex.quote(str(source))}"
        elif path.name == ASL33:
            kind, fix = f"a {ASL33}", f"spoter-kit data import asl33 {shlex.quote(str(path.parent))}"
        else:
            continue
        return DataError(f"{source}: has {kind}, expected {expected}", fix=fix)
    return DataError(f"{source}: expected {expected}, found none", fix=f"{command} FOLDER names another")


def is_dataset_already(folder: Path, expected: str) -> DataError:
    """Return the error of a DATASET where a source is expected that one is made from."""
    fix = f"spoter-kit data show {shlex.quote(str(folder))}"  # it prints the command that comes next
    return DataError(f"{folder}: is a DATASET already, expected {expected}", fix=fix)


def misplaced(path: Path, source: Path, layout: str) -> DataError:
    """Return the error of a file that lies at another depth of a source than its layout says."""
    above = "LABEL" if path.parent == source else "LABEL/SIGNER"
    return DataError(f"{path}: expected {layout} in {source}", fix=f"move it to {source / above / path.name}")


def nearest_beside(path: Path) -> Path | None:
    """Return the file or folder beside a path that does not exist, whose name is most like it."""
    near = nearest(path.name, (other.name for other in path.parent.glob("[!.]*")))
    return path.parent / near[0] if near else None


def _is_npy(path: Path) -> bool:
    return path.suffix.lower() == ".npy"
