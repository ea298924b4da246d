"""The live workers of one run: turns, progress, lost workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

from spoter_runtime._types import OnProgress
from spoter_runtime.errors import BackendError
from spoter_runtime.machine import usable_cores
from spoter_runtime.statistics import ROUNDS_TO_CLAIM
from spoter_toolkit.bench.host.monitor import MachineRound, MachineWatch
from spoter_toolkit.bench.records import Failure
from spoter_toolkit.bench.scenarios.interleave import interleave
from spoter_toolkit.bench.scenarios.steps import Step, Steps
from spoter_toolkit.bench.settings import BenchSettings, backend_of
from spoter_toolkit.bench.worker.client import LineProcess, WorkerLost, start_worker
from spoter_toolkit.bench.worker.protocol import ROOFLINE
from spoter_toolkit.report.words import plural, without_places

_LOOK_S: Final = 0.5  # how often it is looked whether the run was stopped


@dataclass(slots=True, kw_only=True)
class Session:
    """The workers of one run; a context manager that ends them."""

    bundle: Path
    settings: BenchSettings
    run: Path | None = None
    on_progress: OnProgress | None = None
    steps: Steps = field(default_factory=Steps)  # of the whole run, for the progress
    rehearses: bool = False  # nothing is started: the steps are counted
    # set by the caller to end the run early: no more requests, the samples are kept
    stop: Event = field(default_factory=Event)
    # backend → share by which its workers are slowed down, to test that the bench detects it
    slow_down: dict[str, float] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)  # backends with a worker that has loaded its model
    out: set[str] = field(default_factory=set)  # backends that are not started again
    # (backend, threads) → its live process
    workers: dict[tuple[str, int], LineProcess] = field(default_factory=dict)
    # (backend, threads) → the worker's first answer
    opened: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    model_bytes: dict[str, int] = field(default_factory=dict)
    # (backend, threads) → peak memory that the worker told last, in bytes
    peaks: dict[tuple[str, int], int | None] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    machine: list[MachineRound] = field(default_factory=list)
    is_cut: bool = False  # the time was over before all was measured
    _ends: float | None = None  # on the monotonic clock; None: no limit
    _started: list[LineProcess] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)
    _watch: MachineWatch = field(default_factory=MachineWatch)

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends, and last the roofline if it is measured."""
        return (*self.settings.backends, *((ROOFLINE,) if self.settings.floor else ()))

    def start_worker(self, name: str, threads: int) -> LineProcess:
        """Start a worker's process, without waiting for it."""
        cores = None
        if self.settings.pin and hasattr(os, "sched_getaffinity"):
            cores = sorted(os.sched_getaffinity(0))[: min(threads, usable_cores())]
        run = str(self.run) if self.run else None
        options = {"run": run, "cores": cores, "slow_down": self.slow_down.get(name)}
        timeout_s = self.settings.reply_timeout_s
        worker = start_worker(self.bundle, backend_of(name), threads, timeout_s=timeout_s, options=options)
        self._started.append(worker)
        return worker

    def open(self, names: Sequence[str], thread_counts: Iterable[int], *, needed: bool) -> None:
        """Start the long-lived workers one after the other; wait until each has loaded its model.

        Where the time is over, only those that are needed.
        """
        for threads in thread_counts:
            for name in names:
                if not self.may_do(needed):
                    continue
                if name not in self.out and not self.stop.is_set() and not self.rehearses:
                    worker = self._stack.enter_context(self.start_worker(name, threads))
                    try:
                        self.opened[name, threads] = self.note_opened(name, worker.answer())
                        self.workers[name, threads] = worker
                    except (BackendError, WorkerLost) as error:
                        self.note_not_opened(name, threads, "loading the model", error)
                self.step(f"loading: {name}, {plural(threads, 'thread')}", name, Step("start", needed=needed))

    def note_opened(self, name: str, opened: dict[str, Any]) -> dict[str, Any]:
        """Record that a backend runs here, and the size of its model; return the worker's first answer."""
        self.running.add(name)
        if name != ROOFLINE:
            self.model_bytes[name] = opened["model_bytes"]
        return opened

    def note_not_opened(self, name: str, threads: int, doing: str, error: Exception) -> None:
        """Record that a worker could not load its model: its backend cannot run here, or it was lost."""
        if self.stop.is_set():
            return  # the signal that stopped the run may have ended it
        if isinstance(error, BackendError) and name not in self.running:
            self.skipped[name] = self._without_places(error)
        else:
            self.lost(name, threads, doing, error)
        if name not in self.running:
            self.out.add(name)
            self.steps.drop(name)

    def may_do(self, needed: bool, *, share: float = 1.0) -> bool:
        """Tell whether to do a step: a needed one in any case, others within a share of the time."""
        limit = self.settings.limit_s or 0.0
        may = needed or self._ends is None or time.monotonic() < self._ends - (1.0 - share) * limit
        self.is_cut |= not may
        return may

    def rounds(
        self, scenario: str, names: Sequence[str], count: int | None = None, *, needed: bool = True
    ) -> Iterator[tuple[int, Sequence[str]]]:
        """Yield (round, backends in order) from round 0, until the run is stopped or its time is over.

        Records the machine's state before each round.

        Args:
            scenario: of the rounds.
            names: backends.
            count: of the rounds; None means the settings' number.
            needed: where the time is over, yield the rounds that a claim needs all the same.
        """
        for number, order in interleave(names, self.settings.rounds if count is None else count):
            if self.stop.is_set() or not self.may_do(needed and number < ROUNDS_TO_CLAIM):
                return
            if self.workers:
                pids = [worker.pid for worker in self.workers.values()]
                self.machine.append(self._watch.look(scenario, number + 1, pids))
            yield number, order

    def ask(self, name: str, threads: int, doing: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """Send a request to a worker and return its answer; None if it is lost, or the run was stopped."""
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
        """Record that a worker died or hung; it gets no more turns."""
        if self.stop.is_set():
            return  # the signal that stopped the run may have ended it
        self.workers.pop((name, threads), None)
        reason = self._without_places(error)
        self.failures.append(Failure(backend=name, threads=threads, doing=doing, reason=reason))

    def step(self, what: str, name: str, step: Step) -> None:
        """Report one step as done, with the time that is left.

        Args:
            what: was done.
            name: of the backend; the steps of one that cannot run here are not counted.
            step: that was done.
        """
        if self.rehearses:
            self.steps.plan(name, step)
        elif not self.stop.is_set() and self.steps.take(name, step) and self.on_progress:
            limit_s = None if self._ends is None else self._ends - time.monotonic()
            self.on_progress(self.steps.done, self.steps.total, what + self.steps.time_left(limit_s))

    def _without_places(self, error: Exception) -> str:
        return without_places(str(error), *(path for path in (self.bundle, self.run) if path))

    def _kill_at_stop(self, ended: Event) -> None:
        """Kill the workers once the run is stopped: a step may take minutes, and its answer is not kept."""
        while not ended.wait(_LOOK_S):
            for worker in [*self._started] if self.stop.is_set() else ():
                worker.kill()

    def __enter__(self) -> Session:
        if self.settings.limit_s is not None:
            self._ends = time.monotonic() + self.settings.limit_s
        self._stack.callback((ended := Event()).set)
        Thread(target=self._kill_at_stop, args=[ended], daemon=True).start()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)
