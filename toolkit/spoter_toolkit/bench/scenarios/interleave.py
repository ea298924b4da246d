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
    """Yield (round, names in order): every other round is in reverse order.

    Measured rounds count from 0; the `warm_up` rounds before them are negative.
    """
    for number in range(-warm_up, rounds):
        yield number, names if number % 2 == 0 else names[::-1]


def interleaved(names: Sequence[Name], rounds: int, *, warm_up: int = 0) -> Iterator[tuple[int, Name]]:
    """Yield (round, name) for each turn; every other round goes backwards, warm-up rounds are negative."""
    for number, order in interleave(names, rounds, warm_up=warm_up):
        for name in order:
            yield number, name


def time_interleaved(
    engines: Mapping[str, Infers], poses_NTD: Float32Array, rounds: int, *, min_calls: int, min_ns: int = 0
) -> dict[str, list[list[int]]]:
    """Time engines of this process in turn; return name → nanoseconds of each call, round by round.

    One warm-up round comes first. Each round has at least `min_calls` calls and takes at least `min_ns`.
    """
    samples: dict[str, list[list[int]]] = {name: [] for name in engines}
    for number, name in interleaved([*engines], rounds, warm_up=1):
        engine = engines[name]
        taken = timed(lambda engine=engine: engine.infer(poses_NTD), min_calls, min_ns)  # type: ignore[misc]
        if number >= 0:
            samples[name].append(taken)
    return samples
