"""Take the paths that a user names: say what is wrong with one before any work is spent on it."""

from __future__ import annotations

import errno
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spoter_runtime.errors import DataError, SpoterError
from spoter_runtime.files import read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of JSON file."""

    what: str  # it is, for people
    fix: str  # what to name where another kind was named
    keys: frozenset[str]  # that only files of this kind have; empty where there are none


BENCH_REPORT: Final = Kind(
    what="the report of a bench",
    fix="name the bench.json, or the folder, that spoter-kit bench -o wrote",
    keys=frozenset({"timings", "comparisons"}),
)
PARITY_FACTS: Final = Kind(
    what="the facts of a parity run",
    fix="name a file that spoter-kit parity -o wrote, or a BUNDLE",
    keys=frozenset({"proofs"}),
)
LENGTHS: Final = Kind(
    what="a DATASET or a histogram of lengths",
    fix='write {"44": 3, "60": 1}: frames, and how many clips have so many',
    keys=frozenset(),
)
_KINDS: Final = (
    BENCH_REPORT,
    PARITY_FACTS,
    Kind(what="the manifest of a BUNDLE", fix="", keys=frozenset({"manifest_sha256"})),
    Kind(what="the run.json of a RUN", fix="", keys=frozenset({"train", "metrics"})),
    Kind(what="the dataset.json of a DATASET", fix="", keys=frozenset({"coordinates", "origin"})),
    Kind(what="what --bisect has found", fix="", keys=frozenset({"tensor", "operator"})),
)

# errno → what is wrong, and what to do.
_WRONG: Final = {
    errno.ENOENT: ("no such file", "check the path"),
    errno.EISDIR: ("is a folder", "name a file"),
    errno.ENOTDIR: ("a part of the path is a file", "check the path"),
    errno.EEXIST: ("is a file, and a folder is needed there", "name another place"),
    errno.EACCES: ("permission denied", "change its permissions, or name another place"),
    errno.EROFS: ("the disk is read-only", "name another place"),
    errno.ENOSPC: ("the disk is full", "make room, or name another place"),
}


def reason_of(error: OSError) -> tuple[str, str]:
    """Return in plain words what the system could not do, and a fix; no fix where none is known."""
    return _WRONG.get(error.errno or 0, (error.strerror or str(error), ""))


def error_from_os(error: OSError) -> SpoterError:
    """Return what the system could not do as an error of ours: what, where, fix."""
    said, fix = reason_of(error)
    return SpoterError(f"{error.filename}: {said}" if error.filename else said, fix=fix)


def text_of(path: Path, *, expected: str, fix: str) -> str:
    """Return the text of a file.

    Args:
        path: that was named.
        expected: what should be there, for people.
        fix: what to do where it is not.

    Raises:
        DataError: no such file, a folder, one that may not be read, or no UTF-8.
    """
    try:
        return read_text(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text, expected {expected}", fix=fix) from error
    except OSError as error:
        raise DataError(f"{path}: {reason_of(error)[0]}, expected {expected}", fix=fix) from error


def json_of(path: Path, kind: Kind) -> Any:
    """Return what a JSON file holds that should be of a kind.

    Raises:
        DataError: as `text_of`, no JSON, or a file that is known to be of another kind.
    """
    text = text_of(path, expected=kind.what, fix=kind.fix)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}), expected {kind.what}", fix=kind.fix) from error
    for other in _KINDS:
        if other is not kind and isinstance(content, dict) and other.keys <= content.keys():
            raise DataError(f"{path}: is {other.what}, expected {kind.what}", fix=kind.fix)
    return content


def check_target(path: Path, *, force: bool, option: str = "-o") -> None:
    """Check that a file may and can be written.

    Args:
        path: of the file.
        force: whether it may replace another file.
        option: that names it.

    Raises:
        DataError: it is a folder, it exists and `force` is not given, or nothing can be written there.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected a file to write", fix=f"{option} {path / 'NAME'}")
    if path.exists() and not force:
        raise DataError(f"{path}: exists already", fix=f"choose another {option}, or replace it with --force")
    check_place(path, option=option)


def check_place(path: Path, *, option: str = "-o") -> None:
    """Check that something can be made at a path; folders above it that are missing will be made.

    Raises:
        DataError: a file is where a folder has to be, or nothing may be written there.
    """
    nearest = next(parent for parent in path.parents if parent.exists())
    if not nearest.is_dir():
        raise DataError(f"{path}: {nearest} is a file, expected a folder", fix=f"choose another {option}")
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written there: {reason_of(error)[0]}", fix=f"choose another {option}"
        ) from error
