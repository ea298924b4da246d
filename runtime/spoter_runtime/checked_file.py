"""Load a file after comparing it with its hash: now, or later and whatever then has its name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from spoter_runtime.errors import BundleError
from spoter_runtime.files import check_regular, sha256_of

_Loaded = TypeVar("_Loaded")


class KeptFile:
    """A file that is loaded later: the one that had its name at first, whatever has it then.

    It stays open, which takes no memory. Not on Windows: nobody could delete or rename it there.
    """

    def __init__(self, file: Path, sha256: str) -> None:
        """Open the file.

        Raises:
            OSError: it is not there, or no file.
        """
        identity(file)
        self._sha256 = sha256
        self._file = file.absolute()
        self._descriptor: int | None = None
        if os.name != "nt":
            with suppress(OSError):  # too many are open: it is found by its name, if it still has it
                self._descriptor = os.open(file, os.O_RDONLY)

    def load(self, load: Callable[[Path | bytes], _Loaded]) -> _Loaded:
        """Return what `load` makes of the file, or of its bytes, after comparing it with its hash.

        Raises:
            BundleError: it was changed since, other than by putting another in its place.
            OSError: it cannot be read.
        """
        if self._descriptor is None:
            return load_checked(self._file, self._sha256, load)
        again = Path(f"/proc/self/fd/{self._descriptor}")
        if is_file(again):  # Linux; nothing has to hold the bytes
            return load_checked(again, self._sha256, load, where=self._file)
        with open(self._descriptor, "rb", closefd=False) as opened:
            opened.seek(0)
            content = opened.read()
        check_digest(self._file, hashlib.sha256(content).hexdigest(), self._sha256)
        return load(content)

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)  # there is none where the file was not there
        if descriptor is not None:
            os.close(descriptor)


def load_checked(
    file: Path, expected: str, load: Callable[[Path], _Loaded], where: Path | None = None
) -> _Loaded:
    """Return what `load` makes of a file, after comparing it with its hash.

    Raises:
        BundleError: it has another hash, or was replaced while it was loaded.
        OSError: it cannot be read.
    """
    seen = check_file(file, expected, where)
    try:
        return load(file)
    finally:  # also where it failed: then that is why
        if identity(file) != seen:
            raise BundleError(f"{where or file}: was replaced while it was loaded", fix="load it again")


def check_file(file: Path, expected: str, where: Path | None = None) -> tuple[int, ...]:
    """Compare a file with its hash, without holding all of it; return which file it was."""
    seen = identity(file)
    check_digest(where or file, sha256_of(file), expected)
    return seen


def check_digest(file: Path, digest: str, expected: str) -> None:
    """Refuse a file that has another hash than it was written with."""
    if digest != expected:
        raise BundleError(
            f"{file}: sha256 is {digest[:12]}…, expected {expected[:12]}…, "
            "so the file was changed or damaged",
            fix="copy the whole bundle again",
        )


def identity(file: Path) -> tuple[int, ...]:
    """Return what changes when a file is written again, or another takes its name.

    Raises:
        OSError: it is not there, or no file: a pipe that was opened would wait, a device be read forever.
    """
    found = check_regular(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def is_file(path: Path | str) -> bool:
    """Tell whether a file lies there, as `Path.is_file` does; a name that no file can have is none."""
    return os.path.isfile(path)  # noqa: PTH113  (Path's own raises for a name that is too long)
