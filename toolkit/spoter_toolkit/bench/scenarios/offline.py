"""Scenario `offline`: many clips of different lengths at once, with three padding strategies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spoter_toolkit.bench.records import PADDING_STRATEGIES, STRATEGY_IN_WORDS, OfflinePasses, PaddingStrategy
from spoter_toolkit.bench.scenarios.session import Session
from spoter_toolkit.bench.settings import OFFLINE_CLIPS, WARM_UP
from spoter_toolkit.data.lengths import ClipLengths


def batches_of(
    lengths: Sequence[int], size: int, strategy: PaddingStrategy
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Return the lengths of clips in batches of `size`, and the frames to which each batch is padded."""
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
    """Let the workers with the most threads take turns at passes over the same clips.

    Args:
        session: of this run.
        lengths: from which the clips are drawn.
        max_batch: of the contract.
        strategies: of padding.
        scenario: ``"offline"``; or ``"energy"``, where the energy meters are read around each turn.
    """
    settings, meters = session.settings, scenario == "energy"
    threads = settings.thread_counts[-1]
    clips = lengths.sample(OFFLINE_CLIPS, seed=settings.seed)
    size = min(settings.offline_batch, max_batch)
    plans = {strategy: batches_of(clips, size, strategy) for strategy in strategies}
    answers: dict[tuple[PaddingStrategy, str], list[dict[str, Any]]] = {}
    for number, names in session.rounds(scenario, settings.backends):
        for strategy, (batches, frames) in plans.items():
            words = STRATEGY_IN_WORDS[strategy]
            request = {
                "do": "offline",
                "batches": batches,
                "frames": frames,
                "warm_up": WARM_UP,
                "warm_passes": int(number == 0),  # every shape is new then
                "min_passes": 1,
                "min_ns": round(1e9 * settings.offline_seconds / settings.rounds),
                "meters": meters,
            }
            for name in names:
                if answer := session.ask(name, threads, f"{scenario} round {number + 1}, {words}", request):
                    answers.setdefault((strategy, name), []).append(answer)
                session.step(f"{scenario}, round {number + 1} of {settings.rounds}: {name}, {words}")
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
