"""Scenario `latency`: single calls on full clips, and of the floor beside them; `memory` on the way."""

from __future__ import annotations

from collections.abc import Sequence

from spoter_toolkit.bench.analysis.result import Memory, Timing
from spoter_toolkit.bench.host.monitor import gpu_bytes
from spoter_toolkit.bench.scenarios.session import Turns
from spoter_toolkit.bench.settings import Case, warm_up
from spoter_toolkit.bench.worker.__main__ import FLOOR


def measure_latency(turns: Turns, cases: Sequence[Case]) -> tuple[Timing, ...]:
    """Let the workers take turns at the cases, round after round.

    Returns:
        In the order of the cases and of the backends in the settings, the floor last.
    """
    found: dict[tuple[Case, str], Timing] = {}
    for number, names in turns.rounds("latency"):
        for case in cases:
            for name in names:
                doing = f"round {number + 1}, {case}"
                answer = turns.ask(name, case.threads, doing, _request(turns, case, first=number == 0))
                if answer is not None:
                    before = found.get((case, name)) or Timing(backend=name, case=case, rounds_ns=())
                    found[case, name] = before.with_round(answer["samples_ns"], answer["warm_up"])
                turns.step(f"round {number + 1} of {turns.settings.rounds}: {name}, {case}")
    order = [(case, name) for case in cases for name in turns.names()]
    return tuple(found[key] for key in order if key in found)


def call_once(turns: Turns, cases: Sequence[Case]) -> None:
    """Let every worker do each case once, for the memory that it takes."""
    for _, names in turns.rounds("memory", count=1):
        for case in cases:
            for name in names:
                request = _request(turns, case, first=False) | {"min_calls": 1, "min_ns": 0}
                turns.ask(name, case.threads, f"memory, {case}", request)
                turns.step(f"memory: {name}, {case}")


def _request(turns: Turns, case: Case, *, first: bool) -> dict[str, object]:
    return {
        "do": "latency",
        "batch": case.batch,
        "frames": case.frames,
        "warm_up": warm_up(first),
        "min_calls": turns.settings.min_calls_per_round,
        "min_ns": round(1e9 * turns.settings.seconds_per_round),
    }


def read_memory(turns: Turns) -> tuple[Memory, ...]:
    """Return what each worker holds after all its work; of one that was lost, what it had said before."""
    found = []
    for (name, threads), opened in turns.opened.items():
        if name == FLOOR:
            continue
        now = turns.ask(name, threads, "reading its memory", {"do": "memory"}) or {}
        worker = turns.workers.get((name, threads))
        listed = gpu_bytes(worker.pid) if worker else None
        found.append(
            Memory(
                backend=name,
                threads=threads,
                at_start=opened["peak_at_start_bytes"],
                imported=opened["peak_imported_bytes"],
                loaded=opened["peak_loaded_bytes"],
                after_runs=turns.peaks.get((name, threads), opened["peak_loaded_bytes"]),
                pss=now.get("pss_bytes"),
                gpu=listed if listed is not None else now.get("torch_gpu_bytes"),
            )
        )
    return tuple(found)
