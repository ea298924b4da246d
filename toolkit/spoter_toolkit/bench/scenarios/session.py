"""Take turns: the live workers, whose turn it is, how far the run is, and who was lost on the way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from spoter_runtime._types import OnProgress
from spoter_runtime.errors import BackendError
from spoter_runtime.machine import usable_cores
from spoter_toolkit.bench.analysis.result import Failure
from spoter_toolkit.bench.host.environment import without_places
from spoter_toolkit.bench.host.monitor import MachineRound, MachineWatch
from spoter_toolkit.bench.settings import BenchSettings, backend_of, plural
from spoter_toolkit.bench.worker.__main__ import FLOOR
from spoter_toolkit.bench.worker.client import WorkerLost, WorkerProcess


@dataclass(slots=True, kw_only=True)
class Turns:
    """The workers of one run; a context manager that ends them.

    Attributes:
        steps: how many steps the whole run has, for the progress.
        stop: set from outside, it ends the run early: nobody is asked any more, what was measured stays.
        slow_down: backend → a share that its workers are slowed down by, to see whether it is found.
        running: backends of which a worker has loaded its model.
        out: backends that are not started again.
        workers: (backend, threads) → its live process.
        opened: (backend, threads) → the worker's first answer.
        model_bytes: backend → size of the file that it loads.
        peaks: (backend, threads) → the most memory that it said it held, in bytes.
        failures: workers that died or hung.
        skipped: backend → why it cannot run here.
        machine: how fast the machine was before every round.
    """

    bundle: Path
    settings: BenchSettings
    run: Path | None
    on_progress: OnProgress | None
    steps: int = 0
    stop: Event = field(default_factory=Event)
    slow_down: dict[str, float] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    out: set[str] = field(default_factory=set)
    workers: dict[tuple[str, int], WorkerProcess] = field(default_factory=dict)
    opened: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    model_bytes: dict[str, int] = field(default_factory=dict)
    peaks: dict[tuple[str, int], int | None] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    machine: list[MachineRound] = field(default_factory=list)
    done: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)
    _watch: MachineWatch = field(default_factory=MachineWatch)

    def names(self) -> tuple[str, ...]:
        """Return who takes part, the floor last."""
        return (*self.settings.backends, *((FLOOR,) if self.settings.floor else ()))

    def process(self, name: str, threads: int) -> WorkerProcess:
        """Start a worker's process, without waiting for it."""
        cores = _first_cores(threads) if self.settings.pin else None
        options = {"run": str(self.run) if self.run else None, "cores": cores}
        return WorkerProcess(
            self.bundle,
            backend_of(name),
            threads,
            options=options | {"slow_down": self.slow_down.get(name)},
            timeout_s=self.settings.reply_timeout_s,
        )

    def open(self, names: Iterable[str], thread_counts: Iterable[int]) -> None:
        """Start the workers that stay alive, and wait until each has loaded its model."""
        backends = list(names)
        for threads in thread_counts:
            for name in backends:
                if name not in self.out:
                    self._open(name, threads)
                self.step(f"loading: {name}, {plural(threads, 'thread')}")

    def _open(self, name: str, threads: int) -> None:
        if self.stop.is_set():
            return
        worker = self._stack.enter_context(self.process(name, threads))
        try:
            opened = worker.opened()
        except (BackendError, WorkerLost) as error:
            self.not_opened(name, threads, "loading the model", error)
        else:
            self.has_opened(name, opened)
            self.opened[name, threads] = opened
            self.workers[name, threads] = worker

    def has_opened(self, name: str, opened: dict[str, Any]) -> None:
        """Note that a backend runs here, and what it has loaded."""
        self.running.add(name)
        if name != FLOOR:
            self.model_bytes[name] = opened["model_bytes"]

    def not_opened(self, name: str, threads: int, doing: str, error: Exception) -> None:
        """Note that a worker could not load its model: its backend cannot run here, or it was lost."""
        if self.stop.is_set():
            return  # what stopped the run may have ended it
        if isinstance(error, BackendError) and name not in self.running:
            self.skipped[name] = self._clean(error)
        else:
            self.lost(name, threads, doing, error)
        if name not in self.running:
            self.out.add(name)

    def rounds(self, what: str, count: int | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yield each round's number, from 0, and the order of its turns; who is first changes every time.

        Args:
            what: the scenario, for the record of the machine.
            count: of rounds; None for that of the settings.
        """
        for number in range(self.settings.rounds if count is None else count):
            if self.stop.is_set():
                return
            pids = [worker.pid for worker in self.workers.values()]
            self.machine.append(self._watch.look(what, number + 1, pids))
            names = self.names()
            yield number, names if number % 2 == 0 else names[::-1]

    def ask(self, name: str, threads: int, doing: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """Ask a live worker; None where there is none, it is lost with it, or the run was stopped."""
        worker = self.workers.get((name, threads))
        if worker is None or self.stop.is_set():
            return None
        try:
            answer = worker.ask(**request)
        except (BackendError, WorkerLost) as error:
            self.lost(name, threads, doing, error)
            return None
        self.peaks[name, threads] = answer["peak_rss_bytes"]
        return answer

    def lost(self, name: str, threads: int, doing: str, error: Exception) -> None:
        """Note that a worker died or hung; it has no turn any more."""
        if self.stop.is_set():
            return  # what stopped the run may have ended it
        self.workers.pop((name, threads), None)
        self.failures.append(Failure(backend=name, threads=threads, doing=doing, reason=self._clean(error)))

    def step(self, what: str) -> None:
        """Report progress: one step is done, whether there was a worker for it or not."""
        if self.stop.is_set():
            return
        self.done += 1
        if self.on_progress:
            self.on_progress(self.done, self.steps, what)

    def _clean(self, error: Exception) -> str:
        return without_places(str(error), *(path for path in (self.bundle, self.run) if path))

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)


def _first_cores(threads: int) -> list[int] | None:
    """Return as many cores as there are threads, or all; None where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))[: min(threads, usable_cores())]
