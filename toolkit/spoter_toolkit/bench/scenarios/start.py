"""Scenario `start`: fresh processes, from their creation to the first answer."""

from __future__ import annotations

import time

from spoter_runtime.errors import BackendError
from spoter_runtime.machine import usable_cores
from spoter_toolkit.bench.analysis.result import Start
from spoter_toolkit.bench.scenarios.session import Turns
from spoter_toolkit.bench.worker.client import WorkerLost


def measure_starts(turns: Turns, frames: int) -> dict[str, tuple[Start, ...]]:
    """Time fresh processes, the backends in turn; the first of each shows whether it runs here at all.

    Args:
        turns: of this run.
        frames: of the one clip that a fresh process answers.

    Returns:
        Backend → its starts.
    """
    starts: dict[str, tuple[Start, ...]] = {}
    for number in range(1, turns.settings.starts + 1):
        for backend in turns.settings.backends:
            if (
                backend not in turns.out
                and not turns.stop.is_set()
                and (start := _start(turns, backend, frames, number))
            ):
                starts[backend] = (*starts.get(backend, ()), start)
            turns.step(f"start-up {number} of {turns.settings.starts}: {backend}")
    return starts


def _start(turns: Turns, backend: str, frames: int, number: int) -> Start | None:
    """Time one start; None where it failed, which `turns` has noted."""
    threads = usable_cores()
    begin_ns = time.perf_counter_ns()
    try:
        with turns.process(backend, threads) as worker:
            opened = worker.opened()
            answer = worker.ask(do="latency", batch=1, frames=frames, warm_up=None, min_calls=1, min_ns=0)
            total_ns = time.perf_counter_ns() - begin_ns
    except (BackendError, WorkerLost) as error:
        turns.not_opened(backend, threads, f"start-up {number}", error)
        return None
    turns.has_opened(backend, opened)
    return Start(
        total_ns=total_ns,
        import_ns=opened["import_ns"],
        load_ns=opened["load_ns"],
        first_ns=answer["samples_ns"][0],
    )
