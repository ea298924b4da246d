"""Compare two ways to run a model round by round, and claim a difference only where it is sure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

# The range of n independent values covers their median with probability 1 - 2 / 2**n: 96.9 % for six,
# 93.75 % for five. With fewer than six rounds no interval of 95 % exists.
ROUNDS_NEEDED: Final = 6

# Two processes of one and the same program differ by where their memory happens to lie: more rounds do not
# average that away, and it says nothing about the program. benchmarks/a_against_a.py measures it.
SAME_PROGRAM: Final = 0.02

# How rarely equal backends may be told apart. The bootstrap over ten rounds alone does so in 4-5 % of pairs
# (simulated); a report holds dozens of pairs, so the exact signed-rank test has to agree.
CLAIM_P: Final = 0.01
ROUNDS_TO_CLAIM: Final = math.ceil(1 - math.log2(CLAIM_P))  # with fewer the test's p cannot be that small

# A bootstrap over so few rounds covers less than it says. Simulated (6 to 20 rounds; normal, heavy-tailed and
# skewed ratios, 2000 runs each): tails of 2.5 % cover the true ratio in 92-95 %, tails of 1 % in 94-98 %.
_TAIL_PERCENT: Final = 1.0
_RESAMPLES: Final = 4000

Claim = Literal["faster", "slower", "no difference detectable", "not sure", "not enough rounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The time of a baseline ÷ the time of a candidate, from rounds.

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

    @property
    def claim(self) -> Claim:
        """What the ratio says about the candidate.

        ``"faster"`` or ``"slower"`` where the whole interval is beyond `SAME_PROGRAM` on one side of 1 and
        the signed-rank test gives at most `CLAIM_P`; ``"not sure"`` where only the test disagrees;
        ``"not enough rounds"`` where no number of agreeing rounds could give so small a p.
        """
        if self.low is None or self.high is None or self.rounds < ROUNDS_TO_CLAIM:
            return "not enough rounds"
        if self.high >= 1 / (1 + SAME_PROGRAM) and self.low <= 1 + SAME_PROGRAM:
            return "no difference detectable"
        if self.p is not None and self.p > CLAIM_P:
            return "not sure"
        return "faster" if self.low > 1 else "slower"


def ratio_of_rounds(ratios: Sequence[float], *, seed: int = 0) -> Ratio:
    """Return the ratio that paired rounds give, with its percentile-bootstrap interval.

    Args:
        ratios: baseline ÷ candidate in each round, one at least.
        seed: of the bootstrap over rounds.
    """
    low = high = None
    if len(ratios) >= ROUNDS_NEEDED:
        low, high = interval_of(resampled_medians(ratios, np.random.default_rng(seed)))
    p = signed_rank_p([math.log(ratio) for ratio in ratios])
    return Ratio(estimate=float(np.median(ratios)), low=low, high=high, rounds=len(ratios), p=p)


def signed_rank_p(log_ratios: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test that values lie around 0, computed exactly.

    Equal backends in turn are exchangeable, so their log ratios are symmetric around 0 for any noise: the
    test needs nothing else. Equal sizes get ranks in the order they come; zeros are left out.
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
    return min(1.0, math.ldexp(tail, 1 - len(sizes)))


def resampled_medians(values: Sequence[float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the medians of `_RESAMPLES` draws of as many values, with replacement."""
    chosen = rng.integers(0, len(values), (_RESAMPLES, len(values)))
    medians: npt.NDArray[np.float64] = np.median(np.asarray(values)[chosen], axis=1)
    return medians


def interval_of(resampled: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval that resampled figures span."""
    low, high = np.percentile(resampled, (_TAIL_PERCENT, 100 - _TAIL_PERCENT))
    return float(low), float(high)
