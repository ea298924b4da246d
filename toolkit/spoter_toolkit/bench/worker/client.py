"""The controller's end of a worker: start it, ask it, notice when it dies or hangs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from spoter_runtime.errors import BackendError

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` since Python 3.11

# Libraries read these once, when they load; they are set for the worker alone.
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_CLOSE_TIMEOUT_S: Final = 5.0


class WorkerLost(Exception):
    """A worker died or hung; the text says how. The controller catches it: it never reaches the user."""


class LineProcess:
    """A live process that answers each line of JSON with one; a context manager that ends it."""

    def __init__(
        self, command: Sequence[str | Path], *, environment: Mapping[str, str], timeout_s: float
    ) -> None:
        """Start the process.

        Args:
            command: the program and its arguments.
            environment: all of its environment variables.
            timeout_s: how long one answer may take.
        """
        self._timeout_s = timeout_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the controller, which lets a worker finish its step
            env=environment,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        assert self._process.stdout is not None
        # A pipe has no time limit for reading, a queue has.
        self._reader = threading.Thread(
            target=_read_lines, args=(self._process.stdout, self._lines), daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            BackendError: the engine failed.
            WorkerLost: the worker died or hung.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: reading says how it died
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self._timeout_s)
        except queue.Empty:
            self._process.kill()
            raise WorkerLost(f"no answer within {self._timeout_s:g} s, so it was ended") from None
        if line is None:
            raise WorkerLost(self._how_it_died())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BackendError(reply["error"])
        return reply

    def _how_it_died(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last = next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
        if code >= 0:
            return f"ended with exit code {code}{last}"
        hint = " (by hand, or by the system when memory ran out)" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{hint}{last}"

    def close(self) -> None:
        """End the worker and give back the pipes; one that does not end on its own is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None:  # nobody waits for its answer any more
            self._process.kill()
        self.close()


class WorkerProcess(LineProcess):
    """A live `spoter_toolkit.bench.worker.__main__`; requests as in `spoter_toolkit.bench.worker.tasks`.

    Starting returns at once; `opened` waits until the model is loaded.
    """

    def __init__(
        self,
        bundle: Path,
        backend: str,
        threads: int,
        *,
        timeout_s: float,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Start the process.

        Args:
            bundle: the bundle folder.
            backend: a name from `spoter_toolkit.backends.BACKENDS`, or ``floor``.
            threads: threads inside one operator, for the engine and for the libraries under it.
            timeout_s: how long one answer may take.
            options: as in `spoter_toolkit.bench.worker.__main__`.
        """
        arguments = [backend, str(threads), str(bundle), json.dumps(options or {})]
        super().__init__(
            [sys.executable, "-m", "spoter_toolkit.bench.worker", *arguments],
            environment=worker_environment(threads),
            timeout_s=timeout_s,
        )

    def opened(self) -> dict[str, Any]:
        """Wait for the worker's first line: what importing and loading took.

        Raises:
            BackendError: the backend cannot be opened here; the text is the worker's own.
            WorkerLost: the worker died or hung.
        """
        return self._answer()


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker.

    Without PYTHONDONTWRITEBYTECODE: installed modules are compiled, those of a checkout would be at every
    start, and a cold one would be measured with it.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | thread_environment(threads) | {"PYTHONSAFEPATH": "1"}


def thread_environment(threads: int) -> dict[str, str]:
    """Return the environment variables that a worker gets for its thread count."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def _read_lines(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        if line.endswith("\n"):  # not the half line of a worker that was killed while it wrote
            lines.put(line)
    lines.put(None)
