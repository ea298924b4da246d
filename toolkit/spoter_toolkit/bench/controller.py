"""Run the bench: one live process per backend and thread count, asked in turn, round after round."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from spoter_runtime.bundle import Bundle, read_bundle
from spoter_runtime.errors import BackendError
from spoter_runtime.progress import OnProgress as OnProgress
from spoter_toolkit.bench.cases import (
    START_UP_FRAMES,
    WARMUP_CALLS,
    WARMUP_CALLS_FIRST,
    WARMUP_S,
    BenchSettings,
    Case,
    allows,
    notebook_case,
    plural,
    usable_cores,
)
from spoter_toolkit.bench.environment import environment, load_average, without_places
from spoter_toolkit.bench.process import WorkerLost, WorkerProcess, thread_environment
from spoter_toolkit.bench.results import BenchResult, Failure, Memory, Start, Timing

_BUSY: Final = 0.25  # load average per core before the run from which on the report says so


def run_bench(
    bundle_path: Path | str,
    settings: BenchSettings | None = None,
    *,
    run: Path | None = None,
    on_progress: OnProgress | None = None,
) -> BenchResult:
    """Measure a bundle on every backend that runs here.

    Start-up first: fresh processes, the backends in turn. Then one process for each backend and thread count
    stays alive, and in every round each of them does each of its cases; the backend that goes first changes
    from round to round.

    Args:
        bundle_path: the bundle folder.
        settings: None for the defaults.
        run: the RUN that the bundle was made from, for torch; None looks where the bundle says.
        on_progress: called with (done, total, what) after every step.

    Returns:
        The samples and what was found on the way. A backend that cannot run, and a worker that was lost, are
        named there; the others go on.

    Raises:
        BundleError: the bundle cannot be read, or its model is not as it was written.
        ConfigError: a case that the bundle's contract does not allow.
        BackendError: no backend ran.
    """
    settings = settings or BenchSettings()
    bundle = read_bundle(bundle_path)
    model = bundle.onnx()
    bundle.read(model.path)  # a damaged file is no backend's fault
    cases = settings.cases(bundle.contract)
    described = environment() | {"load_average_before": load_average()}
    bench = _Bench(bundle=bundle, settings=settings, run=run, cases=cases, on_progress=on_progress)
    bench.measure_starts()
    bench.measure_cases()
    if not bench.timings:
        reasons = bench.skipped | {f.backend: f"{f.doing}: {f.reason}" for f in bench.failures}
        listed = "\n".join(f"  {name}: {reason}" for name, reason in reasons.items())
        raise BackendError(f"{bundle.folder}: nothing was measured:\n{listed}")
    return BenchResult(
        bundle=bundle.name,
        model_sha256=model.sha256,
        month=datetime.now(timezone.utc).strftime("%Y-%m"),
        settings=settings,
        environment=described | {"load_average_after": load_average(), "worker_threads": _variables(cases)},
        model_bytes=bench.model_bytes,
        timings=bench.collected_timings(),
        starts={name: tuple(starts) for name, starts in bench.starts.items()},
        start_frames=_start_frames(bundle),
        memory=tuple(bench.memory.values()),
        skipped=bench.skipped,
        failures=tuple(bench.failures),
        remarks=tuple(_remarks(bundle, cases, described["load_average_before"])),
    )


@dataclass(slots=True, kw_only=True)
class _Bench:
    """One run on its way: what has been measured so far, and who is out."""

    bundle: Bundle
    settings: BenchSettings
    run: Path | None
    cases: tuple[Case, ...]
    on_progress: OnProgress | None
    out: set[str] = field(default_factory=set)  # backends that are not started again
    starts: dict[str, list[Start]] = field(default_factory=dict)
    timings: dict[tuple[Case, str], list[tuple[int, ...]]] = field(default_factory=dict)
    memory: dict[tuple[str, int], Memory] = field(default_factory=dict)
    model_bytes: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    done: int = 0

    def measure_starts(self) -> None:
        """Time fresh processes, the backends in turn; find out which backends run here at all."""
        for number in range(1, self.settings.starts + 1):
            for backend in self.settings.backends:
                if backend not in self.out:
                    self._try_start(backend, number)
                self._step(f"start-up {number} of {self.settings.starts}: {backend}")

    def _try_start(self, backend: str, number: int) -> None:
        try:
            start = self._start(backend)
        except BackendError as error:
            self.skipped[backend] = self._clean(error)
            self.out.add(backend)
        except WorkerLost as error:
            self._lost(backend, usable_cores(), f"start-up {number}", error)
            self.out.add(backend)
        else:
            self.starts.setdefault(backend, []).append(start)

    def _start(self, backend: str) -> Start:
        begin_ns = time.perf_counter_ns()
        with self._worker(backend, usable_cores()) as worker:
            opened = worker.opened()
            self.model_bytes[backend] = opened["model_bytes"]
            answer = worker.ask(
                batch=1, frames=_start_frames(self.bundle), warmup_calls=0, warmup_ns=0, min_calls=1, min_ns=0
            )
            total_ns = time.perf_counter_ns() - begin_ns
        return Start(
            total_ns=total_ns,
            import_ns=opened["import_ns"],
            load_ns=opened["load_ns"],
            first_ns=answer["samples_ns"][0],
        )

    def measure_cases(self) -> None:
        """Keep one process per backend and thread count alive, and let them take turns at their cases."""
        with ExitStack() as stack:
            workers = self._open_workers(stack)
            for number in range(self.settings.rounds):
                backends = self.settings.backends if number % 2 == 0 else self.settings.backends[::-1]
                for case in self.cases:
                    for backend in backends:
                        worker = workers.get((backend, case.threads))
                        if worker and not self._turn(worker, backend, case, number):
                            del workers[backend, case.threads]
                        self._step(f"round {number + 1} of {self.settings.rounds}: {backend}, {case}")

    def _open_workers(self, stack: ExitStack) -> dict[tuple[str, int], WorkerProcess]:
        workers = {}
        for threads in sorted({case.threads for case in self.cases}):
            for backend in self.settings.backends:
                if backend not in self.out:
                    worker = stack.enter_context(self._worker(backend, threads))
                    try:
                        self.memory[backend, threads] = _memory(backend, threads, worker.opened())
                        workers[backend, threads] = worker
                    except (BackendError, WorkerLost) as error:
                        self._lost(backend, threads, "loading the model", error)
                self._step(f"loading: {backend}, {plural(threads, 'thread')}")
        return workers

    def _turn(self, worker: WorkerProcess, backend: str, case: Case, number: int) -> bool:
        """Measure one round of a case; False where the worker was lost."""
        try:
            answer = worker.ask(
                batch=case.batch,
                frames=case.frames,
                warmup_calls=WARMUP_CALLS if number else WARMUP_CALLS_FIRST,
                warmup_ns=round(WARMUP_S * 1e9),
                min_calls=self.settings.min_calls_per_round,
                min_ns=round(self.settings.seconds_per_round * 1e9),
            )
        except (BackendError, WorkerLost) as error:
            self._lost(backend, case.threads, f"round {number + 1}, {case}", error)
            return False
        self.timings.setdefault((case, backend), []).append(tuple(answer["samples_ns"]))
        key = backend, case.threads
        self.memory[key] = replace(self.memory[key], after_runs=answer["peak_rss_bytes"])
        return True

    def collected_timings(self) -> tuple[Timing, ...]:
        """Return what was measured, in the order of the cases and of the backends in the settings."""
        return tuple(
            Timing(backend=backend, case=case, rounds_ns=tuple(self.timings[case, backend]))
            for case in self.cases
            for backend in self.settings.backends
            if (case, backend) in self.timings
        )

    def _worker(self, backend: str, threads: int) -> WorkerProcess:
        return WorkerProcess(
            self.bundle.folder, backend, threads, run=self.run, timeout_s=self.settings.reply_timeout_s
        )

    def _lost(self, backend: str, threads: int, doing: str, error: Exception) -> None:
        self.failures.append(
            Failure(backend=backend, threads=threads, doing=doing, reason=self._clean(error))
        )

    def _clean(self, error: Exception) -> str:
        return without_places(str(error), *(path for path in (self.bundle.folder, self.run) if path))

    def _step(self, what: str) -> None:
        self.done += 1
        if self.on_progress:
            turns = len(self.cases) * len(self.settings.backends) * self.settings.rounds
            loads = len({case.threads for case in self.cases}) * len(self.settings.backends)
            starts = self.settings.starts * len(self.settings.backends)
            self.on_progress(self.done, starts + loads + turns, what)


def _memory(backend: str, threads: int, opened: dict[str, Any]) -> Memory:
    return Memory(
        backend=backend,
        threads=threads,
        at_start=opened["peak_at_start_bytes"],
        imported=opened["peak_imported_bytes"],
        loaded=opened["peak_loaded_bytes"],
        after_runs=opened["peak_loaded_bytes"],  # until the first run is done
    )


def _variables(cases: tuple[Case, ...]) -> dict[str, dict[str, str]]:
    """Return the environment variables of the workers by their thread count."""
    return {str(n): thread_environment(n) for n in sorted({case.threads for case in cases})}


def _start_frames(bundle: Bundle) -> int:
    return min(START_UP_FRAMES, bundle.contract.max_frames)


def _remarks(bundle: Bundle, cases: tuple[Case, ...], load_before: float | None) -> list[str]:
    cores = usable_cores()
    remarks = []
    if crowded := sorted({case.threads for case in cases if case.threads > cores}):
        counts = ", ".join(map(str, crowded))
        remarks.append(
            f"threads {counts}: more than the {plural(cores, 'usable core')}, so they wait in turn"
        )
    notebook = notebook_case(cores)
    if not allows(bundle.contract, notebook):
        remarks.append(
            f"the notebook's case {notebook.shape} is not among the cases: the bundle takes at most "
            f"{bundle.contract.max_batch} × {bundle.contract.max_frames}"
        )
    if load_before is not None and load_before > _BUSY * cores:
        remarks.append(
            f"the machine was busy before the run (load average {load_before:g} on "
            f"{plural(cores, 'core')}): trust the ratios more than the times"
        )
    return remarks
