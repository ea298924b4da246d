"""Hash files, and write them atomically."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from spoter_runtime.errors import SpoterError

MOST_TEXT_BYTES: Final = 1 << 28  # of a text file; one clip's landmarks as JSON take a megabyte


def cache_folder() -> Path:
    """Return spoter-kit's folder in `XDG_CACHE_HOME` or ``~/.cache``; does not create it.

    A user without a home folder gets a path that can never exist.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spoter-kit"
    except RuntimeError:
        return Path(os.devnull, "spoter-kit")


def check_regular(path: Path) -> os.stat_result:
    """Return the status of a regular file.

    Raises:
        OSError: no such file, or not a regular one: reading a pipe would block, a device would never end.
    """
    try:
        found = path.stat()
    except ValueError as error:  # a zero byte in the path
        raise OSError(errno.ENOENT, "no such file", str(path)) from error
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a file", str(path))
    return found


def read_text(path: Path, encoding: str = "utf-8", *, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Return the text of a regular file.

    Raises:
        OSError: as `check_regular`, it is larger than `most_bytes`, or cannot be read.
        UnicodeDecodeError: it is in another encoding.
    """
    check_size(path, most_bytes)
    with path.open(encoding=encoding) as file:
        return file.read(_to_read(file, most_bytes))


def read_bytes(path: Path, *, most_bytes: int) -> bytes:
    """Return the bytes of a regular file; raise an OSError as `read_text` does."""
    check_size(path, most_bytes)
    with path.open("rb") as file:
        return file.read(_to_read(file, most_bytes))


def _to_read(file: IO[Any], most_bytes: int) -> int:
    """Return one more than a file has: if it grows meanwhile, its hash does not fit.

    Not simply `most_bytes`: Python takes memory for all that it is asked to read.
    """
    return min(os.fstat(file.fileno()).st_size, most_bytes) + 1


def check_size(path: Path, most_bytes: int) -> None:
    """Raise an OSError unless a path is a regular file of at most so many bytes."""
    if (size := check_regular(path).st_size) > most_bytes:
        raise OSError(errno.EFBIG, f"{size} bytes, expected at most {most_bytes}", str(path))


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file's bytes, read into one piece of 64 KiB, which is faster."""
    digest = hashlib.sha256()
    piece = memoryview(bytearray(1 << 16))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(piece):
            digest.update(piece[:size])
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a new file or folder; rename it to `path` on success, else delete it.

    The old file or folder stays whole until the new one is complete, and on the disk: a power cut afterwards
    loses neither.

    Raises:
        OSError: the disk is full or the folder is read-only; `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_by_killed(path)
    temporary = path.with_name(f".{path.name}.{os.getpid() & 0xFFFFFF:06x}{os.urandom(1).hex()}.tmp")
    try:
        yield temporary
        for made in [*temporary.rglob("*"), temporary]:
            _to_disk(made)
        move_into_place(temporary, path)
        _to_disk(path.parent)
    finally:
        remove(temporary)


def _remove_left_by_killed(path: Path) -> None:
    """Delete the temporary files of processes that are gone; their ids are in the names."""
    if os.name == "nt":  # no signal there asks whether a process lives
        return
    for left in _left_beside(path, "tmp"):
        try:
            os.kill(int(left.name[-12:-6], 16), 0)
        except ProcessLookupError:
            remove(left)
        except PermissionError:  # it lives, and is another user's
            continue


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" or path.is_symlink():  # Windows flushes only what is open for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def move_into_place(new: Path, path: Path) -> None:
    """Rename a complete file or folder to `path`, replacing the old one.

    The old folder may end up at `new`; the caller removes it.

    Raises:
        OSError: neither has changed.
    """
    if new.is_dir() and path.exists():
        _swap_folder(new, path)
    else:
        new.replace(path)


def _swap_folder(new: Path, path: Path) -> None:
    """Replace a folder, which a rename alone cannot do: exchange the names, or move the old one aside first.

    After an exchange `new` is the old folder, for the caller to remove.
    """
    if _exchange(new, path):
        return
    old = path.with_name(f".{path.name}.{os.urandom(4).hex()}.old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically (renameat2, Linux); return False if that is not supported."""
    import ctypes  # not at the top: only writing needs it

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    at_working_folder, exchange = -100, 2
    names = [os.fsencode(path) for path in (one, other)]
    done: int = renameat2(at_working_folder, names[0], at_working_folder, names[1], exchange)
    return done == 0


def recover(path: Path) -> None:
    """Clean up after killed writers: `put_back`, then delete temporary files. Needs the folder's lock."""
    put_back(path)
    for kind in ("old", "tmp"):
        for left in _left_beside(path, kind):
            remove(left)


def put_back(path: Path) -> None:
    """Restore a folder that a kill between the two renames of `_swap_folder` left without its name."""
    if path.exists() or not (left := _left_beside(path, "old")):
        return
    with contextlib.suppress(FileNotFoundError):  # another process has put it back
        max(left, key=lambda old: old.stat().st_mtime).rename(path)


def _left_beside(path: Path, kind: str) -> list[Path]:
    import glob  # not at the top: only writing needs this and shutil

    name, random = glob.escape(path.name), "[0-9a-f]" * 8  # "*" would match longer names too
    return list(path.parent.glob(f".{name}.{random}.{kind}"))


def remove(path: Path) -> None:
    """Delete a file, or a folder and its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        import shutil  # as above

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard-link a file; copy it if the file system has no hard links. Neither name may be written to."""
    try:
        os.link(source, target)
    except OSError:
        import shutil  # as above

        shutil.copy2(source, target)


def is_replaceable(path: Path, marker: str) -> bool:
    """Return True if ``--force`` may replace a path: absent, an empty folder, or a folder with `marker`."""
    if not path.exists():
        return True
    return path.is_dir() and ((path / marker).exists() or not any(path.iterdir()))


def check_replaceable(
    path: Path,
    marker: str,
    *,
    force: bool,
    foreign: str,
    error: type[SpoterError],
    note: str = "",
    or_else: str = "",
) -> None:
    """Raise unless a folder may be written: absent, empty, or with `marker` and `force`.

    Args:
        path: the folder.
        marker: name of a file that each replaceable folder holds.
        force: allow to replace such a folder.
        foreign: the message about a folder without the marker, as in ``"is no bundle"``.
        error: class of the error to raise.
        note: end of the message about a folder with the marker.
        or_else: end of its fix, for a command with another remedy than ``--force``.

    Raises:
        SpoterError: an instance of `error`.
    """
    if not is_replaceable(path, marker):
        raise error(f"{path}: exists already and {foreign}", fix="choose another -o")
    if (path / marker).exists() and not force:
        raise error(
            f"{path}: exists already{note}", fix=f"choose another -o, or replace it with --force{or_else}"
        )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON; raise a ValueError for a NaN, which JSON lacks."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
