"""Check the paths that a user names, before any work."""

from __future__ import annotations

import errno
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spoter_runtime.errors import DataError, SpoterError
from spoter_runtime.files import read_text
from spoter_runtime.strict import check_depth, json_from_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TEXT_BYTES: Final = 1 << 26  # of a settings file or a report


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of JSON file."""

    what: str  # name of the kind in messages
    fix: str  # fix for a file of another kind
    keys: frozenset[str]  # keys that identify this kind; empty if there are none


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

# errno → (reason, fix)
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
    """Return the reason of a system error in plain words, and a fix, which may be empty."""
    return _WRONG.get(error.errno or 0, (error.strerror or str(error), ""))


def error_from_os(error: OSError) -> SpoterError:
    """Return a system error as a SpoterError with a fix."""
    said, fix = reason_of(error)
    return SpoterError(f"{error.filename}: {said}" if error.filename else said, fix=fix)


def text_of(path: Path, *, expected: str, fix: str) -> str:
    """Return the text of a file.

    Args:
        path: the file.
        expected: the expected kind of file, for the message.
        fix: fix for a missing file.

    Raises:
        DataError: no such file, a folder, no permission, or not UTF-8.
    """
    try:
        return read_text(path, most_bytes=_TEXT_BYTES)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text, expected {expected}", fix=fix) from error
    except OSError as error:
        raise DataError(f"{path}: {reason_of(error)[0]}, expected {expected}", fix=fix) from error


def json_of(path: Path, kind: Kind) -> Any:
    """Return the content of a JSON file of a kind.

    Raises:
        DataError: as `text_of`, not JSON, or a file of another known kind.
    """
    text = text_of(path, expected=kind.what, fix=kind.fix)
    try:
        content = json_from_text(text)
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}), expected {kind.what}", fix=kind.fix) from error
    for other in _KINDS:
        if other is not kind and isinstance(content, dict) and other.keys <= content.keys():
            raise DataError(f"{path}: is {other.what}, expected {kind.what}", fix=kind.fix)
    return content


def toml_of(text: str) -> dict[str, Any]:
    """Parse TOML, such as a recipe.

    Raises:
        ValueError: no TOML, a number of too many digits, or too deep.
    """
    try:
        table: dict[str, Any] = check_depth(tomllib.loads(text))
    except RecursionError:
        raise ValueError("too many levels") from None
    _check_numbers(table)
    return table


def _check_numbers(value: Any) -> None:
    """Raise a ValueError for a whole number beyond 64 bits."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_numbers(inner)
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        raise ValueError(f"a number of {len(str(abs(value)))} digits")


def check_target(path: Path, *, force: bool, option: str = "-o") -> None:
    """Check that a file can be written.

    Args:
        path: the file.
        force: allow to replace an existing file.
        option: the option that names it, for the fix.

    Raises:
        DataError: a folder, an existing file without `force`, or a place that cannot be written to.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected a file to write", fix=f"{option} {path / 'NAME'}")
    if path.exists() and not force:
        raise DataError(f"{path}: exists already", fix=f"choose another {option}, or replace it with --force")
    check_place(path, option=option)


def check_place(path: Path, *, option: str = "-o") -> None:
    """Check that a path can be created; missing parent folders count as possible.

    Raises:
        DataError: a parent is a file, or is not writable.
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
