"""Time engines of one process in turn, so that a change of the machine's speed meets all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from spoter_runtime.landmarks import Float32Array
from spoter_toolkit.bench.worker.tasks import Infers, timed


def in_turn(
    engines: Mapping[str, Infers], poses_NTD: Float32Array, rounds: int, *, min_calls: int, min_ns: int = 0
) -> dict[str, list[list[int]]]:
    """Return name → nanoseconds of each call, round by round; every other round goes backwards.

    Args:
        engines: what is measured.
        poses_NTD: full clips, one batch.
        rounds: after one that warms up.
        min_calls: in a round, at least.
        min_ns: a round's time, at least.
    """
    samples: dict[str, list[list[int]]] = {name: [] for name in engines}
    for number, name in interleaved([*engines], rounds):
        engine = engines[name]
        taken = timed(lambda engine=engine: engine.infer(poses_NTD), min_calls, min_ns)  # type: ignore[misc]
        if number >= 0:
            samples[name].append(taken)
    return samples


def interleaved(names: Sequence[str], rounds: int, *, warm_up: int = 1) -> Iterator[tuple[int, str]]:
    """Yield (round, name) for every name in every round; every other round goes backwards.

    Args:
        names: of the engines.
        rounds: that are measured, numbered from 0.
        warm_up: rounds before them, whose numbers are below 0.
    """
    for number in range(-warm_up, rounds):
        for name in names[:: -1 if number % 2 else 1]:
            yield number, name
