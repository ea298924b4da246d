"""The sentence that a ratio of times claims, or the reason why it claims no difference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from spoter_runtime.statistics import CLAIM_P, ROUNDS_TO_CLAIM, Claim, Ratio

_TIMES_BEYOND: Final = 2.0  # "1.5–6.3 times as long" is easier to read than "by 49–527 %"
_CLOSE_TO_1: Final = 1.1  # below it, one digit after the point would say nothing

_EXPLAINED: Final[dict[Claim, str]] = {
    "not sure": "not sure: most rounds lean to one side, but not significantly "
    f"(p > {CLAIM_P:g}). Run again with more --rounds.",
    "not enough rounds": f"not enough rounds: with fewer than {ROUNDS_TO_CLAIM} that agree nothing is "
    f"claimed. Run again with --rounds {ROUNDS_TO_CLAIM} or more; for the start-up, without --quick.",
}


def claim_in_words(ratio: Ratio) -> str:
    """Return the claim of a ratio of times, baseline ÷ backend; a difference comes with its interval.

    ``"faster by 18–23 %"``: the baseline takes 18–23 % longer. ``"slower by 9–12 %"``: the backend takes
    9–12 % longer. ``"slower: 1.5–6.3 times as long"``: the form of an interval that goes beyond 2.
    """
    claim = ratio.claim
    if claim not in ("faster", "slower") or ratio.low is None or ratio.high is None:
        return claim
    low, high = (ratio.low, ratio.high) if claim == "faster" else (1 / ratio.high, 1 / ratio.low)
    if high > _TIMES_BEYOND:
        digits = 1 if low >= _CLOSE_TO_1 else 2
        ends = f"{low:.{digits}f}", f"{high:.{digits}f}"
        measure = "as fast" if claim == "faster" else "as long"
        return f"{claim}: {'–'.join(dict.fromkeys(ends))} times {measure}"
    ends = f"{100 * (low - 1):.0f}", f"{100 * (high - 1):.0f}"
    return f"{claim} by {'–'.join(dict.fromkeys(ends))} %"


def explained(claims: Iterable[Claim]) -> str:
    """Return the meaning and the remedy of ``"not sure"`` and ``"not enough rounds"``; empty without them."""
    found = set(claims)
    return " ".join(sentence for claim, sentence in _EXPLAINED.items() if claim in found)
