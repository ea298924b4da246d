"""Load a file after checking its hash: now, or later although another file may have its name by then."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from spoter_runtime.errors import BundleError
from spoter_runtime.files import check_regular, sha256_of

_Loaded = TypeVar("_Loaded")
COPY_AGAIN: Final = "copy the whole bundle again"


class KeptFile:
    """A file to load later, although it may be deleted or replaced until then.

    It is kept open, except on Windows, where an open file cannot be deleted or renamed.
    """

    def __init__(self, file: Path, sha256: str) -> None:
        """Open the file.

        Raises:
            OSError: no such file, or not a regular one.
        """
        identity(file)
        self._sha256 = sha256
        self._file = file.absolute()
        self._descriptor: int | None = None
        if os.name != "nt":
            with suppress(OSError):  # too many open files: `load` then opens it by name
                self._descriptor = os.open(file, os.O_RDONLY)

    def load(self, load: Callable[[Path | bytes], _Loaded]) -> _Loaded:
        """Return `load` of the file, or of its bytes, after checking its hash.

        Raises:
            BundleError: the content was overwritten in place.
            OSError: it cannot be read.
        """
        if self._descriptor is None:
            return load_checked(self._file, self._sha256, load)
        again = Path(f"/proc/self/fd/{self._descriptor}")
        if is_file(again):  # Linux: `load` reads it without a copy in memory
            return load_checked(again, self._sha256, load, where=self._file)
        with open(self._descriptor, "rb", closefd=False) as opened:
            opened.seek(0)
            content = opened.read()
        check_digest(self._file, hashlib.sha256(content).hexdigest(), self._sha256)
        return load(content)

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)  # absent if __init__ raised
        if descriptor is not None:
            os.close(descriptor)


def load_checked(
    file: Path,
    expected: str,
    load: Callable[[Path], _Loaded],
    where: Path | None = None,
    *,
    fix: str = COPY_AGAIN,
) -> _Loaded:
    """Return `load(file)` after checking the file's hash; `fix` mends a file that was changed.

    Raises:
        BundleError: it has another hash, or was replaced during loading.
        OSError: it cannot be read.
    """
    seen = check_file(file, expected, where, fix=fix)
    try:
        return load(file)
    finally:  # also if loading failed: the replacement is then the reason
        if identity(file) != seen:
            raise BundleError(f"{where or file}: was replaced while it was loaded", fix="load it again")


def check_file(
    file: Path, expected: str, where: Path | None = None, *, fix: str = COPY_AGAIN
) -> tuple[int, ...]:
    """Check a file's hash, read in pieces; return its `identity`."""
    seen = identity(file)
    check_digest(where or file, sha256_of(file), expected, fix=fix)
    return seen


def check_digest(file: Path, digest: str, expected: str, *, fix: str = COPY_AGAIN) -> None:
    """Raise a BundleError if a file's hash is not the expected one."""
    if digest != expected:
        raise BundleError(
            f"{file}: sha256 is {digest[:12]}…, expected {expected[:12]}…, "
            "so the file was changed or damaged",
            fix=fix,
        )


def identity(file: Path) -> tuple[int, ...]:
    """Return device, inode, size and times of a file: they differ once it is rewritten or replaced.

    Raises:
        OSError: as `check_regular`.
    """
    found = check_regular(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def is_file(path: Path | str) -> bool:
    """Return `Path.is_file`, but False for a name that is too long."""
    return os.path.isfile(path)  # noqa: PTH113  (Path's own raises for a name that is too long)
