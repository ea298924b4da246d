"""Make the n-th use of the disk fail, or kill the process there: a full disk, a broken one, a kill."""

from __future__ import annotations

import builtins
import errno
import io
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spoter_runtime.files as files

KILLED = 77
FAILED = 78  # by our error
TRACEBACK = 79
DONE = 0
_CHANGES = ("rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "fsync")


class Faults:
    """Counts the changes of the disk in this process; at the n-th it raises an error, or ends the process.

    Args:
        at: that fails, from 1; 0 counts only.
        code: of the error; None ends the process.
        reads_in: opening a file below this folder for reading counts too.
    """

    def __init__(self, at: int, code: int | None, reads_in: str | None = None) -> None:
        self.at, self.code, self.reads_in, self.count = at, code, reads_in, 0

    def point(self) -> None:
        """Pass one change, or fail there; whatever cleans up afterwards works again."""
        self.count += 1
        if self.count == self.at:
            if self.code is None:
                os._exit(KILLED)
            raise OSError(self.code, os.strerror(self.code), "made to fail")

    def install(self) -> None:
        """Patch the functions by which Python changes files, for good: this is for a forked process."""
        for name in _CHANGES:
            setattr(os, name, self._before(getattr(os, name)))
        files._exchange = self._before(files._exchange)  # it calls the C library
        opened = io.open

        def open_(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if isinstance(file, int) or os.fspath(file) == os.devnull:
                return opened(file, mode, *rest, **options)
            if not set("wax+") & set(mode):
                if self.reads_in and self.reads_in in str(Path(os.fsdecode(file)).absolute()):
                    self.point()
                return opened(file, mode, *rest, **options)
            self.point()
            return _Written(opened(file, mode, *rest, **options), self)

        io.open = builtins.open = open_

    def _before(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            self.point()
            return change(*arguments, **options)

        return changed


class _Written:
    """A file open for writing, whose writes are points too."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def write(self, content: Any) -> Any:
        self._faults.point()
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def in_a_fork(run: Callable[[], object], *, at: int = 0, code: int | None = None) -> tuple[int, int]:
    """Run in a forked process with a fault at a point; return how it ended, and the number of points."""
    from spoter_runtime.errors import SpoterError

    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        with os.fdopen(reading) as answer:
            points = int(answer.read() or 0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), points
    faults, ended = Faults(at, code), TRACEBACK
    try:
        faults.install()
        run()
        ended = DONE
    except (SpoterError, OSError):
        ended = FAILED
    except BaseException:  # noqa: BLE001  (the parent fails the test)
        traceback.print_exc()
    finally:
        os.write(writing, str(faults.count).encode())
        os._exit(ended)


ERRORS = (errno.ENOSPC, None)  # None: killed there
MORE_ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, None)
