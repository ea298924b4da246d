"""Run the bench: the scenarios on the workers of one session, then the analysis."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from threading import Event
from typing import Any

from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.manifest import Bundle, read_bundle
from spoter_runtime.errors import BackendError
from spoter_toolkit.bench.analysis.compare import Bound, EarlierRun, check_comparable
from spoter_toolkit.bench.analysis.result import BenchResult, analyse
from spoter_toolkit.bench.host.environment import environment, load_average
from spoter_toolkit.bench.host.nvml import gpu_clocks
from spoter_toolkit.bench.records import BenchRecords
from spoter_toolkit.bench.scenarios.latency import call_once, measure_latency, read_memory
from spoter_toolkit.bench.scenarios.offline import measure_offline
from spoter_toolkit.bench.scenarios.server import measure_server
from spoter_toolkit.bench.scenarios.session import Session
from spoter_toolkit.bench.scenarios.start import measure_starts
from spoter_toolkit.bench.settings import START_UP_FRAMES, BenchSettings, headline_of, settings_for
from spoter_toolkit.bench.worker.client import thread_environment
from spoter_toolkit.bench.worker.energy import why_not_readable
from spoter_toolkit.bench.worker.protocol import ROOFLINE
from spoter_toolkit.data.lengths import ClipLengths, lengths_from_bundle


def run_bench(
    bundle: Bundle | Path | str,
    settings: BenchSettings | None = None,
    *,
    run: Path | None = None,
    against: EarlierRun | None = None,
    bound: Bound | None = None,
    on_progress: OnProgress | None = None,
    stop: Event | None = None,
    slow_down: dict[str, float] | None = None,
) -> BenchResult:
    """Measure a bundle on every backend that runs here, and analyse the samples.

    First the start-up: fresh processes, the backends in turn; where the time is limited, the headline's case
    comes before it. Then one process for each backend and thread
    count stays alive and runs each of its cases in every round; every other round goes in reverse order. The
    other scenarios follow in the same way.

    Args:
        bundle: from `read_bundle`, or its folder.
        settings: None for the defaults, cut to what the bundle takes.
        run: the RUN that the bundle was made from, for torch; None looks at the place that the bundle names.
        against: earlier run to compare with, from `spoter_toolkit.bench.analysis.compare.earlier_run`.
        bound: limit for the comparison.
        on_progress: called with (done, total, what) after every step; a backend that cannot run has none.
        stop: set it to end the run in the middle of a step; the samples until that step are kept.
        slow_down: backend → share of each call's time to wait after the call; ``benchmarks/a_against_a.py``
            tests with it that a slow-down is found.

    Returns:
        The records and their analysis. They name the backends that cannot run and the workers that were lost.

    Raises:
        BundleError: the bundle cannot be read, or its model is damaged.
        DataError: the earlier run has no backend and case in common with this one.
        ConfigError: a case that the bundle's contract does not allow.
        BackendError: no backend ran.
        KeyboardInterrupt: it was stopped before anything was measured.
    """
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    settings = settings or settings_for(bundle.contract)
    if against:
        check_comparable(against, settings, bundle.contract)
    settings.cases(bundle.contract)  # a case beyond the contract is found before a worker starts
    bundle.read(bundle.onnx().path)  # a damaged file is no backend's fault
    session = Session(
        bundle=bundle.folder,
        settings=settings,
        run=run,
        on_progress=on_progress,
        stop=stop or Event(),
        slow_down=slow_down or {},
    )
    return analyse(measure(session, bundle), earlier=against, bound=bound)


def measure(session: Session, bundle: Bundle) -> BenchRecords:
    """Run the scenarios of a session; return the records.

    Raises:
        BackendError: no backend ran.
        KeyboardInterrupt: the session was stopped before anything was measured.
    """
    settings = session.settings
    no_energy = why_not_readable() if "energy" in settings.scenarios else None
    lengths = None
    if {"offline", "server", "energy"} & set(settings.scenarios):
        lengths = settings.lengths or lengths_from_bundle(bundle)
    described = environment() | {"load_average_before": load_average()}
    # Dry run without workers, to count the steps.
    rehearsal = Session(bundle=bundle.folder, settings=settings, rehearses=True)
    measure_scenarios(rehearsal, bundle, lengths, energy=no_energy is None)
    session.steps = rehearsal.steps
    if session.on_progress:
        session.on_progress(0, session.steps.total, "looking which backends run here")
    with session:
        measured = measure_scenarios(session, bundle, lengths, energy=no_energy is None)
    if session.stop.is_set() and not any(measured.values()):
        raise KeyboardInterrupt
    if not session.running - {ROOFLINE} or not any(measured.values()):
        reasons = session.skipped | {f.backend: f"{f.doing}: {f.reason}" for f in session.failures}
        reasons |= {"energy": no_energy} if no_energy else {}
        lines = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
        raise BackendError(f"{bundle.folder}: nothing was measured:{lines}")
    done = (session.steps.done, session.steps.total)
    return BenchRecords(
        bundle=bundle.name,
        model_sha256=bundle.onnx().sha256,
        month=f"{datetime.now(timezone.utc):%Y-%m}",
        settings=settings,
        contract=bundle.contract,
        environment=described | environment_after(session, bundle),
        model_bytes=session.model_bytes,
        start_frames=min(START_UP_FRAMES, bundle.contract.max_frames),
        skipped=session.skipped,
        failures=tuple(session.failures),
        lengths=lengths,
        no_energy=no_energy,
        machine=tuple(session.machine),
        stopped_after=done if session.stop.is_set() else None,
        cut_after=done if session.is_cut and not session.stop.is_set() else None,
        **measured,
    )


def measure_scenarios(
    session: Session, bundle: Bundle, lengths: ClipLengths | None, *, energy: bool
) -> dict[str, Any]:
    """Run the scenarios after the start-up; return the fields of `BenchRecords` with their samples."""
    settings, wanted = session.settings, set(session.settings.scenarios)
    cases = settings.cases(bundle.contract)
    measured: dict[str, Any] = {"starts": {}}
    with_latency = "latency" in wanted
    names = session.backends if with_latency else settings.backends
    # Where time is limited, the headline comes first: a run that is cut, or stopped early, has it at least.
    first = [headline_of(cases)] if with_latency and settings.limit_s is not None else []
    session.open(names, {case.threads for case in first}, needed=True)
    timings = measure_latency(session, first, needed=True) if first else ()
    if "start" in wanted:
        measured["starts"] = measure_starts(session, min(START_UP_FRAMES, bundle.contract.max_frames))
    if wanted == {"start"}:
        return measured
    thread_counts = {settings.thread_counts[-1]}
    if {"latency", "memory"} & wanted:
        thread_counts |= {case.threads for case in cases}
    session.open(names, sorted(thread_counts - {case.threads for case in first}), needed=False)
    if with_latency:
        timings += measure_latency(session, [case for case in cases if case not in first], needed=False)
        timings = tuple(sorted(timings, key=lambda timing: cases.index(timing.case)))
        measured["timings"] = tuple(timing for timing in timings if timing.backend != ROOFLINE)
        measured["roofline"] = tuple(timing for timing in timings if timing.backend == ROOFLINE)
    elif "memory" in wanted:
        call_once(session, cases)
    if lengths and "offline" in wanted:
        measured["offline"] = measure_offline(session, lengths, max_batch=bundle.contract.max_batch)
    if lengths and "server" in wanted:
        server = measure_server(session, lengths)
        measured["server"] = None if session.stop.is_set() and not server.served else server
    if lengths and "energy" in wanted and energy:
        measured["energy"] = measure_offline(
            session, lengths, max_batch=bundle.contract.max_batch, strategies=("sorted",), scenario="energy"
        )
    if "memory" in wanted and not session.stop.is_set():  # a run that was stopped has not done all cases
        measured["memory"] = read_memory(session)
    return measured


def environment_after(session: Session, bundle: Bundle) -> dict[str, Any]:
    """Return the facts about the machine and the workers that are known only after the run."""
    gpu = gpu_clocks()
    thread_counts = sorted({case.threads for case in session.settings.cases(bundle.contract)})
    return {
        "load_average_after": load_average(),
        "gpu_clocks": asdict(gpu) if gpu else None,
        "worker_cores": {
            f"{name}, {threads}": opened["cores"]
            for (name, threads), opened in session.opened.items()
            if opened["cores"] is not None
        },
        "worker_threads": {str(count): thread_environment(count) for count in thread_counts},
    }
