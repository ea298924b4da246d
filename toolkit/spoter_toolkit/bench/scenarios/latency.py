"""Scenario `latency`: single calls on full clips, the roofline's beside them; and the workers' memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spoter_runtime.statistics import ROUNDS_TO_CLAIM
from spoter_toolkit.bench.host.monitor import pss_bytes
from spoter_toolkit.bench.host.nvml import gpu_bytes
from spoter_toolkit.bench.records import Memory, Timing
from spoter_toolkit.bench.scenarios.session import Session
from spoter_toolkit.bench.scenarios.steps import Step
from spoter_toolkit.bench.settings import FIRST_WARM_UP, WARM_UP, Case
from spoter_toolkit.bench.worker.protocol import ROOFLINE


def measure_latency(session: Session, cases: Sequence[Case], *, needed: bool) -> tuple[Timing, ...]:
    """Time each case on each worker, in interleaved rounds.

    Where the time is over, only cases that are needed are measured, until they have the rounds of a claim.

    Returns:
        The timings by case, then by backend in the order of the settings, the roofline last.
    """
    settings = session.settings
    answers: dict[tuple[Case, str], list[dict[str, Any]]] = {}
    turn_ns = round(1e9 * settings.seconds_per_case / settings.rounds)
    for number, names in session.rounds("latency", session.backends, needed=needed):
        duration = {
            "warm_up": FIRST_WARM_UP if number == 0 else WARM_UP,
            "min_calls": settings.min_calls_per_round,
            "min_ns": turn_ns,
        }
        for case in cases:
            must = needed and number < ROUNDS_TO_CLAIM
            if not session.may_do(must):
                continue
            for name in names:
                request = {"do": "latency", "batch": case.batch, "frames": case.frames} | duration
                if answer := session.ask(name, case.threads, f"round {number + 1}, {case}", request):
                    answers.setdefault((case, name), []).append(answer)
                what = f"round {number + 1} of {settings.rounds}: {name}, {case}"
                session.step(what, name, Step("latency", turn_ns / 1e9, must))
    return tuple(
        Timing(
            backend=name,
            case=case,
            rounds_ns=tuple(tuple(answer["samples_ns"]) for answer in answers[case, name]),
            warmup_calls=tuple(answer["warm_up"]["calls"] for answer in answers[case, name]),
            unsettled=tuple(n for n, a in enumerate(answers[case, name], 1) if not a["warm_up"]["settled"]),
        )
        for case in cases
        for name in session.backends
        if (case, name) in answers
    )


def call_once(session: Session, cases: Sequence[Case]) -> None:
    """Run each case once on every worker, so that its memory can be read."""
    once = {"warm_up": WARM_UP, "min_calls": 1, "min_ns": 0}
    for _, names in session.rounds("memory", session.settings.backends, count=1):
        for case in cases:
            for name in names:
                request = {"do": "latency", "batch": case.batch, "frames": case.frames} | once
                session.ask(name, case.threads, f"memory, {case}", request)
                session.step(f"memory: {name}, {case}", name, Step("memory", 0.0))


def read_memory(session: Session) -> tuple[Memory, ...]:
    """Return the memory of each worker after all its work; for a lost worker, the last reported values."""
    memory = []
    for (name, threads), opened in session.opened.items():
        if name == ROOFLINE:
            continue
        now = session.ask(name, threads, "reading its memory", {"do": "memory"}) or {}
        worker = session.workers.get((name, threads))
        listed = gpu_bytes(worker.pid) if worker else None
        memory.append(
            Memory(
                backend=name,
                threads=threads,
                at_start=opened["peak_at_start_bytes"],
                imported=opened["peak_imported_bytes"],
                loaded=opened["peak_loaded_bytes"],
                after_runs=session.peaks.get((name, threads), opened["peak_loaded_bytes"]),
                pss=pss_bytes(worker.pid) if worker else None,
                gpu=listed if listed is not None else now.get("torch_gpu_bytes"),
            )
        )
    return tuple(memory)
