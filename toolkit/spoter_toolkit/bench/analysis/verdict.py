"""Say in words whether one backend is faster than another, and claim no difference that is not sure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import count
from typing import Final

from spoter_toolkit.bench.statistics import Ratio

NO_DIFFERENCE: Final = "no difference detectable"
NOT_SURE: Final = "not sure"
NOT_ENOUGH: Final = "not enough rounds"

# Two processes of one and the same program differ by where their memory happens to lie: no rounds average
# that away, and it says nothing about the program. See benchmarks/a_against_a.py, which measures it.
SAME_PROGRAM: Final = 0.02

# How rarely equal backends may be told apart. The bootstrap over ten rounds alone does so in 4-5 % of pairs
# (simulated); a report holds dozens of pairs, so the signed-rank test, which is exact, is asked as well.
CLAIM_P: Final = 0.01

_TIMES_BEYOND: Final = 2.0  # "1.5–6.3 times as long" is easier to read than "by 49–527 %"
_CLOSE_TO_1: Final = 1.1  # below it, one digit after the point would say nothing


def verdict(ratio: Ratio) -> str:
    """Return what a ratio of times, baseline ÷ backend, says about the backend.

    Returns:
        ``"faster by 18–23 %"``: the baseline takes so much longer; ``"slower by 9–12 %"``: the backend takes
        so much longer than the baseline; ``"faster: 2.9–3.1 times as fast"`` and ``"slower: 1.5–6.3 times as
        long"`` where the interval goes beyond twice. `NO_DIFFERENCE` where the interval is
        not wholly beyond `SAME_PROGRAM` on one side of 1; `NOT_SURE` where it is, and the signed-rank test of
        the rounds gives more than `CLAIM_P`; `NOT_ENOUGH` where no number of agreeing rounds could give less.
    """
    if ratio.low is None or ratio.high is None or least_p(ratio.rounds) > CLAIM_P:
        return NOT_ENOUGH
    if ratio.high >= 1 / (1 + SAME_PROGRAM) and ratio.low <= 1 + SAME_PROGRAM:
        return NO_DIFFERENCE
    if ratio.p is not None and ratio.p > CLAIM_P:
        return NOT_SURE
    if ratio.low > 1:
        return _in_words("faster", "as fast", ratio.low, ratio.high)
    return _in_words("slower", "as long", 1 / ratio.high, 1 / ratio.low)


def is_claim(words: str) -> bool:
    """Tell whether a verdict claims a difference."""
    return words not in (NO_DIFFERENCE, NOT_SURE, NOT_ENOUGH)


def least_p(rounds: int) -> float:
    """Return the least p that the signed-rank test can give for so many rounds: all on one side."""
    return math.ldexp(2.0, -rounds)


def explained(verdicts: Iterable[str]) -> str:
    """Return what verdicts that claim nothing mean, and what to do; empty where there is none to explain."""
    found = set(verdicts)
    enough = next(rounds for rounds in count(1) if least_p(rounds) <= CLAIM_P)
    said = {
        NOT_SURE: f"{NOT_SURE}: most rounds lean to one side, but of equal backends more than {CLAIM_P:.0%} "
        "of the runs would lean as much. Run again with more --rounds.",
        NOT_ENOUGH: f"{NOT_ENOUGH}: with fewer than {enough} that agree nothing is claimed. Run again with "
        f"--rounds {enough} or more; for the start-up, without --quick.",
    }
    return " ".join(sentence for words, sentence in said.items() if words in found)


def _in_words(comparative: str, measure: str, low: float, high: float) -> str:
    if high > _TIMES_BEYOND:
        digits = 1 if low >= _CLOSE_TO_1 else 2
        return f"{comparative}: {_span(f'{low:.{digits}f}', f'{high:.{digits}f}')} times {measure}"
    return f"{comparative} by {_span(_percent(low), _percent(high))} %"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):.0f}"


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low}–{high}"
