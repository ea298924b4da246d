"""Run the bench: the scenarios one after the other, on the workers of one run."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from threading import Event
from typing import Any

from spoter_runtime._types import OnProgress as OnProgress
from spoter_runtime.bundle.manifest import Bundle, read_bundle
from spoter_runtime.errors import BackendError
from spoter_toolkit.bench.analysis.caveats import remarks_on
from spoter_toolkit.bench.analysis.result import BenchResult
from spoter_toolkit.bench.host.environment import environment, load_average
from spoter_toolkit.bench.host.monitor import gpu_clocks
from spoter_toolkit.bench.scenarios.latency import call_once, measure_latency, read_memory
from spoter_toolkit.bench.scenarios.offline import WAYS, Offline, measure_offline
from spoter_toolkit.bench.scenarios.server import measure_server, server_steps
from spoter_toolkit.bench.scenarios.session import Turns
from spoter_toolkit.bench.scenarios.start import measure_starts
from spoter_toolkit.bench.settings import START_UP_FRAMES, BenchSettings, Case
from spoter_toolkit.bench.worker.__main__ import FLOOR
from spoter_toolkit.bench.worker.client import thread_environment
from spoter_toolkit.bench.worker.energy import why_not_readable
from spoter_toolkit.data.lengths import ClipLengths, lengths_from_bundle

_ON_CLIPS = ("offline", "server", "energy")  # scenarios over clips of different lengths


def run_bench(
    bundle_path: Path | str,
    settings: BenchSettings | None = None,
    *,
    run: Path | None = None,
    on_progress: OnProgress | None = None,
    stop: Event | None = None,
    slow_down: dict[str, float] | None = None,
) -> BenchResult:
    """Measure a bundle on every backend that runs here.

    Start-up first: fresh processes, the backends in turn. Then one process for each backend and thread count
    stays alive, and in every round each of them does each of its cases; the backend that goes first changes
    from round to round. So it goes through the scenarios.

    Args:
        bundle_path: the bundle folder.
        settings: None for the defaults.
        run: the RUN that the bundle was made from, for torch; None looks where the bundle says.
        on_progress: called with (done, total, what) after every step.
        stop: set by somebody else meanwhile, it ends the run after the step that is under way; what was
            measured until then is returned, and says so.
        slow_down: backend → a share of each call's time that its workers wait after it; what
            ``benchmarks/a_against_a.py`` plants, to see whether it is found.

    Returns:
        The samples and what was found on the way. A backend that cannot run, and a worker that was lost, are
        named there; the others go on.

    Raises:
        BundleError: the bundle cannot be read, or its model is not as it was written.
        ConfigError: a case that the bundle's contract does not allow.
        BackendError: no backend ran.
        KeyboardInterrupt: it was stopped before anything was measured.
    """
    settings = settings or BenchSettings()
    bundle = read_bundle(bundle_path)
    model = bundle.onnx()
    bundle.read(model.path)  # a damaged file is no backend's fault
    cases = settings.cases(bundle.contract)
    needs_lengths = set(_ON_CLIPS) & set(settings.scenarios)
    lengths = (settings.lengths or lengths_from_bundle(bundle)) if needs_lengths else None
    described = environment() | {"load_average_before": load_average()}
    turns = Turns(
        bundle=bundle.folder,
        settings=settings,
        run=run,
        on_progress=on_progress,
        stop=stop or Event(),
        slow_down=slow_down or {},
    )
    no_energy = why_not_readable() if "energy" in settings.scenarios else None
    turns.steps = _steps(settings, cases, energy=no_energy is None)
    with turns:
        measured = _measure(turns, bundle, cases, lengths, energy=no_energy is None)
    if turns.stop.is_set() and not any(measured.values()):
        raise KeyboardInterrupt
    if not turns.running - {FLOOR} or not any(measured.values()):
        raise BackendError(f"{bundle.folder}: nothing was measured:\n{_reasons(turns, no_energy)}")
    result = BenchResult(
        bundle=bundle.name,
        model_sha256=model.sha256,
        month=datetime.now(timezone.utc).strftime("%Y-%m"),
        settings=settings,
        environment=described | _after(turns, cases),
        model_bytes=turns.model_bytes,
        start_frames=_start_frames(bundle),
        skipped=turns.skipped,
        failures=tuple(turns.failures),
        remarks=(),
        lengths=lengths,
        no_energy=no_energy,
        machine=tuple(turns.machine),
        stopped_after=(turns.done, turns.steps) if turns.stop.is_set() else None,
        **measured,
    )
    return replace(result, remarks=tuple(remarks_on(result, bundle.contract, cases)))


def _reasons(turns: Turns, no_energy: str | None) -> str:
    """Return why each backend gave nothing, a line each."""
    reasons = turns.skipped | {f.backend: f"{f.doing}: {f.reason}" for f in turns.failures}
    if no_energy:
        reasons["energy"] = no_energy
    return "\n".join(f"  {name}: {reason}" for name, reason in reasons.items())


def _measure(
    turns: Turns, bundle: Bundle, cases: tuple[Case, ...], lengths: ClipLengths | None, *, energy: bool
) -> dict[str, Any]:
    """Go through the scenarios; return the fields of the result that hold what they measured."""
    settings = turns.settings
    wanted = set(settings.scenarios)
    most = bundle.contract.max_batch
    starts = measure_starts(turns, _start_frames(bundle)) if "start" in wanted else {}
    if wanted == {"start"}:
        return _fields(starts=starts)
    turns.open(settings.backends, _thread_counts(settings, cases))
    if settings.floor and "latency" in wanted:
        turns.open([FLOOR], _thread_counts(settings, cases))
    timings = measure_latency(turns, cases) if "latency" in wanted else ()
    if "memory" in wanted and "latency" not in wanted:
        call_once(turns, cases)
    offline: tuple[Offline, ...] = ()
    energies: tuple[Offline, ...] = ()
    server = None
    if lengths and "offline" in wanted:
        offline = measure_offline(turns, lengths, max_batch=most)
    if lengths and "server" in wanted:
        server = measure_server(turns, lengths)
        if turns.stop.is_set() and not server.served:
            server = None
    if lengths and "energy" in wanted and energy:
        energies = measure_offline(
            turns, lengths, max_batch=most, ways=("sorted",), scenario="energy", meters=True
        )
    return _fields(
        starts=starts,
        timings=tuple(timing for timing in timings if timing.backend != FLOOR),
        floor=tuple(timing for timing in timings if timing.backend == FLOOR),
        offline=offline,
        server=server,
        energy=energies,
        # After all cases, says the table: a run that was stopped has not done them all.
        memory=read_memory(turns) if "memory" in wanted and not turns.stop.is_set() else (),
    )


def _fields(**measured: Any) -> dict[str, Any]:
    return {"timings": (), "memory": ()} | measured


def _thread_counts(settings: BenchSettings, cases: tuple[Case, ...]) -> list[int]:
    """Return the thread counts for which workers are needed."""
    if {"latency", "memory"} & set(settings.scenarios):
        return sorted({case.threads for case in cases} | {settings.thread_counts[-1]})
    return [settings.thread_counts[-1]]


def _steps(settings: BenchSettings, cases: tuple[Case, ...], *, energy: bool) -> int:
    """Return how many steps a run reports."""
    wanted = set(settings.scenarios)
    backends = len(settings.backends)
    floor = int(settings.floor and "latency" in wanted)
    steps = settings.starts * backends if "start" in wanted else 0
    if wanted != {"start"}:
        steps += len(_thread_counts(settings, cases)) * (backends + floor)
    if "latency" in wanted:
        steps += settings.rounds * len(cases) * (backends + floor)
    elif "memory" in wanted:
        steps += len(cases) * backends
    if "offline" in wanted:
        steps += settings.rounds * len(WAYS) * backends
    if "server" in wanted:
        steps += server_steps(settings)
    if "energy" in wanted and energy:
        steps += settings.rounds * backends
    return steps


def _after(turns: Turns, cases: tuple[Case, ...]) -> dict[str, Any]:
    """Return what is known of the machine and of the workers when all is done."""
    cores = {
        f"{name}, {threads}": opened["cores"]
        for (name, threads), opened in turns.opened.items()
        if opened["cores"] is not None
    }
    gpu = gpu_clocks()
    return {
        "load_average_after": load_average(),
        "gpu_clocks": asdict(gpu) if gpu else None,
        "worker_cores": cores,
        "worker_threads": {str(n): thread_environment(n) for n in sorted({c.threads for c in cases})},
    }


def _start_frames(bundle: Bundle) -> int:
    return min(START_UP_FRAMES, bundle.contract.max_frames)
