"""Hash files, and write them so that no reader ever sees half of one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spoter_runtime.errors import SpoterError


def cache_folder() -> Path:
    """Return where things are kept that can be made again, `XDG_CACHE_HOME` or ``~/.cache``; not created.

    A user without a home folder gets a place in which there is nothing, and nothing can be made.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spoter-kit"
    except RuntimeError:
        return Path(os.devnull, "spoter-kit")


def check_regular(path: Path) -> os.stat_result:
    """Return a file's status; refuse a pipe, which would be waited for, and a device, read forever.

    Raises:
        OSError: it is not there, or no regular file.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a file", str(path))
    return found


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of a regular file.

    Raises:
        OSError: as `check_regular`, or it cannot be read.
        UnicodeDecodeError: it is in another encoding.
    """
    check_regular(path)
    return path.read_text(encoding=encoding)


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file's bytes, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it takes the name, otherwise it is removed.

    Works for files and for folders. The old file or folder stays whole until the new one is complete.

    Raises:
        OSError: the disk is full or the place is read-only; `path` is then as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        move_into_place(temporary, path)
    finally:
        remove(temporary)


def move_into_place(new: Path, path: Path) -> None:
    """Give a complete file or folder the name `path`.

    An old folder of that name may afterwards be at `new`; the caller removes it.

    Raises:
        OSError: both are then as they were before.
    """
    if new.is_dir() and path.exists():
        _swap_folder(new, path)
    else:
        new.replace(path)


def _swap_folder(new: Path, path: Path) -> None:
    """Rename a complete folder into place; a rename cannot replace a folder that is not empty.

    In one step where the system can exchange two names: `new` is then the old folder, for the caller to
    remove.
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
    """Swap two names in one step; False where the system or the file system cannot (renameat2, Linux)."""
    import ctypes  # not at the top: what only reads needs no other library

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    at_working_folder, exchange = -100, 2
    names = [os.fsencode(path) for path in (one, other)]
    done: int = renameat2(at_working_folder, names[0], at_working_folder, names[1], exchange)
    return done == 0


def recover(path: Path) -> None:
    """Put a folder back as `put_back` does, and delete what other kills have left; the caller is alone."""
    put_back(path)
    for kind in ("old", "tmp"):
        for left in _left_beside(path, kind):
            remove(left)


def put_back(path: Path) -> None:
    """Give a folder its name back that a kill between two renames has taken from it."""
    if path.exists() or not (left := _left_beside(path, "old")):
        return
    with contextlib.suppress(FileNotFoundError):  # another process has put it back
        max(left, key=lambda old: old.stat().st_mtime).rename(path)


def _left_beside(path: Path, kind: str) -> list[Path]:
    import glob  # not at the top: what only reads needs neither this nor shutil

    name, random = glob.escape(path.name), "[0-9a-f]" * 8  # "*" would find those of a longer name too
    return list(path.parent.glob(f".{name}.{random}.{kind}"))


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        import shutil  # as above

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file that nobody changes a second name; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        import shutil  # as above

        shutil.copy2(source, target)


def is_replaceable(path: Path, marker: str) -> bool:
    """Tell whether ``--force`` may replace a path: nothing, an empty folder, or one that holds `marker`."""
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
    """Check that a folder may be written: `is_replaceable`, and with `force` if it holds `marker`.

    Args:
        path: of the folder.
        marker: file in every folder of the kind that may be replaced.
        force: whether one of that kind may be replaced.
        foreign: what is said of a folder of another kind, as in ``"is no bundle"``.
        error: to raise.
        note: end of what is said of a folder of that kind.
        or_else: end of the fix, for a command that can do more than replace it.

    Raises:
        SpoterError: of the kind `error`.
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
    """Write `value` atomically as indented JSON; a NaN is refused, because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
