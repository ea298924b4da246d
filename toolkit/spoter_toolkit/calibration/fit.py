"""Fit when a model says "no sign": a temperature on signs, thresholds on signs and negatives.

Shapes: P clips of signs, Q negative clips.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from spoter_runtime.decision import Abstention
from spoter_toolkit.calibration.figures import KEPT, Answers, Decided, Floats, decisions, softmax_NC

TARGET: Final = 0.05  # of the negatives that show hands, so many may get a sign
MOST_HAND_SHARE: Final = 0.5  # other cameras and other light lose more hands than the validation's
_HAND_PERCENTILE: Final = 1.0  # of the signs' shares of frames with a hand
_LOG_TEMPERATURES: Final = (math.log(0.02), math.log(50.0))
# Of the signs' own evidence: beyond the last one, more than 5 % of the signs would be lost.
_QUANTILES: Final = np.linspace(0, 1 - KEPT, 26)
_GRID: Final = 10**5  # thresholds are multiples of its inverse
MOST_LABELS: Final = 400  # of a likeness: the bundle holds the square of it as numbers
_LEAST: Final = -1.0  # of a likeness, and of what is no sign whatever the thresholds
_TYPICAL: Final = 9999  # the largest of a label's typical logits, whatever their scale
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
_STEPS: Final = 50  # of the golden-section search: the temperature is exact to nine digits


def fit_abstention(
    signs: Answers,
    negatives: Sequence[Answers],
    names: Sequence[str],
    *,
    changed: Answers | None = None,
    typical: tuple[str, ...] = (),
    background: tuple[str, ...] = (),
    target: float = TARGET,
) -> Abstention:
    """Return temperature and thresholds; the evidence is left empty.

    The thresholds are the lowest ones at which at most `target` of the negatives that show hands get a sign.
    They never cost more than 5 % of the signs: where `target` cannot be had for that, fewest negatives do.
    They are of the likeness; of probability and margin where no typical logits are given. Which is better is
    not left to the negatives: halves and reversed signs are too much like signs to tell.

    Args:
        signs: answers to clips of signs that the model was not trained on.
        changed: answers to signs that a worse tracker saw; thresholds keep these too, and the temperature
            does not heed them.
        typical: see `typical_logits`.
        negatives: answers to clips without a sign, by kind.
        names: labels of the columns.
        background: labels that stand for no sign.
        target: share of negatives.
    """
    temperature = fit_temperature(signs)
    signs = signs.with_more(changed) if changed else signs
    rule = Abstention(
        temperature=temperature,
        min_probability=0.0,
        min_margin=0.0,
        min_hand_share=min(MOST_HAND_SHARE, float(np.percentile(signs.hand_share_N, _HAND_PERCENTILE))),
        target=target,
        background=background,
        typical_logits=typical,
    )
    counted = [decisions(one.where(~one.own_N), rule, names) for one in negatives]
    found = decisions(signs, rule, names)
    negatives_QE = np.concatenate(
        [_evidence(one, typical)[one.is_sign_N] for one in counted] or [np.empty((0, 1))]
    )
    if not len(negatives_QE):
        return replace(rule, typical_logits=())
    signs_PE = np.where(found.is_sign_N[:, None], _evidence(found, typical), _LEAST)
    # Rounded down: a threshold that is a sign's own value would be missed by rounding on another backend.
    least = [math.floor(value * _GRID) / _GRID for value in thresholds(signs_PE, negatives_QE, target)]
    if typical:
        return replace(rule, min_likeness=least[0])
    return replace(rule, min_probability=max(least[0], 0.0), min_margin=max(least[1], 0.0))


def _evidence(found: Decided, typical: Sequence[str]) -> Floats:
    """Return what thresholds are of: the likeness, or probability and margin, as columns."""
    return np.column_stack((found.likeness_N,) if typical else (found.probability_N, found.margin_N))


def typical_logits(trained: Answers) -> tuple[str, ...]:
    """Return the mean logits of each label's clips, as the bundle holds them.

    Empty for more than `MOST_LABELS` labels, for fewer than three, whose logits are always alike, and where a
    label has no clip.
    """
    labels = trained.logits_NC.shape[1]
    if not 3 <= labels <= MOST_LABELS or not trained.own_NC.any(0).all():
        return ()
    rows = []
    for label in range(labels):
        mean_C = trained.logits_NC[trained.own_NC[:, label]].mean(0, dtype=np.float64)
        mean_C -= mean_C.mean()
        scale = _TYPICAL / max(float(np.abs(mean_C).max()), 1e-9)
        rows.append(" ".join(str(round(value * scale)) for value in mean_C.tolist()))
    return tuple(rows)


def fit_temperature(signs: Answers) -> float:
    """Return the temperature that minimises the negative log-likelihood (Guo et al. 2017).

    The targets are softened as Platt (1999) does, as if one clip more were of any label: where every clip is
    right, the likelihood alone would ask for a temperature of 0.
    """
    labels_P = signs.own_NC.argmax(1)
    share = 1 / (len(labels_P) + 2)

    def loss(log_temperature: float) -> float:
        logs_PC = np.log(softmax_NC(signs.logits_NC, math.exp(log_temperature)) + 1e-300)
        own_P = logs_PC[np.arange(len(labels_P)), labels_P]
        return -float((1 - share) * own_P.mean() + share * logs_PC.mean())

    low, high = _LOG_TEMPERATURES
    for _ in range(_STEPS):
        inner = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(inner[0]) < loss(inner[1]):
            high = inner[1]
        else:
            low = inner[0]
    return math.exp((low + high) / 2)


def thresholds(signs_PE: Floats, negatives_QE: Floats, target: float) -> tuple[float, ...]:
    """Return the least of each kind of evidence.

    Args:
        signs_PE: the evidence of each sign, for example its probability and its margin.
        negatives_QE: the same of each negative.
        target: share of the negatives that may reach all.
    """
    best: tuple[tuple[float, float], tuple[float, ...]] | None = None
    choices = [
        np.unique(np.r_[_LEAST, np.quantile(column_P.clip(_LEAST), _QUANTILES)]) for column_P in signs_PE.T
    ]
    for least in itertools.product(*choices):
        kept = float((signs_PE >= least).all(1).mean())
        wrong = float((negatives_QE >= least).all(1).mean())
        if kept < KEPT and max(least) > _LEAST:
            continue
        rank = (max(wrong, target), -kept)  # first few negatives, then many signs
        if best is None or rank < best[0]:
            best = rank, tuple(map(float, least))
    assert best is not None  # no threshold at all is among the choices
    return best[1]
