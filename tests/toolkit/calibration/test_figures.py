"""Figures of calibration are what one counts by hand, and decide as the runtime does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spoter_runtime.contract import Label
from spoter_runtime.decision import Abstention, decide, hand_share
from spoter_toolkit.calibration.figures import (
    Answers,
    auroc,
    calibration_error,
    decisions,
    false_answers,
    figures_of,
    reliability,
    softmax_NC,
)

NAMES = ("tea", "milk", "none")
RULE = Abstention(
    temperature=0.7,
    min_probability=0.5,
    min_margin=0.15,
    min_hand_share=0.5,
    target=0.05,
    background=("none",),
)


def answers(logits, own, hands=None, kind=""):
    logits_NC = np.array(logits, np.float32)
    own_NC = np.zeros(logits_NC.shape, np.bool_)
    for row, column in enumerate(own):
        if column is not None:
            own_NC[row, column] = True
    shown = np.ones(len(own)) if hands is None else np.array(hands, float)
    return Answers(kind=kind, recorded=True, logits_NC=logits_NC, own_NC=own_NC, hand_share_N=shown)


def test_the_calibration_error_is_counted_by_hand():
    probability = np.array([0.95, 0.97, 0.60, 0.62, 0.61, 1.0])
    right = np.array([True, False, True, True, False, True])
    bins = reliability(probability, right)
    assert [one.clips for one in bins] == [3, 3]  # 0.60..0.667 and 0.933..1
    by_hand = (3 * abs(0.61 - 2 / 3) + 3 * abs((0.95 + 0.97 + 1.0) / 3 - 2 / 3)) / 6
    assert calibration_error(bins) == pytest.approx(by_hand)
    assert calibration_error(reliability(np.ones(4), np.ones(4, np.bool_))) == 0


def test_auroc_counts_pairs_and_half_of_the_ties():
    signs, negatives = np.array([0.9, 0.5, 0.3]), np.array([0.5, 0.1])
    wins = sum((s > n) + 0.5 * (s == n) for s in signs for n in negatives)
    assert auroc(signs, negatives) == pytest.approx(wins / 6)


def test_false_answers_are_counted_where_95_percent_of_the_signs_stay():
    signs = np.arange(1, 101) / 100  # 95 of them are at least 0.06
    assert false_answers(signs, np.array([0.059, 0.06, 0.5, 0.0])) == 0.5
    assert false_answers(np.array([0.7]), np.array([0.7, 0.6])) == 0.5


@pytest.mark.parametrize("typical", [(), ("9 1 2", "0 9 3", "0 0 0")])
def test_many_clips_are_decided_as_the_runtime_decides_one(typical):
    rule = dataclasses.replace(RULE, min_likeness=0.9, typical_logits=typical)
    rng = np.random.default_rng(0)
    logits_NC = rng.normal(0, 1, (300, 3)).astype(np.float32)
    clips = np.full((300, 10, 54, 2), 0.5, np.float32)
    clips[:, 5:, 12:] = np.nan
    clips[rng.random(300) < 0.3, 4:, 12:] = np.nan
    shown = np.array([hand_share(clip) for clip in clips])
    many = decisions(answers(logits_NC, [None] * 300, shown), rule, NAMES)
    labels = [Label(name=name) for name in NAMES]
    alone = [decide(row.tolist(), labels, clip, rule) for row, clip in zip(logits_NC, clips, strict=True)]
    assert many.is_sign_N.tolist() == [one.is_sign for one in alone]
    np.testing.assert_allclose(many.probability_N, [one.probability for one in alone], rtol=1e-6)
    reasons = {"", "none", "no", "score", "margin"} | ({"likeness"} if typical else set())
    assert {one.reason.partition(" ")[0] for one in alone} == reasons
    assert ((many.score_N == -1) == ((shown < 0.5) | (logits_NC.argmax(1) == 2))).all()


def test_a_negative_that_shows_its_own_sign_does_not_count():
    signs = answers([[9, 0, 0], [0, 9, 0]], [0, 1])
    halves = answers([[8, 0, 0], [0, 8, 0], [0, 8, 0]], [0, 0, None], kind="first half")
    (kind,) = figures_of(signs, [halves], RULE, NAMES).kinds
    assert (kind.kind, kind.clips, kind.same_sign, kind.false_answers) == ("first half", 2, 1, 1.0)
    only_own = answers([[8, 0, 0]], [0], kind="reversed")
    assert figures_of(signs, [only_own], RULE, NAMES).kinds == ()


def test_without_a_rule_the_softmax_is_measured_and_nothing_is_refused():
    signs = answers([[2, 0, 0], [0, 1, 0]], [0, 0])
    nothing = answers([[0, 0, 3]], [None], hands=[0.0], kind="rest")
    figures = figures_of(signs, [nothing], None, NAMES)
    shares = softmax_NC(signs.logits_NC).max(1)
    assert figures.calibration_error == figures.softmax_error
    assert figures.calibration_error == pytest.approx((abs(shares[0] - 1) + abs(shares[1])) / 2)
    assert (figures.top1, figures.kept, figures.kinds[0].false_answers) == (0.5, None, None)
    assert figures.kinds[0].false_at_95 == 1.0  # it is surer of the rest than of any sign
    judged = figures_of(signs, [nothing], dataclasses.replace(RULE, temperature=1.0), NAMES)
    assert (judged.kinds[0].false_at_95, judged.kinds[0].false_answers) == (0.0, 0.0)
