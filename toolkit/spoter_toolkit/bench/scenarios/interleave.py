"""Let engines or workers take turns, so that a disturbance of the machine disturbs all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from spoter_runtime.landmarks import Float32Array
from spoter_toolkit.bench.worker.tasks import Infers, timed

Name = TypeVar("Name")


def interleave(
    names: Sequence[Name], rounds: int, *, warm_up: int = 0
) -> Iterator[tuple[int, Sequence[Name]]]:
    """Yield each round's number and the order of its turns: every other round goes backwards.

    The measured rounds are numbered from 0, those that warm up have numbers below 0.
    """
    for number in range(-warm_up, rounds):
        yield number, names if number % 2 == 0 else names[::-1]


def interleaved(names: Sequence[Name], rounds: int, *, warm_up: int = 1) -> Iterator[tuple[int, Name]]:
    """Yield (round, name) for every name in every round, numbers and order as in `interleave`."""
    for number, order in interleave(names, rounds, warm_up=warm_up):
        for name in order:
            yield number, name


def time_interleaved(
    engines: Mapping[str, Infers], poses_NTD: Float32Array, rounds: int, *, min_calls: int, min_ns: int = 0
) -> dict[str, list[list[int]]]:
    """Return name → nanoseconds of each call, round by round, of engines in this process.

    One more round comes first, to warm up; each round has `min_calls` and takes `min_ns` at least.
    """
    samples: dict[str, list[list[int]]] = {name: [] for name in engines}
    for number, name in interleaved([*engines], rounds):
        engine = engines[name]
        taken = timed(lambda engine=engine: engine.infer(poses_NTD), min_calls, min_ns)  # type: ignore[misc]
        if number >= 0:
            samples[name].append(taken)
    return samples
