"""Client of a worker: start it, send requests, detect that it died or hangs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from spoter_runtime.errors import BackendError

# Libraries read these once, at import; they are set only for the worker.
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# JSON: backend → {"python": interpreter, "allow_host_code": …}, for engine libraries that need an environment
# of their own. That interpreter needs spoter-kit, numpy and the library.
WORKERS_VARIABLE: Final = "SPOTER_BENCH_WORKERS"
_CLOSE_TIMEOUT_S: Final = 5.0


class WorkerLost(Exception):
    """A worker died or hung; the text says how. The session catches it."""


class LineProcess:
    """A live process that answers each line of JSON with one; a context manager that ends it."""

    def __init__(
        self, command: Sequence[str | Path], *, timeout_s: float, environment: Mapping[str, str]
    ) -> None:
        """Start a program with its arguments; each answer has to come within `timeout_s`."""
        self._timeout_s = timeout_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the controller, which keeps what was measured
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer; see `answer`."""
        with contextlib.suppress(BrokenPipeError):  # the process is dead: `answer` says how it died
            self._stdin.write(json.dumps(request) + "\n")
            self._stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer; a worker's first one comes unasked, when its model is loaded.

        Raises:
            BackendError: the engine failed; the text is the worker's own.
            WorkerLost: the worker died or hung.
        """
        silent = threading.Event()

        def give_up() -> None:
            silent.set()
            self.kill()

        timer = threading.Timer(self._timeout_s, give_up)  # a pipe has no time limit for reading
        timer.start()
        line = self._stdout.readline()
        timer.cancel()
        if silent.is_set():
            raise WorkerLost(f"no answer within {self._timeout_s:g} s, so it was ended")
        if not line.endswith("\n"):  # no line, or half a line: the worker died
            raise WorkerLost(self.death_in_words())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BackendError(reply["error"])
        return reply

    def kill(self) -> None:
        """End the process at once; who waits for its answer gets `WorkerLost`."""
        self._process.kill()

    def close(self) -> None:
        """End the worker and close the pipes; a worker that does not end on its own is killed."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._stdout.close()
        self._stderr.close()

    def __enter__(self) -> LineProcess:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None:  # its answer is not needed any more
            self.kill()
        self.close()

    def death_in_words(self) -> str:
        """Return how the process ended, with the last line that it wrote to stderr."""
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last = next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
        if code >= 0:
            return f"ended with exit code {code}{last}"
        hint = " (by hand, or by the system when memory ran out)" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{hint}{last}"


def start_worker(
    bundle: Path, backend: str, threads: int, *, timeout_s: float, options: dict[str, Any] | None = None
) -> LineProcess:
    """Start `spoter_toolkit.bench.worker`, with its arguments and options; see there."""
    elsewhere = elsewhere_of(backend)
    python = elsewhere.get("python", sys.executable)
    chosen = {**(options or {}), "allow_host_code": bool(elsewhere.get("allow_host_code"))}
    arguments = [backend, str(threads), str(bundle), json.dumps(chosen)]
    command = [python, "-m", "spoter_toolkit.bench.worker", *arguments]
    return LineProcess(command, timeout_s=timeout_s, environment=worker_environment(threads))


def elsewhere_of(backend: str) -> dict[str, Any]:
    """Return what `WORKERS_VARIABLE` says of a backend, ``:fp16`` or not; empty if nothing.

    Raises:
        BackendError: the variable is not such JSON.
    """
    text = os.environ.get(WORKERS_VARIABLE, "{}")
    try:
        found = json.loads(text).get(backend.partition(":")[0], {})
        return dict(found)
    except (AttributeError, TypeError, ValueError) as error:
        raise BackendError(f"{WORKERS_VARIABLE}: {text!r} is not JSON of backends: {error}") from error


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker.

    Removes PYTHONDONTWRITEBYTECODE, with which every start would compile the modules, and that time is
    measured.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | thread_environment(threads) | {"PYTHONSAFEPATH": "1"}


def thread_environment(threads: int) -> dict[str, str]:
    """Return the environment variables that a worker gets for its thread count."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))
