"""Run `spoter-kit` commands in forks of one process that has imported everything; kill them on request.

One JSON object a line on stdin: `argv`, `cwd`, and any of
`kill_at`: SIGKILL before the n-th operation that changes files, from 1;
`kill_beyond`: the system ends it in the middle of writing a file, at so many bytes;
`exchange`: false where two names cannot be swapped in one step, as on some file systems.
One JSON object a line on stdout: `code`, negative for a signal, `operations`, and `said`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import traceback
from typing import Any

_CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}


def _changes_files(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and not isinstance(
            arguments[0], int
        )
    # renameat2, which swaps two names, is called through ctypes.
    return event in _CHANGES or (event == "ctypes.dlsym" and arguments[1] == "renameat2")


def _run(request: dict[str, Any], reply: int) -> None:
    """Run one command and end this process."""
    import spoter_runtime.files
    from spoter_toolkit.__main__ import main

    os.chdir(request["cwd"])
    operations = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal operations
        if _changes_files(event, arguments):
            operations += 1
            if operations == request.get("kill_at"):
                os.kill(os.getpid(), signal.SIGKILL)

    if not request.get("exchange", True):
        spoter_runtime.files._exchange = lambda one, other: False
    if limit := request.get("kill_beyond"):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.addaudithook(count)
    said, code = io.StringIO(), 1
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            sys.argv = ["spoter-kit", *request["argv"]]
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001  # the fork must not go on as if it were the server
            traceback.print_exc()
    os.write(reply, json.dumps({"operations": operations, "said": said.getvalue()}).encode())
    os._exit(code)


def serve() -> None:
    """Answer requests until stdin ends."""
    import accelerate  # noqa: F401  # what a training needs is imported once, not once a command
    import matplotlib.figure  # noqa: F401

    import spoter_toolkit.cli.app
    import spoter_toolkit.training.loop  # noqa: F401

    for line in sys.stdin:
        read, write = os.pipe()
        if not (child := os.fork()):
            _run(json.loads(line), write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            answer = json.loads(pipe.read() or "{}")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(json.dumps({"code": code} | answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
