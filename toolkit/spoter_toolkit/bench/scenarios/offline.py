"""Scenario `offline`: many clips of different lengths at once, with three padding strategies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spoter_runtime.statistics import ROUNDS_TO_CLAIM
from spoter_toolkit.bench.records import PADDING_STRATEGIES, STRATEGY_IN_WORDS, OfflinePasses, PaddingStrategy
from spoter_toolkit.bench.scenarios.session import Session
from spoter_toolkit.bench.scenarios.steps import Step
from spoter_toolkit.bench.settings import OFFLINE_CLIPS, WARM_UP
from spoter_toolkit.data.lengths import ClipLengths


def batches_of(
    lengths: Sequence[int], size: int, strategy: PaddingStrategy
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Split `lengths` into batches of at most `size`; return the batches and each batch's padded length.

    Strategies: ``"longest"`` pads every batch to the longest clip of all, ``"batch"`` and ``"sorted"`` to the
    longest of the batch; ``"sorted"`` sorts the lengths first.
    """
    ordered = sorted(lengths) if strategy == "sorted" else lengths
    batches = tuple(tuple(ordered[start : start + size]) for start in range(0, len(ordered), size))
    longest = max(lengths)
    return batches, tuple(longest if strategy == "longest" else max(batch) for batch in batches)


def padding_of(batches: Sequence[Sequence[int]], frames: Sequence[int]) -> float:
    """Return the share of padding among the computed frames."""
    computed = sum(len(batch) * padded for batch, padded in zip(batches, frames, strict=True))
    return 1 - sum(map(sum, batches)) / computed


def measure_offline(
    session: Session,
    lengths: ClipLengths,
    *,
    max_batch: int,
    strategies: Sequence[PaddingStrategy] = PADDING_STRATEGIES,
    scenario: str = "offline",
) -> tuple[OfflinePasses, ...]:
    """Time passes over the same clips, on the workers with the most threads, in turn.

    Args:
        session: the session of this run.
        lengths: the histogram to draw clips from.
        max_batch: the contract's largest batch.
        strategies: padding strategies.
        scenario: ``"offline"``, or ``"energy"`` to read the energy meters around each turn.
    """
    settings, meters = session.settings, scenario == "energy"
    threads = settings.thread_counts[-1]
    clips = lengths.sample(OFFLINE_CLIPS, seed=settings.seed)
    size = min(settings.offline_batch, max_batch)
    plans = {strategy: batches_of(clips, size, strategy) for strategy in strategies}
    answers: dict[tuple[PaddingStrategy, str], list[dict[str, Any]]] = {}
    alone = "latency" not in settings.scenarios  # nothing else is compared where the time is over
    for number, names in session.rounds(scenario, settings.backends, needed=alone):
        for strategy, (batches, frames) in plans.items():
            needed = alone and strategy == strategies[-1] and number < ROUNDS_TO_CLAIM
            if not session.may_do(needed):
                continue
            words = STRATEGY_IN_WORDS[strategy]
            request = {
                "do": "offline",
                "batches": batches,
                "frames": frames,
                "warm_up": WARM_UP,
                "warm_passes": int(number == 0),  # in the first round every shape is new
                "min_passes": 1,
                "min_ns": round(1e9 * settings.offline_seconds / settings.rounds),
                "meters": meters,
            }
            for name in names:
                if answer := session.ask(name, threads, f"{scenario} round {number + 1}, {words}", request):
                    answers.setdefault((strategy, name), []).append(answer)
                what = f"{scenario}, round {number + 1} of {settings.rounds}: {name}, {words}"
                step = Step(scenario, settings.offline_seconds / settings.rounds, needed)
                session.step(what, name, step)
    return tuple(
        OfflinePasses(
            backend=name,
            threads=threads,
            strategy=strategy,
            clips=len(clips),
            padding=padding_of(*plan),
            rounds_ns=tuple(tuple(answer["samples_ns"]) for answer in answers[strategy, name]),
            joules=tuple(answer["joules"] for answer in answers[strategy, name]) if meters else (),
        )
        for strategy, plan in plans.items()
        for name in settings.backends
        if (strategy, name) in answers
    )
