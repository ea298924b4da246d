"""Summarise samples: percentiles where there are enough of them, ratios of two backends or two runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from spoter_runtime.statistics import ROUNDS_NEEDED, Ratio, interval_of, ratio_of_rounds, resampled_medians

# Fewest samples for a percentile q: the least n with P(Binomial(n, 1 - q) <= 1) <= 1 %, so that at 99 %
# confidence at least two samples lie beyond it (the rule of MLPerf loadgen's early stopping).
SAMPLES_NEEDED: Final[dict[int, int]] = {50: 11, 90: 64, 99: 662}


def percentile_ms(samples_ns: Sequence[int], percent: int) -> float | None:
    """Return a percentile of `SAMPLES_NEEDED` in milliseconds, None where the samples are too few for it."""
    if len(samples_ns) < SAMPLES_NEEDED[percent]:
        return None
    return float(np.percentile(samples_ns, percent)) / 1e6


def paired_ratio(
    numerator_ns: Sequence[Sequence[int]], denominator_ns: Sequence[Sequence[int]], *, seed: int
) -> Ratio | None:
    """Compare two backends by the samples of each round; a disturbance of the machine disturbs both.

    Rounds that only one of them has are left out; None where no round is common to both.
    """
    ratios = [
        float(np.median(above) / np.median(below))
        for above, below in zip(numerator_ns, denominator_ns, strict=False)
    ]
    return ratio_of_rounds(ratios, seed=seed) if ratios else None


def unpaired_ratio(numerator: Sequence[float], denominator: Sequence[float], *, seed: int) -> Ratio:
    """Compare two runs at different times by a figure of each round: the ratio of its medians.

    A disturbance of one run does not disturb the other, so the interval is wider than that of rounds in turn.
    The bootstrap draws the rounds of each run anew.
    """
    rounds = min(len(numerator), len(denominator))
    low = high = None
    if rounds >= ROUNDS_NEEDED:
        rng = np.random.default_rng(seed)
        above, below = (resampled_medians(values, rng) for values in (numerator, denominator))
        low, high = interval_of(above / below)
    estimate = float(np.median(numerator) / np.median(denominator))
    return Ratio(estimate=estimate, low=low, high=high, rounds=rounds)
