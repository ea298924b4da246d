"""Compare two backends by paired rounds, and claim a difference only if it is significant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

# The range of n independent values covers the true median with probability 1 - 2 / 2**n: 96.9 % for six,
# 93.75 % for five. With fewer than six rounds no 95 % interval exists.
ROUNDS_NEEDED: Final = 6

# Two processes of the same program differ in speed by their memory layout; more rounds do not average that
# away. benchmarks/a_against_a.py measures it.
SAME_PROGRAM: Final = 0.02

# Largest p-value for a claim. The bootstrap over ten rounds alone has 4-5 % false alarms (simulated); a
# report holds dozens of pairs, so the exact signed-rank test must agree.
CLAIM_P: Final = 0.01
ROUNDS_TO_CLAIM: Final = math.ceil(1 - math.log2(CLAIM_P))  # fewer cannot give so small a p

# A bootstrap over so few rounds covers less than it says. Simulated (6 to 20 rounds; normal, heavy-tailed and
# skewed ratios, 2000 runs each): tails of 2.5 % cover the true ratio in 92-95 %, tails of 1 % in 94-98 %.
_TAIL_PERCENT: Final = 1.0
_RESAMPLES: Final = 4000

Claim = Literal["faster", "slower", "no difference detectable", "not sure", "not enough rounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The time of a baseline ÷ the time of a candidate, over rounds.

    Attributes:
        estimate: median of the rounds' ratios; each is a ratio of the round's medians.
        low: lower end of the 95 % interval; None with fewer than `ROUNDS_NEEDED` rounds.
        high: upper end of the 95 % interval.
        rounds: number of rounds that both have.
        p: p-value of the signed-rank test of the paired rounds against 1; None for unpaired rounds.
    """

    estimate: float
    low: float | None
    high: float | None
    rounds: int
    p: float | None = None

    def __str__(self) -> str:
        """Return the estimate with its interval, if any: ``"1.34 (1.17–1.39)"``."""
        return f"{self.estimate:.2f}" + ("" if self.low is None else f" ({self.low:.2f}–{self.high:.2f})")

    @property
    def claim(self) -> Claim:
        """The claim about the candidate.

        ``"faster"`` or ``"slower"`` if the whole interval is beyond `SAME_PROGRAM` on one side of 1 and the
        p-value is at most `CLAIM_P`; ``"not sure"`` if the p-value is larger; ``"not enough rounds"`` with
        fewer than `ROUNDS_TO_CLAIM`.
        """
        if self.low is None or self.high is None or self.rounds < ROUNDS_TO_CLAIM:
            return "not enough rounds"
        if self.high >= 1 / (1 + SAME_PROGRAM) and self.low <= 1 + SAME_PROGRAM:
            return "no difference detectable"
        if self.p is not None and self.p > CLAIM_P:
            return "not sure"
        return "faster" if self.low > 1 else "slower"


def times(ratio: float) -> str:
    """Return a ratio of times as people read it: ``"2.10×"``."""
    return f"{ratio:.2f}×"


def times_as_fast(ratio: float) -> str:
    """Return a ratio, baseline ÷ candidate, in words: ``"2.10× as fast"``; below 1 for a slower one."""
    return f"{times(ratio)} as fast"


def ratio_of_rounds(ratios: Sequence[float], *, seed: int = 0) -> Ratio:
    """Return the ratio that paired rounds give, with its percentile-bootstrap interval.

    Args:
        ratios: baseline ÷ candidate of each round, at least one.
        seed: seed of the bootstrap.
    """
    low = high = None
    if len(ratios) >= ROUNDS_NEEDED:
        low, high = interval_of(resampled_medians(ratios, np.random.default_rng(seed)))
    p = signed_rank_p([math.log(ratio) for ratio in ratios])
    return Ratio(estimate=float(np.median(ratios)), low=low, high=high, rounds=len(ratios), p=p)


def signed_rank_p(log_ratios: Sequence[float]) -> float:
    """Return the exact two-sided p-value of Wilcoxon's signed-rank test against 0.

    Interleaved equal backends are exchangeable, so their log ratios are symmetric around 0 for any noise,
    which is all that the test assumes. Ties are ranked in order of occurrence; zeros are dropped.
    """
    sizes = sorted((abs(value), value > 0) for value in log_ratios if value != 0)
    if not sizes:
        return 1.0
    total = len(sizes) * (len(sizes) + 1) // 2
    positive = sum(rank for rank, (_, above) in enumerate(sizes, 1) if above)
    ways = [1] + [0] * total  # ways[s]: number of sign choices whose positive ranks sum to s
    for rank in range(1, len(sizes) + 1):
        for added in range(total, rank - 1, -1):
            ways[added] += ways[added - rank]
    tail = sum(ways[: min(positive, total - positive) + 1])
    return min(1.0, math.ldexp(tail, 1 - len(sizes)))


def resampled_medians(values: Sequence[float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the medians of `_RESAMPLES` bootstrap samples of the values."""
    chosen = rng.integers(0, len(values), (_RESAMPLES, len(values)))
    medians: npt.NDArray[np.float64] = np.median(np.asarray(values)[chosen], axis=1)
    return medians


def interval_of(resampled: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval from resampled estimates."""
    low, high = np.percentile(resampled, (_TAIL_PERCENT, 100 - _TAIL_PERCENT))
    return float(low), float(high)
