"""Figures of calibration and of abstention: calibration error, AUROC, false answers where 95 % of signs stay.

Shapes: N clips, C classes, P clips of signs, Q negative clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from spoter_runtime.decision import Abstention
from spoter_runtime.landmarks import Float32Array

BINS: Final = 15
KEPT: Final = 0.95  # share of the signs that stay, where false answers are stated

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A model's answers to clips of one kind.

    Attributes:
        kind: how the clips were recorded or made; empty for signs.
        own_NC: True where the column is the clip's own label, or a sign that a negative was made from.
        hand_share_N: see `spoter_runtime.decision.hand_share`.
    """

    kind: str
    recorded: bool
    logits_NC: Float32Array
    own_NC: Bools
    hand_share_N: Floats

    @property
    def own_N(self) -> Bools:
        """True where the best label is the clip's own, or one that it was made from."""
        own: Bools = self.own_NC[np.arange(len(self.own_NC)), self.logits_NC.argmax(1)]
        return own

    def where(self, chosen_N: Bools) -> Answers:
        """Return the answers to some of the clips."""
        return Answers(
            kind=self.kind,
            recorded=self.recorded,
            logits_NC=self.logits_NC[chosen_N],
            own_NC=self.own_NC[chosen_N],
            hand_share_N=self.hand_share_N[chosen_N],
        )

    def with_more(self, other: Answers) -> Answers:
        """Return the answers to these clips and to others of the kind."""
        return replace(
            self,
            logits_NC=np.concatenate([self.logits_NC, other.logits_NC]),
            own_NC=np.concatenate([self.own_NC, other.own_NC]),
            hand_share_N=np.concatenate([self.hand_share_N, other.hand_share_N]),
        )


class Decided(NamedTuple):
    """`spoter_runtime.decision.decide` for many clips.

    Attributes:
        likeness_N: to the best label's typical logits; 1 where the rule has none.
        score_N: the likeness, or the probability where the rule has no typical logits; -1 where the best
            label stands for no sign, or too few frames show a hand.
    """

    probability_N: Floats
    margin_N: Floats
    likeness_N: Floats
    score_N: Floats
    is_sign_N: Bools


class Bin(NamedTuple):
    """The clips whose probability is in one of `BINS` equal intervals.

    Attributes:
        probability: mean probability of the clips.
        right: share of the clips whose label is right.
    """

    clips: int
    probability: float
    right: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFigures:
    """Figures of the negatives of one kind.

    Attributes:
        clips: without those below.
        same_sign: clips whose answer is a sign that they were made from; they do not count.
        auroc: probability that a sign has a higher score than one of these clips.
        false_at_95: share of these clips that get a sign, where 95 % of the signs do.
        false_answers: share of these clips that get a sign; None without thresholds.
    """

    kind: str
    recorded: bool
    clips: int
    same_sign: int
    auroc: float
    false_at_95: float
    false_answers: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How far probabilities can be believed, and how well a model says "no sign".

    Attributes:
        signs: number of clips of signs.
        calibration_error: expected calibration error of the probabilities in `BINS` bins.
        softmax_error: the same for the plain softmax.
        kept: share of the signs that are called signs; None without thresholds.
        kinds: of negatives.
    """

    signs: int
    top1: float
    calibration_error: float
    softmax_error: float
    bins: tuple[Bin, ...]
    kept: float | None
    kinds: tuple[KindFigures, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"bins": [one._asdict() for one in self.bins]}


def figures_of(
    signs: Answers, negatives: Sequence[Answers], rule: Abstention | None, names: Sequence[str]
) -> Figures:
    """Return the figures of a model's answers.

    Args:
        signs: to clips of signs.
        negatives: to clips without a sign, by kind.
        rule: temperature and thresholds; None for the plain softmax and no thresholds.
        names: labels of the columns.
    """
    found = decisions(signs, rule, names)
    bins = reliability(found.probability_N, signs.own_N)
    plain = reliability(softmax_NC(signs.logits_NC).max(1), signs.own_N)
    return Figures(
        signs=len(signs.own_N),
        top1=float(signs.own_N.mean()),
        calibration_error=calibration_error(bins),
        softmax_error=calibration_error(plain),
        bins=tuple(bins),
        kept=float(found.is_sign_N.mean()) if rule else None,
        kinds=tuple(
            kind for one in negatives if (kind := _kind_figures(found.score_N, one, rule, names)) is not None
        ),
    )


def decisions(answers: Answers, rule: Abstention | None, names: Sequence[str]) -> Decided:
    """Return what `spoter_runtime.decision.decide` says of each clip; without a rule every clip is a sign."""
    shares_NC = softmax_NC(answers.logits_NC, rule.temperature if rule else 1.0)
    ranked_NC = np.sort(shares_NC, axis=1)
    best_N = ranked_NC[:, -1]
    margin_N = best_N - (ranked_NC[:, -2] if ranked_NC.shape[1] > 1 else 0)
    if rule is None:
        ones_N = np.ones(len(best_N))
        return Decided(best_N, margin_N, ones_N, best_N, ones_N > 0)
    stands_C = np.array([name in rule.background for name in names])
    seen_N = (answers.hand_share_N >= rule.min_hand_share) & ~stands_C[answers.logits_NC.argmax(1)]
    alike_N = likeness_of(answers.logits_NC, rule.typical_logits)
    is_sign_N = seen_N & (best_N >= rule.min_probability) & (margin_N >= rule.min_margin)
    is_sign_N &= alike_N >= rule.min_likeness
    score_N = np.where(seen_N, alike_N if rule.typical_logits else best_N, -1.0)
    return Decided(best_N, margin_N, alike_N, score_N, is_sign_N)


def likeness_of(logits_NC: npt.NDArray[Any], typical: Sequence[str]) -> Floats:
    """Return `spoter_runtime.decision.likeness` of each row to the typical logits of its best label."""
    if not typical:
        return np.ones(len(logits_NC))
    rows_CC = np.array([row.split(" ") for row in typical], np.float64)
    row_NC, own_NC = rows_CC[logits_NC.argmax(1)], logits_NC.astype(np.float64)
    row_NC, own_NC = (values - values.mean(1, keepdims=True) for values in (row_NC, own_NC))
    size_N = np.sqrt((row_NC**2).sum(1) * (own_NC**2).sum(1))
    alike_N: Floats = np.divide((row_NC * own_NC).sum(1), size_N, out=np.ones(len(size_N)), where=size_N > 0)
    return alike_N


def softmax_NC(logits_NC: npt.NDArray[Any], temperature: float = 1.0) -> Floats:
    """Return the softmax of each row, in float64."""
    exponentials_NC: Floats = np.exp(
        (logits_NC.astype(np.float64) - logits_NC.max(1, keepdims=True)) / temperature
    )
    exponentials_NC /= exponentials_NC.sum(1, keepdims=True)
    return exponentials_NC


def reliability(probability_P: Floats, right_P: Bools) -> list[Bin]:
    """Return the bins that have clips, by rising probability."""
    place_P = np.minimum((probability_P * BINS).astype(int), BINS - 1)
    bins = []
    for place in np.unique(place_P):
        there = place_P == place
        bins.append(Bin(int(there.sum()), float(probability_P[there].mean()), float(right_P[there].mean())))
    return bins


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error (Guo et al. 2017): mean of |probability - share right|."""
    return sum(one.clips * abs(one.probability - one.right) for one in bins) / sum(b.clips for b in bins)


def auroc(signs_P: Floats, negatives_Q: Floats) -> float:
    """Return the probability that a sign has a higher score than a negative; a tie counts one half."""
    ordered_Q = np.sort(negatives_Q)
    below_P = np.searchsorted(ordered_Q, signs_P, "left") + np.searchsorted(ordered_Q, signs_P, "right")
    return float(below_P.mean() / 2 / len(negatives_Q))


def false_answers(signs_P: Floats, negatives_Q: Floats, kept: float = KEPT) -> float:
    """Return the share of negatives whose score reaches the threshold that `kept` of the signs reach."""
    least = np.sort(signs_P)[len(signs_P) - max(1, int(np.ceil(kept * len(signs_P))))]
    return float((negatives_Q >= least).mean())


def _kind_figures(
    signs_P: Floats, answers: Answers, rule: Abstention | None, names: Sequence[str]
) -> KindFigures | None:
    """Return the figures of one kind; None where every answer is a sign that its clip was made from."""
    counted = answers.where(~answers.own_N)
    if not len(counted.own_N):
        return None
    found = decisions(counted, rule, names)
    return KindFigures(
        kind=answers.kind,
        recorded=answers.recorded,
        clips=len(counted.own_N),
        same_sign=int(answers.own_N.sum()),
        auroc=auroc(signs_P, found.score_N),
        false_at_95=false_answers(signs_P, found.score_N),
        false_answers=float(found.is_sign_N.mean()) if rule else None,
    )
