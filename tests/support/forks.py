"""`Forks`: run `spoter-kit` in forks of one process that has imported everything; kill them on request.

One JSON object a line on stdin: `argv`, `cwd`, and any of
`kill_at`: SIGKILL before the n-th operation that changes files, from 1;
`keep`: a folder that receives copies of `cwd`, named by the number of the operation before which each was
    made, where something had changed: what SIGKILL would leave there;
`kill_beyond`: the system ends it in the middle of writing a file, at so many bytes;
`fail_at`, `errno`: the n-th use of the disk fails, as `Faults` of tests/support/faults.py says; without an
    `errno` the process ends there. `operations` counts these instead;
`keep_trace`: the path to which torch's export of the model is written; `trace`: the path to read it from;
`exchange`: false where two names cannot be swapped in one step, as on some file systems.
`here`: run it in this process instead, so that the forks find what it loads and prepares.
One JSON object a line on stdout: `code`, negative for a signal, `operations`, and `said`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faults import Faults


class Forks:
    """The process that runs commands, see forks.py."""

    def __init__(self, cwd: Path, env: Mapping[str, str] = os.environ) -> None:
        self.cwd = cwd
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(env) | {"OMP_NUM_THREADS": "1", "TMPDIR": str(cwd / "tmp")},
        )

    def run(self, *argv: object, **how: Any) -> dict[str, Any]:
        """Run one command; return its exit code, its points and what it said."""
        assert self.process.stdin
        assert self.process.stdout
        request = {"argv": [str(argument) for argument in argv], "cwd": str(self.cwd)} | how
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


_CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}


def _changes_files(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and not isinstance(
            arguments[0], int
        )
    # renameat2, which swaps two names, is called through ctypes.
    return event in _CHANGES or (event == "ctypes.dlsym" and arguments[1] == "renameat2")


def _trace_once(request: dict[str, Any]) -> None:
    import onnx

    from spoter_export.bundle import writer

    make = writer.onnx_from_module
    if path := request.get("trace"):
        writer.onnx_from_module = lambda *_, **__: onnx.load(path)
    elif path := request.get("keep_trace"):

        def keep(*arguments: Any, **options: Any) -> Any:
            onnx.save(made := make(*arguments, **options), path)
            return made

        writer.onnx_from_module = keep


class _Keeper:
    """Copies a folder each time that it is called and something in it has changed."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self.place = folder, place
        self.busy = False  # with operations that are not the command's
        self.last: object = None

    def __call__(self, number: int) -> None:
        self.busy = True
        found = {
            str(path): path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
            for path in self.folder.rglob("*")
        }
        if found != self.last:
            shutil.copytree(self.folder, self.place / str(number), symlinks=True)
        self.last, self.busy = found, False


def _said_by(argv: list[str]) -> tuple[int, str]:
    """Run the command in this process; return its exit code and what it said."""
    from spoter_toolkit.__main__ import main

    said, code = io.StringIO(), 1
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            sys.argv = ["spoter-kit", *argv]
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001  # the fork must not go on as if it were the server
            traceback.print_exc()
    return code, said.getvalue()


def _run(request: dict[str, Any], reply: int) -> None:
    """Run one command and end this process."""
    import spoter_runtime.files

    os.chdir(request["cwd"])
    _trace_once(request)
    operations = 0
    keep = _Keeper(Path(request["cwd"]), Path(request["keep"])) if "keep" in request else None

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal operations
        if _changes_files(event, arguments) and not (keep and keep.busy):
            operations += 1
            if operations == request.get("kill_at"):
                os.kill(os.getpid(), signal.SIGKILL)
            if keep:
                keep(operations)

    if not request.get("exchange", True):
        spoter_runtime.files._exchange = lambda one, other: False
    if limit := request.get("kill_beyond"):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    faults = Faults(request.get("fail_at", 0), request.get("errno"), request["cwd"])
    if "fail_at" in request:
        faults.install()
    else:
        sys.addaudithook(count)
    code, said = _said_by(request["argv"])
    os.write(reply, json.dumps({"operations": operations or faults.count, "said": said}).encode())
    os._exit(code)


def serve() -> None:
    """Answer requests until stdin ends."""
    import accelerate  # noqa: F401  # what a training needs is imported once, not once a command
    import matplotlib.figure  # noqa: F401
    import onnxscript  # noqa: F401
    import torch.onnx  # noqa: F401

    import spoter_toolkit.cli.app
    import spoter_toolkit.training.loop  # noqa: F401

    for line in sys.stdin:
        if (request := json.loads(line)).get("here"):
            os.chdir(request["cwd"])
            code, said = _said_by(request["argv"])
            sys.stdout.write(json.dumps({"code": code, "operations": 0, "said": said}) + "\n")
            sys.stdout.flush()
            continue
        read, write = os.pipe()
        if not (child := os.fork()):
            _run(request, write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            answer = json.loads(pipe.read() or "{}")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(json.dumps({"code": code} | answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
