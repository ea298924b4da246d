"""The decision whether a clip shows a sign: a calibrated probability, and thresholds that a bundle holds.

The formula, for other languages. z are the logits, T the temperature:

1. p = softmax(z / T). The best label's p is the probability.
2. It is no sign where, in this order: the best label is one of `background`; fewer than `min_hand_share` of
   the frames show a hand; p of the best label is below `min_probability`; the difference to the second best p
   is below `min_margin`; the likeness is below `min_likeness`.
3. The likeness is the correlation (Pearson) of z with the best label's `typical_logits`: near 1 where the
   other labels come as near as they do in clips of the label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, NamedTuple

from spoter_runtime.contract import Label
from spoter_runtime.landmarks import LEFT_HAND, RIGHT_HAND, Float32Array, detected
from spoter_runtime.strict import made_from

NO_CALIBRATION: Final = "the bundle holds no calibration"

_SHARES: Final = ("min_probability", "min_margin", "min_hand_share", "target")
_ROW: Final = re.compile(r"-?[0-9]{1,6}(?: -?[0-9]{1,6})*")


class Decision(NamedTuple):
    """The answer to the question whether a clip shows the best label's sign.

    Attributes:
        probability: calibrated probability of the best label, 0..1; None without a calibration.
        is_sign: None without a calibration.
        reason: why it is no sign, or why nothing is known; empty for a sign.
    """

    probability: float | None
    is_sign: bool | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """When a model says that a clip shows no sign; `bundle.json` holds it as ``abstention``.

    Attributes:
        temperature: divides the logits before the softmax (Guo et al. 2017).
        min_probability: least calibrated probability of a sign.
        min_margin: least difference between the two best calibrated probabilities.
        min_hand_share: least share of frames that show a hand.
        min_likeness: least likeness to the label's `typical_logits`, -1..1; not used without these.
        background: labels of the model that stand for no sign.
        typical_logits: for each label the mean logits of clips that the model learned from, as whole numbers
            of any scale with a space between; zeros where no such clip is known. Empty: not taken.
        target: the share of negative clips that may get a sign; the thresholds were chosen for it.
        evidence: which clips it was fitted on, and how well it does; plain JSON values.
    """

    temperature: float
    min_probability: float
    min_margin: float
    min_hand_share: float
    target: float
    min_likeness: float = -1.0
    background: tuple[str, ...] = ()
    typical_logits: tuple[str, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature {self.temperature}, expected more than 0")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}, expected 0..1")
        if not -1 <= self.min_likeness <= 1:
            raise ValueError(f"min_likeness {self.min_likeness}, expected -1..1")
        labels = len(self.typical_logits)
        for i, row in enumerate(self.typical_logits):
            if not _ROW.fullmatch(row) or row.count(" ") != labels - 1:
                raise ValueError(f"typical_logits[{i}], expected {labels} whole numbers with a space between")

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {
            "background": list(self.background),
            "typical_logits": list(self.typical_logits),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Abstention:
        """Read what `as_json` wrote; fields of later versions are ignored.

        Raises:
            ValueError: a field is missing, of another type, or out of range.
        """
        known = {field.name for field in fields(cls)}
        return made_from(cls, {name: value[name] for name in value if name in known}, "abstention")


def decide(
    logits: Sequence[float], labels: Sequence[Label], clip_TLD: Float32Array, rule: Abstention | None
) -> Decision:
    """Return whether a clip shows a sign, and the calibrated probability of its best label.

    Args:
        logits: one per label.
        labels: the model's.
        clip_TLD: (frames, 54, 2), from `check_clip`.
        rule: the bundle's; None if it has none.
    """
    if rule is None:
        return Decision(None, None, NO_CALIBRATION)
    shares = softmax(logits, rule.temperature)
    best, second = [*sorted(shares, reverse=True), 0.0][:2]
    place = logits.index(max(logits))
    name = labels[place].name
    if name in rule.background:
        return Decision(best, False, f"{name} stands for no sign")
    if (shown := hand_share(clip_TLD)) < rule.min_hand_share:
        return Decision(best, False, f"no hand in {math.floor(100 * (1 - shown) + 1e-9)} % of the frames")
    if best < rule.min_probability:
        return Decision(best, False, f"score {_below(best, rule.min_probability)}")
    if best - second < rule.min_margin:
        return Decision(best, False, f"margin {_below(best - second, rule.min_margin)}")
    if rule.typical_logits and (alike := likeness(logits, rule.typical_logits[place])) < rule.min_likeness:
        return Decision(best, False, f"likeness {_below(alike, rule.min_likeness)}")
    return Decision(best, True, "")


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Return the softmax; for some dozens of numbers after a model has run, Python is faster than numpy."""
    most = max(logits)
    exponentials = [math.exp((logit - most) / temperature) for logit in logits]
    total = sum(exponentials)
    return [exponential / total for exponential in exponentials]


def likeness(logits: Sequence[float], typical: str) -> float:
    """Return the correlation of logits with typical ones, -1..1; 1 where either are all equal."""
    row = [int(number) for number in typical.split(" ")]
    own_mean, row_mean = sum(logits) / len(row), sum(row) / len(row)
    own, other = [logit - own_mean for logit in logits], [number - row_mean for number in row]
    size = math.sqrt(sum(a * a for a in own) * sum(b * b for b in other))
    return sum(a * b for a, b in zip(own, other, strict=True)) / size if size > 0 else 1.0


def hand_share(clip_TLD: Float32Array) -> float:
    """Return the share of frames in which a point of a hand was detected, 0..1."""
    return float(detected(clip_TLD[:, LEFT_HAND.start : RIGHT_HAND.stop]).any(axis=1).mean())


def _below(value: float, least: float) -> str:
    """Return ``0.31 below 0.55``, with as many digits as tell them apart."""
    digits = 2
    while digits < 6 and f"{value:.{digits}f}" == f"{least:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f} below {least:.{digits}f}"
