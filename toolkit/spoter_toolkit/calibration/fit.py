"""Fit when a model says "no sign": a temperature on signs, thresholds on signs and negatives.

Shapes: P clips of signs, Q negative clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from spoter_runtime.decision import Abstention
from spoter_toolkit.calibration.figures import KEPT, Answers, Floats, decisions, softmax_NC

TARGET: Final = 0.05  # of the negatives that show hands, so many may get a sign
MOST_HAND_SHARE: Final = 0.5  # other cameras and other light lose more hands than the validation's
_HAND_PERCENTILE: Final = 1.0  # of the signs' shares of frames with a hand
_LOG_TEMPERATURES: Final = (math.log(0.02), math.log(50.0))
# Of the signs' own probabilities and margins: beyond the last one, more than 5 % of the signs would be lost.
_QUANTILES: Final = np.linspace(0, 1 - KEPT, 26)
_GRID: Final = 10**5  # thresholds are multiples of its inverse
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
_STEPS: Final = 50  # of the golden-section search: the temperature is exact to nine digits


def fit_abstention(
    signs: Answers,
    negatives: Sequence[Answers],
    names: Sequence[str],
    *,
    changed: Answers | None = None,
    background: tuple[str, ...] = (),
    target: float = TARGET,
) -> Abstention:
    """Return temperature and thresholds; the evidence is left empty.

    The thresholds are the lowest ones at which at most `target` of the negatives that show hands get a sign.
    They never cost more than 5 % of the signs: where `target` cannot be had for that, fewest negatives do.

    Args:
        signs: answers to clips of signs that the model was not trained on.
        changed: answers to signs that a worse tracker saw; thresholds keep these too, and the temperature
            does not heed them.
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
    )
    counted = [decisions(one.where(~one.own_N), rule, names) for one in negatives]
    negatives_Q2 = np.concatenate(
        [np.column_stack((one.probability_N, one.margin_N))[one.is_sign_N] for one in counted]
        or [np.empty((0, 2))]
    )
    if not len(negatives_Q2):
        return rule
    found = decisions(signs, rule, names)
    signs_P2 = np.column_stack((found.probability_N, found.margin_N))
    signs_P2[~found.is_sign_N] = -1.0
    # Rounded down: a threshold that is a sign's own value would be missed by rounding on another backend.
    probability, margin = (
        math.floor(value * _GRID) / _GRID for value in thresholds(signs_P2, negatives_Q2, target)
    )
    return replace(rule, min_probability=probability, min_margin=margin)


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


def thresholds(signs_P2: Floats, negatives_Q2: Floats, target: float) -> tuple[float, float]:
    """Return the least probability and the least margin.

    Args:
        signs_P2: probability and margin of each sign.
        negatives_Q2: the same of each negative.
        target: share of the negatives that may reach both.
    """
    candidates = [np.unique(np.r_[0.0, np.quantile(signs_P2[:, i].clip(0), _QUANTILES)]) for i in (0, 1)]
    best: tuple[tuple[float, float], tuple[float, float]] | None = None
    for probability in candidates[0]:
        for margin in candidates[1]:
            least = np.array([probability, margin])
            kept = float((signs_P2 >= least).all(1).mean())
            wrong = float((negatives_Q2 >= least).all(1).mean())
            if kept < KEPT and least.any():
                continue
            rank = (max(wrong, target), -kept)  # first few negatives, then many signs
            if best is None or rank < best[0]:
                best = rank, (float(probability), float(margin))
    assert best is not None  # 0 and 0 are among the candidates
    return best[1]
