"""Scenario `start`: fresh processes, from their creation to the first answer."""

from __future__ import annotations

import time
from typing import Final

from spoter_runtime.errors import BackendError
from spoter_runtime.machine import usable_cores
from spoter_toolkit.bench.records import Start
from spoter_toolkit.bench.scenarios.session import Session
from spoter_toolkit.bench.scenarios.steps import Step
from spoter_toolkit.bench.worker.client import WorkerLost

_SHARE: Final = 0.3  # of a limited time: later there is no second start


def measure_starts(session: Session, frames: int) -> dict[str, tuple[Start, ...]]:
    """Time fresh processes, the backends in turn, to their first answer for one clip of `frames` frames.

    Returns:
        Backend → its starts. The first start of each shows whether the backend runs here at all.
    """
    starts: dict[str, tuple[Start, ...]] = {}
    for number in range(1, session.settings.starts + 1):
        for backend in session.settings.backends:
            if not session.may_do(needed := number == 1, share=_SHARE):
                continue
            if backend not in session.out and not session.stop.is_set() and not session.rehearses:
                try:
                    start = time_start(session, backend, frames)
                    starts[backend] = (*starts.get(backend, ()), start)
                except (BackendError, WorkerLost) as error:
                    session.note_not_opened(backend, usable_cores(), f"start-up {number}", error)
            what = f"start-up {number} of {session.settings.starts}: {backend}"
            session.step(what, backend, Step("start", needed=needed))
    return starts


def time_start(session: Session, backend: str, frames: int) -> Start:
    """Time one fresh process from its creation to its first answer.

    Raises:
        BackendError: the backend cannot be opened, or its engine failed.
        WorkerLost: the worker died or hung.
    """
    begin_ns = time.perf_counter_ns()
    with session.start_worker(backend, usable_cores()) as worker:
        opened = worker.answer()
        answer = worker.ask(do="latency", batch=1, frames=frames, warm_up=None, min_calls=1, min_ns=0)
        total_ns = time.perf_counter_ns() - begin_ns
    session.note_opened(backend, opened)
    return Start(
        total_ns=total_ns,
        import_ns=opened["import_ns"],
        load_ns=opened["load_ns"],
        first_ns=answer["samples_ns"][0],
    )
