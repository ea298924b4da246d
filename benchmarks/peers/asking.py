"""The controller's end of a worker."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from environments import HERE, Peer

from spoter_toolkit.bench.host.environment import without_places
from spoter_toolkit.bench.worker.client import worker_environment

REPLY_TIMEOUT_S = 480.0


class Asked:
    """A live `peer.py`; a context manager that ends it."""

    def __init__(self, python: Path, peer: Peer, model: Path, threads: int) -> None:
        """Start it; nothing is loaded before it is asked.

        Args:
            python: the interpreter of the peer's environment.
            peer: what it stands for.
            model: the model's folder.
            threads: of the engine, and of the libraries under it.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        self.begin_ns = time.perf_counter_ns()
        self._process = subprocess.Popen(
            [python, HERE / "peer.py", peer.engine, peer.name, model, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
            env=_environment(threads),
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Return the reply; one with ``error`` where there is none, or a bad one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        impatience = threading.Timer(REPLY_TIMEOUT_S, self._process.kill)
        impatience.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            impatience.cancel()
        reply: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in reply:
            reply["error"] = without_places(reply["error"])
        return reply

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:200]}" if lines else ""
        return f"its process ended with {code}{said}"

    def __enter__(self) -> Asked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]  # it is a pipe
        self._stderr.close()


def _environment(threads: int) -> dict[str, str]:
    unwanted = {
        "PYTHONPATH",
        "PYTHONSAFEPATH",
    }  # a peer has its own modules, and those beside peer.py
    kept = {name: value for name, value in worker_environment(threads).items() if name not in unwanted}
    return {"ORT_DISABLE_TELEMETRY": "1"} | kept
