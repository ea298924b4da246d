"""Scenario `server`: single clips that arrive at random times, and a bound on the time to an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from spoter_runtime.statistics import ROUNDS_TO_CLAIM
from spoter_toolkit.bench.records import HighestRate, Served, ServerRecord
from spoter_toolkit.bench.scenarios.session import Session
from spoter_toolkit.bench.scenarios.steps import Step
from spoter_toolkit.bench.settings import OFFLINE_CLIPS, WARM_UP
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED
from spoter_toolkit.data.lengths import ClipLengths

LOAD: Final = 0.5  # default rate, as a share of the first backend's capacity
SEARCH_STEPS: Final = 6  # halvings of 0..capacity: the rate is found to 1/64 of it
# Shortest trial, as a share of the scenario's time; longer, up to all of it, if the percentile needs more
# clips.
SEARCH_SHARE: Final = 0.2
_SPARE: Final = 1.2  # factor on the number of clips needed, because arrivals are random


def measure_server(session: Session, lengths: ClipLengths) -> ServerRecord:
    """Time the same arriving clips, drawn from `lengths`, on the workers with the most threads, in turn."""
    settings = session.settings
    clips = lengths.sample(OFFLINE_CLIPS, seed=settings.seed)
    capacity = find_capacities(session, clips)
    rate = settings.rate or LOAD * next(iter(capacity.values()), 0.0)
    arrivals = {"lengths": clips, "rate": rate, "seconds": settings.server_seconds / settings.rounds}
    answers: dict[str, list[dict[str, Any]]] = {}
    for number, names in session.rounds("server", settings.backends):
        for name in names:
            if answer := serve(session, name, f"server round {number + 1}", number, arrivals):
                answers.setdefault(name, []).append(answer)
            step = Step("server", settings.server_seconds / settings.rounds, number < ROUNDS_TO_CLAIM)
            session.step(f"server, round {number + 1} of {settings.rounds}: {name}", name, step)
    highest = find_highest_rates(session, clips, capacity) if settings.find_rate else ()
    return ServerRecord(
        capacity=capacity,
        served=tuple(
            served_of(session, name, rate, answers[name]) for name in settings.backends if name in answers
        ),
        highest=() if session.stop.is_set() else highest,  # a halving that was stopped found nothing
    )


def find_capacities(session: Session, clips: tuple[int, ...]) -> dict[str, float]:
    """Return backend → clips per second of single clips without a pause."""
    capacity = {}
    request = {
        "do": "offline",
        "batches": [[length] for length in clips],
        "frames": clips,
        "warm_up": WARM_UP,
        "warm_passes": 1,
        "min_passes": 3,
        "min_ns": 0,
    }
    for name in session.settings.backends:
        threads = session.settings.thread_counts[-1]
        if answer := session.ask(name, threads, "server, finding its capacity", request):
            capacity[name] = 1e9 * len(clips) / float(np.median(answer["samples_ns"]))
        session.step(f"server: capacity of {name}", name, Step("capacity", 0.0))
    return capacity


def serve(
    session: Session, name: str, doing: str, number: int, arrivals: dict[str, Any]
) -> dict[str, Any] | None:
    """Let clips arrive at one backend; `number` seeds the arrival times, so all backends get the same."""
    seed = session.settings.seed * 1_000_003 + number
    request = {"do": "serve", "seed": seed, "warm_up": WARM_UP} | arrivals
    return session.ask(name, session.settings.thread_counts[-1], doing, request)


def served_of(session: Session, name: str, rate: float, answers: Sequence[dict[str, Any]]) -> Served:
    """Return the record of one backend's answers, a round each."""
    return Served(
        backend=name,
        threads=session.settings.thread_counts[-1],
        rate=rate,
        bound_ms=session.settings.bound_ms,
        rounds_ns=tuple(tuple(answer["latencies_ns"]) for answer in answers),
        unanswered=tuple(answer["unanswered"] for answer in answers),
        elapsed_ns=tuple(answer["elapsed_ns"] for answer in answers),
    )


def find_highest_rates(
    session: Session, clips: tuple[int, ...], capacity: dict[str, float]
) -> tuple[HighestRate, ...]:
    """Search the highest rate of each backend by bisection between 0 and its capacity."""
    longest_s = session.settings.server_seconds
    shortest_s = SEARCH_SHARE * longest_s
    bounds = {name: (0.0, rate) for name, rate in capacity.items()}
    percents = {
        name: 99 if rate / 2 * shortest_s >= _SPARE * SAMPLES_NEEDED[99] else 90
        for name, rate in capacity.items()
    }
    trials: dict[str, list[tuple[float, float | None, bool]]] = {name: [] for name in capacity}
    for step in range(SEARCH_STEPS):
        for name in session.settings.backends:
            if name in bounds:
                low, high = bounds[name]
                rate = (low + high) / 2
                needed_s = _SPARE * SAMPLES_NEEDED[percents[name]] / rate
                seconds = min(max(needed_s, shortest_s), longest_s)
                arrivals = {"lengths": clips, "rate": rate, "seconds": seconds}
                doing = f"server, looking for its highest rate, {rate:.0f}/s"
                if (answer := serve(session, name, doing, step, arrivals)) is None:
                    del bounds[name]
                else:
                    value_ms = served_of(session, name, rate, [answer]).percentile_ms(percents[name])
                    kept = value_ms is not None and value_ms <= session.settings.bound_ms
                    trials[name].append((rate, value_ms, kept))
                    bounds[name] = (rate, high) if kept else (low, rate)
            what = f"server, highest rate, step {step + 1} of {SEARCH_STEPS}: {name}"
            session.step(what, name, Step("highest rate", longest_s))
    return tuple(
        HighestRate(
            backend=name,
            percent=percents[name],
            rate=max((rate for rate, _, kept in tried if kept), default=None),
            trials=tuple(tried),
        )
        for name, tried in trials.items()
        if tried
    )
