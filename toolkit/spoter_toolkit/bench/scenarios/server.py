"""Scenario `server`: single clips that arrive at random times, and a bound on how long an answer may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from spoter_toolkit.bench.settings import OFFLINE_CLIPS, BenchSettings, warm_up
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED
from spoter_toolkit.data.lengths import ClipLengths

if TYPE_CHECKING:
    from spoter_toolkit.bench.scenarios.session import Turns

LOAD: Final = 0.5  # of the first backend's capacity, where no rate is asked for
SEARCH_STEPS: Final = 6  # halvings of 0..capacity: the rate is found to 1/64 of it
# Of the time of the whole scenario, so long is each of them at least; longer where fewer clips come than the
# percentile needs, up to the whole.
SEARCH_SHARE: Final = 0.2
_SPARE: Final = 1.2  # so many more than needed: how many really come is chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One backend at one rate.

    Attributes:
        rate: clips that were due per second, on average.
        rounds_ns: latency of every answered clip from the moment it was due, round by round.
        unanswered: clips that still waited when twice the time was over, round by round.
        elapsed_ns: from a round's beginning to its last answer.
    """

    backend: str
    threads: int
    rate: float
    bound_ms: float
    rounds_ns: tuple[tuple[int, ...], ...]
    unanswered: tuple[int, ...]
    elapsed_ns: tuple[int, ...]

    @property
    def clips(self) -> int:
        """Clips that were due, answered or not."""
        return sum(map(len, self.rounds_ns)) + sum(self.unanswered)

    @property
    def achieved_rate(self) -> float:
        """Clips answered per second, over at least the time in which they came."""
        return 1e9 * sum(map(len, self.rounds_ns)) / sum(self.elapsed_ns)

    @property
    def share_within(self) -> float:
        """The share of all due clips that were answered within the bound."""
        within = sum(ns <= 1e6 * self.bound_ms for ns in chain.from_iterable(self.rounds_ns))
        return within / self.clips

    def percentile_ms(self, percent: int) -> float | None:
        """Return p50, p90 or p99 of a latency; None with too few clips, infinite with too few answers."""
        if self.clips < SAMPLES_NEEDED[percent]:
            return None
        latencies = [*chain.from_iterable(self.rounds_ns), *[math.inf] * sum(self.unanswered)]
        value = float(np.percentile(latencies, percent, method="higher"))
        return value / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class HighestRate:
    """The highest rate at which a backend keeps the bound, found by halving.

    Attributes:
        percent: the percentile that has to be within the bound: 99 where half the capacity brings enough
            clips for it in the shortest trial, else 90.
        rate: None where even the lowest rate that was tried breaks it.
        trials: (rate, the percentile in ms, whether it was within), in the order they were tried.
    """

    backend: str
    percent: int
    rate: float | None
    trials: tuple[tuple[float, float | None, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerResult:
    """What the scenario has found.

    Attributes:
        capacity: backend → clips per second where the next clip comes when the last one is answered.
    """

    capacity: dict[str, float]
    served: tuple[Served, ...]
    highest: tuple[HighestRate, ...]


def server_steps(settings: BenchSettings) -> int:
    """Return how many steps `measure_server` reports."""
    turns_of_one = 1 + settings.rounds + (SEARCH_STEPS if settings.find_rate else 0)
    return turns_of_one * len(settings.backends)


def measure_server(turns: Turns, lengths: ClipLengths) -> ServerResult:
    """Let the workers with the most threads take turns at the same arriving clips.

    Args:
        turns: of this run.
        lengths: what the clips are drawn from.
    """
    settings = turns.settings
    clips = lengths.sample(OFFLINE_CLIPS, seed=settings.seed)
    capacity = _capacities(turns, clips)
    first = next((capacity[name] for name in settings.backends if name in capacity), None)
    if first is None:
        for _ in range(server_steps(settings) - len(settings.backends)):
            turns.step("server: no worker is left")
        return ServerResult(capacity={}, served=(), highest=())
    rate = LOAD * first if settings.rate is None else settings.rate
    seconds = settings.server_seconds / settings.rounds
    served: dict[str, Served] = {}
    for number, names in turns.rounds("server"):
        for name in (name for name in names if name in settings.backends):
            doing = f"server round {number + 1}"
            answer = _serve(turns, name, clips, doing, rate, seconds, number)
            if answer is not None:
                served[name] = _with_round(turns, served.get(name), name, rate, answer)
            turns.step(f"server, round {number + 1} of {settings.rounds}: {name}")
    found = tuple(served[name] for name in settings.backends if name in served)
    highest = _highest_rates(turns, clips, capacity) if settings.find_rate else ()
    if turns.stop.is_set():
        highest = ()  # the halving did not come to its end
    return ServerResult(capacity=capacity, served=found, highest=highest)


def _capacities(turns: Turns, clips: tuple[int, ...]) -> dict[str, float]:
    """Return clips per second, one after the other without a pause, by backend."""
    capacity = {}
    for name in turns.settings.backends:
        request = {
            "do": "offline",
            "batches": [[length] for length in clips],
            "frames": clips,
            "warm_up": warm_up(first=False),
            "warm_passes": 1,
            "min_passes": 3,
            "min_ns": 0,
        }
        threads = turns.settings.thread_counts[-1]
        if answer := turns.ask(name, threads, "server, finding its capacity", request):
            capacity[name] = 1e9 * len(clips) / float(np.median(answer["samples_ns"]))
        turns.step(f"server: capacity of {name}")
    return capacity


def _serve(
    turns: Turns, name: str, clips: tuple[int, ...], doing: str, rate: float, seconds: float, number: int
) -> dict[str, Any] | None:
    """Ask for one stretch of arrivals; a number gives the same ones to every backend."""
    request = {
        "do": "serve",
        "lengths": clips,
        "rate": rate,
        "seconds": seconds,
        "seed": turns.settings.seed * 1_000_003 + number,
        "warm_up": warm_up(first=False),
    }
    return turns.ask(name, turns.settings.thread_counts[-1], doing, request)


def _with_round(
    turns: Turns, before: Served | None, name: str, rate: float, answer: dict[str, Any]
) -> Served:
    return Served(
        backend=name,
        threads=turns.settings.thread_counts[-1],
        rate=rate,
        bound_ms=turns.settings.bound_ms,
        rounds_ns=(*(before.rounds_ns if before else ()), tuple(answer["latencies_ns"])),
        unanswered=(*(before.unanswered if before else ()), answer["unanswered"]),
        elapsed_ns=(*(before.elapsed_ns if before else ()), answer["elapsed_ns"]),
    )


def _highest_rates(
    turns: Turns, clips: tuple[int, ...], capacity: dict[str, float]
) -> tuple[HighestRate, ...]:
    """Halve between 0 and each backend's capacity, the backends in turn."""
    bounds = {name: (0.0, rate) for name, rate in capacity.items()}
    most_s = turns.settings.server_seconds
    least_s = SEARCH_SHARE * most_s
    percents = {name: _percent(rate / 2 * least_s) for name, rate in capacity.items()}
    trials: dict[str, list[Served]] = {name: [] for name in capacity}
    for step in range(SEARCH_STEPS):
        for name in turns.settings.backends:
            if name in bounds:
                low, high = bounds[name]
                rate = (low + high) / 2
                doing = f"server, looking for its highest rate, {rate:.0f}/s"
                needed_s = _SPARE * SAMPLES_NEEDED[percents[name]] / rate
                seconds = min(max(needed_s, least_s), most_s)
                answer = _serve(turns, name, clips, doing, rate, seconds, step)
                if answer is None:
                    del bounds[name]
                else:
                    trials[name].append(_with_round(turns, None, name, rate, answer))
                    kept = _keeps_bound(trials[name][-1], percents[name])
                    bounds[name] = (rate, high) if kept else (low, rate)
            turns.step(f"server, highest rate, step {step + 1} of {SEARCH_STEPS}: {name}")
    return tuple(_highest(name, percents[name], tried) for name, tried in trials.items() if tried)


def _percent(clips: float) -> int:
    return 99 if clips >= _SPARE * SAMPLES_NEEDED[99] else 90


def _keeps_bound(served: Served, percent: int) -> bool:
    """Tell whether a percentile is within the bound; one with too few clips for it is not."""
    value = served.percentile_ms(percent)
    return value is not None and value <= served.bound_ms


def _highest(name: str, percent: int, tried: list[Served]) -> HighestRate:
    kept = [_keeps_bound(served, percent) for served in tried]
    return HighestRate(
        backend=name,
        percent=percent,
        rate=max((served.rate for served, held in zip(tried, kept, strict=True) if held), default=None),
        trials=tuple((s.rate, s.percentile_ms(percent), held) for s, held in zip(tried, kept, strict=True)),
    )
