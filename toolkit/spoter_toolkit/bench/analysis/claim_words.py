"""The sentence that a ratio of times claims, or the reason why it claims no difference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from spoter_runtime.statistics import CLAIM_P, ROUNDS_TO_CLAIM, Claim, Ratio, times_as_fast

_EXPLAINED: Final[dict[Claim, str]] = {
    "not sure": "not sure: most rounds lean to one side, but not significantly "
    f"(p > {CLAIM_P:g}). Run again with more --rounds.",
    "not enough rounds": f"not enough rounds: with fewer than {ROUNDS_TO_CLAIM} that agree nothing is "
    f"claimed. Run again with --rounds {ROUNDS_TO_CLAIM} or more; for the start-up, without --quick.",
}


def claim_in_words(ratio: Ratio) -> str:
    """Return the claim of a ratio of times, baseline ÷ backend, with its interval, if any.

    ``"2.10× as fast (2.05–2.16)"``: the baseline takes 2.10 times as long. ``"0.80× as fast (0.75–0.86)"``:
    slower. ``"no difference detectable (0.97–1.03)"``: nothing is claimed.
    """
    words = times_as_fast(ratio.estimate) if ratio.claim in ("faster", "slower") else ratio.claim
    return words if ratio.low is None else f"{words} ({ratio.low:.2f}–{ratio.high:.2f})"


def explained(claims: Iterable[Claim]) -> str:
    """Return the meaning and the remedy of ``"not sure"`` and ``"not enough rounds"``; empty without them."""
    found = set(claims)
    return " ".join(sentence for claim, sentence in _EXPLAINED.items() if claim in found)
