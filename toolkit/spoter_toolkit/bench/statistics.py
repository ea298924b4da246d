"""Summarise samples: percentiles if there are enough, ratios of two backends or two runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from spoter_runtime.statistics import ROUNDS_NEEDED, Ratio, interval_of, ratio_of_rounds, resampled_medians

# Fewest samples for a percentile q: the least n with P(Binomial(n, 1 - q) <= 1) <= 1 %, so that at 99 %
# confidence at least two samples lie beyond it (the rule of MLPerf loadgen's early stopping).
SAMPLES_NEEDED: Final[dict[int, int]] = {50: 11, 90: 64, 99: 662}


def percentile_ms(samples_ns: Sequence[int], percent: int) -> float | None:
    """Return the 50th, 90th or 99th percentile in milliseconds; None if the samples are too few."""
    if len(samples_ns) < SAMPLES_NEEDED[percent]:
        return None
    return float(np.percentile(samples_ns, percent)) / 1e6


def paired_ratio(
    numerator_ns: Sequence[Sequence[int]], denominator_ns: Sequence[Sequence[int]], *, seed: int
) -> Ratio | None:
    """Return the ratio of two interleaved backends, with an interval from the ratios of the rounds.

    A disturbance of the machine affects both. Rounds that only one has are left out; None without a common
    one.
    """
    ratios = [
        float(np.median(above) / np.median(below))
        for above, below in zip(numerator_ns, denominator_ns, strict=False)
    ]
    return ratio_of_rounds(ratios, seed=seed) if ratios else None


def unpaired_ratio(numerator: Sequence[float], denominator: Sequence[float], *, seed: int) -> Ratio:
    """Return median(numerator) ÷ median(denominator) of two separate runs, with a bootstrap interval.

    Each value is the figure of one round. The bootstrap resamples each run on its own, so the interval is
    wider than that of interleaved rounds.
    """
    rounds = min(len(numerator), len(denominator))
    low = high = None
    if rounds >= ROUNDS_NEEDED:
        rng = np.random.default_rng(seed)
        above, below = (resampled_medians(values, rng) for values in (numerator, denominator))
        low, high = interval_of(above / below)
    estimate = float(np.median(numerator) / np.median(denominator))
    return Ratio(estimate=estimate, low=low, high=high, rounds=rounds)
