"""Time engines of one process in turn, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

from collections.abc import Mapping

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
    for done in range(rounds + 1):
        for name in [*engines][:: -1 if done % 2 else 1]:
            engine = engines[name]
            taken = timed(lambda engine=engine: engine.infer(poses_NTD), min_calls, min_ns)  # type: ignore[misc]
            if done:
                samples[name].append(taken)
    return samples
