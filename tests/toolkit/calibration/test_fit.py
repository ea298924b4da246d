"""The temperature and the thresholds do what they are fitted for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spoter_toolkit.calibration.figures import Answers, figures_of
from spoter_toolkit.calibration.fit import fit_abstention, fit_temperature, thresholds, typical_logits

NAMES = [f"sign-{i}" for i in range(8)]


def drawn(count, temperature, seed=0, height=2.0):
    """Answers whose softmax at a temperature is the true probability of the label."""
    rng = np.random.default_rng(seed)
    logits_NC = rng.normal(0, height, (count, len(NAMES)))
    shares_NC = np.exp(logits_NC / temperature)
    shares_NC /= shares_NC.sum(1, keepdims=True)
    label_N = (shares_NC.cumsum(1) > rng.random((count, 1))).argmax(1)
    return Answers(
        kind="",
        recorded=True,
        logits_NC=logits_NC.astype(np.float32),
        own_NC=np.eye(len(NAMES), dtype=np.bool_)[label_N],
        hand_share_N=np.ones(count),
    )


def without_sign(count, height, kind="rest", hands=1.0, seed=1):
    rng = np.random.default_rng(seed)
    logits_NC = rng.normal(0, height, (count, len(NAMES))).astype(np.float32)
    none_NC = np.zeros(logits_NC.shape, np.bool_)
    return Answers(
        kind=kind,
        recorded=True,
        logits_NC=logits_NC,
        own_NC=none_NC,
        hand_share_N=np.full(count, hands),
    )


def sure(count, seed=2):
    """Answers to signs that are all right, most of them by far."""
    rng = np.random.default_rng(seed)
    own_NC = np.eye(len(NAMES), dtype=np.bool_)[rng.integers(0, len(NAMES), count)]
    logits_NC = (own_NC * rng.normal(8, 1.5, (count, 1))).astype(np.float32)
    return Answers(kind="", recorded=True, logits_NC=logits_NC, own_NC=own_NC, hand_share_N=np.ones(count))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_made_the_answers_is_found(temperature):
    signs = drawn(20000, temperature)
    assert fit_temperature(signs) == pytest.approx(temperature, rel=0.08)
    rule = fit_abstention(signs, [], NAMES)
    figures = figures_of(signs, [], rule, NAMES)
    assert figures.calibration_error < 0.01
    if temperature != 1.0:
        assert figures.softmax_error > 3 * figures.calibration_error


def test_where_every_clip_is_right_the_probability_stays_below_one():
    signs = sure(200)
    temperature = fit_temperature(signs)
    best = figures_of(signs, [], fit_abstention(signs, [], NAMES), NAMES).bins[-1]
    assert temperature > 0.1
    assert 0.97 < best.probability < 1 - 1 / 2000  # of 200 clips nobody can say more


def test_thresholds_reach_the_target_and_keep_the_signs():
    signs, rest = sure(400), without_sign(300, 1.0)
    rule = fit_abstention(signs, [rest], NAMES)
    figures = figures_of(signs, [rest], rule, NAMES)
    assert figures.kept is not None
    assert figures.kept >= 0.95
    assert figures.kinds[0].false_answers is not None
    assert figures.kinds[0].false_answers <= 0.05
    assert figures.kinds[0].auroc > 0.99
    free = fit_abstention(signs, [rest], NAMES, target=1.0)
    assert (free.min_probability, free.min_margin) == (0.0, 0.0)


def twins_of(signs):
    """Return clips without a sign, whose answers are as sure as those to signs."""
    twins = without_sign(100, 0.0)
    return Answers(
        kind="twins",
        recorded=True,
        logits_NC=signs.logits_NC[:100],
        own_NC=twins.own_NC,
        hand_share_N=twins.hand_share_N,
    )


def test_a_target_out_of_reach_costs_no_more_than_5_percent_of_the_signs():
    signs = sure(400)
    copied = twins_of(signs)
    figures = figures_of(signs, [copied], fit_abstention(signs, [copied], NAMES), NAMES)
    assert figures.kept is not None
    assert 0.95 <= figures.kept < 0.96
    assert figures.kinds[0].false_answers == pytest.approx(figures.kept, abs=0.05)


def test_clips_without_hands_need_no_threshold_of_probability():
    signs = sure(200)
    none = without_sign(100, 9.0, hands=0.0)
    rule = fit_abstention(signs, [none], NAMES)
    assert (rule.min_hand_share, rule.min_probability, rule.min_margin) == (0.5, 0.0, 0.0)
    assert figures_of(signs, [none], rule, NAMES).kinds[0].false_answers == 0


def test_signs_whose_hands_get_lost_lower_the_share_that_is_asked_for():
    signs = sure(100)
    signs.hand_share_N[:20] = 0.2
    assert fit_abstention(signs, [], NAMES).min_hand_share == pytest.approx(0.2)


def test_thresholds_are_the_lowest_that_do():
    signs = np.column_stack((np.linspace(0.5, 1, 101), np.linspace(0.2, 1, 101)))
    negatives = np.full((20, 2), 0.1)
    probability, margin = thresholds(signs, negatives, 0.05)
    assert (signs >= (probability, margin)).all()
    assert not (negatives >= (probability, margin)).all()


def neighbours(count, step, seed):
    """Answers that are all right and equally sure; the second best label is `step` places on."""
    rng = np.random.default_rng(seed)
    own_NC = np.eye(len(NAMES), dtype=np.bool_)[rng.integers(0, len(NAMES), count)]
    logits_NC = 8.0 * own_NC + 5.0 * np.roll(own_NC, step, axis=1) + rng.normal(0, 0.3, own_NC.shape)
    shown = np.ones(count)
    return Answers(
        kind="", recorded=True, logits_NC=logits_NC.astype(np.float32), own_NC=own_NC, hand_share_N=shown
    )


def test_likeness_finds_a_sign_never_learned_that_is_as_sure_as_the_others():
    trained, signs, foreign = (neighbours(300, step, seed) for seed, step in enumerate((1, 1, 3)))
    foreign = replace(foreign, kind="foreign", own_NC=np.zeros_like(foreign.own_NC))
    alone = fit_abstention(signs, [foreign], NAMES)
    rule = fit_abstention(signs, [foreign], NAMES, typical=typical_logits(trained))
    before, after = (figures_of(signs, [foreign], one, NAMES) for one in (alone, rule))
    assert before.kinds[0].false_answers > 0.9
    assert after.kinds[0].false_answers <= 0.05
    assert (after.kinds[0].auroc > 0.999, after.kept >= 0.95) == (True, True)
    assert (rule.min_probability, rule.min_margin) == (0.0, 0.0)


def test_typical_logits_are_the_mean_of_a_labels_clips_on_one_scale():
    trained = neighbours(300, 1, 0)
    rows = np.array([row.split(" ") for row in typical_logits(trained)], int)
    assert (rows.argmax(1) == range(8)).all()
    assert (np.abs(rows).max(1) == 9999).all()
    mean_C = trained.logits_NC[trained.own_NC[:, 2]].mean(0)
    assert np.corrcoef(rows[2], mean_C)[0, 1] > 1 - 1e-6
    of_seven = trained.where(~trained.own_NC[:, 7])
    two = replace(trained, logits_NC=trained.logits_NC[:, :2], own_NC=trained.own_NC[:, :2])
    assert (typical_logits(of_seven), typical_logits(two)) == ((), ())


def test_signs_that_a_worse_tracker_saw_are_kept_too_and_leave_the_temperature():
    signs = sure(400)
    copied = twins_of(signs)
    worse = Answers(
        kind="",
        recorded=False,
        logits_NC=signs.logits_NC * np.float32(0.7),
        own_NC=signs.own_NC,
        hand_share_N=np.full(400, 0.3),
    )
    alone = fit_abstention(signs, [copied], NAMES)
    both = fit_abstention(signs, [copied], NAMES, changed=worse)
    assert both.temperature == alone.temperature
    assert both.min_hand_share == pytest.approx(0.3)
    together = figures_of(signs.with_more(worse), [], both, NAMES).kept
    assert together is not None
    assert together >= 0.95
    assert figures_of(signs.with_more(worse), [], alone, NAMES).kept < 0.9
