"""What may be said of the samples: percentiles with enough of them, ratios with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

# Fewest samples for a percentile q: the least n with P(Binomial(n, 1 - q) <= 1) <= 1 %, so that at 99 %
# confidence at least two samples lie beyond it (the rule of MLPerf loadgen's early stopping).
SAMPLES_NEEDED: Final[dict[int, int]] = {50: 11, 90: 64, 99: 662}

# The range of n independent values covers their median with probability 1 - 2 / 2**n: 96.9 % for six,
# 93.75 % for five. With fewer than six rounds no interval of 95 % exists.
ROUNDS_NEEDED: Final = 6

# A bootstrap over so few rounds covers less than it says. Simulated (6 to 20 rounds; normal, heavy-tailed and
# skewed ratios, 2000 runs each): tails of 2.5 % cover the true ratio in 92-95 %, tails of 1 % in 94-98 %.
_TAIL_PERCENT: Final = 1.0
_RESAMPLES: Final = 4000


def percentile_ms(samples_ns: Sequence[int], percent: int) -> float | None:
    """Return a percentile in milliseconds, or None where the samples are too few for it.

    Args:
        samples_ns: durations in nanoseconds, in any order.
        percent: one of `SAMPLES_NEEDED`.
    """
    if len(samples_ns) < SAMPLES_NEEDED[percent]:
        return None
    return float(np.percentile(samples_ns, percent)) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times the second took as long as the first, from rounds taken in turn.

    Attributes:
        estimate: median over the rounds of the ratio of the rounds' medians.
        low: lower end of its 95 % interval; None with fewer than `ROUNDS_NEEDED` rounds.
        high: upper end.
        rounds: how many rounds both have.
        p: of the signed-rank test that the rounds lie around 1; None where rounds are not paired.
    """

    estimate: float
    low: float | None
    high: float | None
    rounds: int
    p: float | None = None

    def __str__(self) -> str:
        """Return the estimate, and its interval where there is one: ``"1.34 (1.17–1.39)"``."""
        return f"{self.estimate:.2f}" + ("" if self.low is None else f" ({self.low:.2f}–{self.high:.2f})")


def paired_ratio(
    numerator_ns: Sequence[Sequence[int]], denominator_ns: Sequence[Sequence[int]], *, seed: int
) -> Ratio | None:
    """Compare two backends round by round; what disturbed the machine for a while disturbed both.

    Args:
        numerator_ns: samples of each round of the one.
        denominator_ns: samples of each round of the other; rounds that only one of them has are left out.
        seed: of the bootstrap over rounds.

    Returns:
        The ratio with its percentile-bootstrap interval, or None where no round is common to both.
    """
    ratios = [
        float(np.median(above) / np.median(below))
        for above, below in zip(numerator_ns, denominator_ns, strict=False)
    ]
    if not ratios:
        return None
    low = high = None
    if len(ratios) >= ROUNDS_NEEDED:
        low, high = _interval(_resampled_medians(ratios, np.random.default_rng(seed)))
    return Ratio(
        estimate=float(np.median(ratios)),
        low=low,
        high=high,
        rounds=len(ratios),
        p=signed_rank_p([float(np.log(ratio)) for ratio in ratios]),
    )


def unpaired_ratio(numerator: Sequence[float], denominator: Sequence[float], *, seed: int) -> Ratio:
    """Compare two runs at different times: the ratio of the medians over their rounds.

    What disturbed one of them did not disturb the other: the interval is wider than that of rounds in turn.

    Args:
        numerator: a figure of each round of the one run.
        denominator: the same of the other.
        seed: of the bootstrap, which draws the rounds of each run anew.
    """
    rounds = min(len(numerator), len(denominator))
    estimate = float(np.median(numerator) / np.median(denominator))
    if rounds < ROUNDS_NEEDED:
        return Ratio(estimate=estimate, low=None, high=None, rounds=rounds)
    rng = np.random.default_rng(seed)
    above, below = (_resampled_medians(values, rng) for values in (numerator, denominator))
    low, high = _interval(above / below)
    return Ratio(estimate=estimate, low=low, high=high, rounds=rounds)


def signed_rank_p(log_ratios: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test that values lie around 0, computed exactly.

    Equal backends in turn are exchangeable, so their log ratios are symmetric around 0 whatever the noise
    is: that is all the test needs. Equal sizes get ranks in the order they come; zeros are left out.
    """
    sizes = sorted((abs(value), value > 0) for value in log_ratios if value != 0)
    if not sizes:
        return 1.0
    total = len(sizes) * (len(sizes) + 1) // 2
    positive = sum(rank for rank, (_, above) in enumerate(sizes, 1) if above)
    ways = [1] + [0] * total  # in how many ways of choosing signs the positive ranks add up to the index
    for rank in range(1, len(sizes) + 1):
        for added in range(total, rank - 1, -1):
            ways[added] += ways[added - rank]
    tail = sum(ways[: min(positive, total - positive) + 1])
    return min(1.0, tail / float(2 ** (len(sizes) - 1)))


def _resampled_medians(values: Sequence[float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the medians of `_RESAMPLES` draws of as many values, with replacement."""
    chosen = rng.integers(0, len(values), (_RESAMPLES, len(values)))
    medians: npt.NDArray[np.float64] = np.median(np.asarray(values)[chosen], axis=1)
    return medians


def _interval(resampled: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval that resampled figures span."""
    low, high = np.percentile(resampled, (_TAIL_PERCENT, 100 - _TAIL_PERCENT))
    return float(low), float(high)
