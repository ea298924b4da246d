"""Read a file and check its hash: now, or later although another file may have its name by then."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from spoter_runtime.errors import BundleError
from spoter_runtime.files import check_regular, check_size, read_bytes, sha256_of

COPY_AGAIN: Final = "copy the whole bundle again"
# The most bytes of a file. It is not read, and not hashed, if it has more.
MODEL_BYTES: Final = 1 << 31  # no ONNX file can have more; an engine has fewer
OTHER_BYTES: Final = 1 << 26  # six times the landmarker's largest network, fifty times a parity.json


class KeptFile:
    """A file to read later, although it may be deleted or replaced until then.

    It is kept open, except on Windows, where an open file cannot be deleted or renamed.
    """

    def __init__(self, file: Path, sha256: str) -> None:
        """Open the file.

        Raises:
            OSError: no such file, or not a regular one.
        """
        self._size = check_regular(file).st_size
        self._sha256 = sha256
        self._file = file.absolute()
        self._descriptor: int | None = None
        if os.name != "nt":
            with suppress(OSError):  # too many open files: `read` then opens it by name
                self._descriptor = os.open(file, os.O_RDONLY)

    def read(self) -> bytes:
        """Return the bytes after checking their hash.

        Raises:
            BundleError: the content was overwritten in place.
            OSError: it cannot be read.
        """
        if self._descriptor is None:
            return read_checked(self._file, self._sha256, most_bytes=self._size)
        with open(self._descriptor, "rb", closefd=False) as opened:
            opened.seek(0)
            content = opened.read(self._size + 1)  # one more: if it has grown, its hash does not fit
        check_digest(self._file, hashlib.sha256(content).hexdigest(), self._sha256)
        return content

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)  # absent if __init__ raised
        if descriptor is not None:
            os.close(descriptor)


def read_checked(file: Path, expected: str, *, most_bytes: int, fix: str = COPY_AGAIN) -> bytes:
    """Return a file's bytes, which have a hash; `fix` mends a file that was changed.

    Whoever uses these bytes, and does not open the file again, uses what was checked.

    Raises:
        BundleError: they have another hash.
        OSError: it has more bytes than `most_bytes`, is not a regular file, or cannot be read.
    """
    content = read_bytes(file, most_bytes=most_bytes)
    check_digest(file, hashlib.sha256(content).hexdigest(), expected, fix=fix)
    return content


def check_file(file: Path, expected: str, *, most_bytes: int, fix: str = COPY_AGAIN) -> None:
    """Check a file's size, and then its hash, in pieces; raises as `read_checked`."""
    check_size(file, most_bytes)
    check_digest(file, sha256_of(file), expected, fix=fix)


def check_digest(file: Path, digest: str, expected: str, *, fix: str = COPY_AGAIN) -> None:
    """Raise a BundleError if a file's hash is not the expected one."""
    if digest != expected:
        raise BundleError(
            f"{file}: sha256 is {digest[:12]}…, expected {expected[:12]}…, "
            "so the file was changed or damaged",
            fix=fix,
        )


def is_file(path: Path | str) -> bool:
    """Return `Path.is_file`, but False for a name that is too long."""
    return os.path.isfile(path)  # noqa: PTH113  (Path's own raises for a name that is too long)
