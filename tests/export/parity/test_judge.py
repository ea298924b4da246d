"""Facts are judged by thresholds that are data; none of them hides a flip that rounding cannot explain."""

from __future__ import annotations

import dataclasses
import json

import pytest

from spoter_export.parity.facts import ClipFact, ClipFacts, GridPoint, Invariance, ParityFacts, WeightFact
from spoter_export.parity.judge import agreement, judge, unexplained_flips, worst_group
from spoter_export.parity.policy import ERROR_ON_PEOPLE, POLICIES, Policy, policies_from_table, policy_of
from spoter_export.parity.proof import Proof
from spoter_export.parity.report import agreement_in_words, few_clips
from spoter_runtime.bundle.goldens import threshold
from spoter_runtime.errors import ConfigError


def clip(name="c", *, diff=1e-6, reference="a", candidate="a", margin=1.0, label=None, signer=None):
    return ClipFact(
        name=name,
        frames=9,
        max_logit_diff=diff,
        reference=reference,
        candidate=candidate,
        reference_margin=margin,
        candidate_margin=margin,
        top5_agree=True,
        label=label,
        signer=signer,
    )


def people(*clips):
    return ClipFacts(source="real, test clips", clips=clips)


def facts_of(*groups):
    point = GridPoint(batch=1, frames=1, lengths="full", max_logit_diff=1e-6, labels_agree=1)
    moved = Invariance(runner="ort-cpu", change="padding nan", clips=3, max_logit_diff=1e-7)
    return ParityFacts(
        reference="torch", candidate="ort-cpu", seed=0, grid=(point,), clips=groups, invariance=(moved,)
    )


FLIP = clip("U4W1_3", candidate="b", margin=0.4, diff=0.4)


@pytest.mark.parametrize("precision", POLICIES)
def test_a_policy_that_allows_everything_does_not_hide_a_flip(precision):
    lax = Policy(max_logit_diff=1e9, max_invariance_diff=1e9, min_label_agreement=0.0)
    facts = facts_of(people(clip(), FLIP))
    (failure,) = judge(facts, lax, precision).failures
    what = f"2 clips (real, test clips): 1 flip that {precision} does not explain"
    assert failure == f"{what}: U4W1_3: a (by 4.0e-01) became b"


def test_a_flip_between_two_logits_as_close_as_the_rounding_is_explained():
    lax = Policy(max_logit_diff=1.0, min_label_agreement=0.0)
    near = clip("near", candidate="b", margin=2 * ERROR_ON_PEOPLE["fp16"], diff=0.012)
    assert judge(facts_of(people(near)), lax, "fp16").passed
    assert not judge(facts_of(people(near)), lax, "fp32").passed
    assert unexplained_flips(people(near, FLIP), "fp16") == (FLIP,)
    beyond = clip("beyond", candidate="b", margin=2.1 * ERROR_ON_PEOPLE["fp16"], diff=0.012)
    assert unexplained_flips(people(near, beyond), "fp16") == (beyond,)


def test_a_flip_is_explained_by_both_margins_and_on_people_by_what_was_measured_there():
    sure = dataclasses.replace(clip("sure", candidate="b", margin=1e-5), candidate_margin=9.0)
    assert unexplained_flips(people(sure), "fp32") == (sure,)
    wide = clip("wide", candidate="b", margin=0.25)
    assert unexplained_flips(people(wide), "int8") == (wide,)
    assert unexplained_flips(ClipFacts(source="generated", clips=(wide,)), "int8") == ()


def test_a_policy_does_not_hide_labels_that_turn_over_the_grid():
    lax = Policy(max_logit_diff=1e9, max_invariance_diff=1e9, min_label_agreement=0.0)
    facts = facts_of(people(clip()))
    point = dataclasses.replace(facts.grid[0], labels_agree=0, max_logit_diff=50.0)
    (failure,) = judge(dataclasses.replace(facts, grid=(point,)), lax, "int8").failures
    assert "0 of 1 labels agree, and logits that differ by 5.0e+01 are no rounding of int8" in failure
    near = dataclasses.replace(point, max_logit_diff=1e-6)  # of generated clips a model may be unsure
    assert judge(dataclasses.replace(facts, grid=(near,)), lax, "int8").passed


def test_a_weight_further_off_than_rounding_leaves_it_fails_under_any_policy():
    lax = Policy(max_logit_diff=1e9, max_invariance_diff=1e9, min_label_agreement=0.0)
    weights = (WeightFact(name="w1", steps=0.5), WeightFact(name="w2", steps=5.8))
    facts = dataclasses.replace(facts_of(people(clip())), weights=weights)
    (failure,) = judge(facts, lax, "int8").failures
    assert failure.startswith("weight w2: wrong scale or wrong values: 5.8 quantisation steps from fp32, ")
    assert failure.endswith("; 1 of 2 weights")
    assert ParityFacts.from_json(json.loads(json.dumps(facts.as_json()))) == facts
    older = {key: value for key, value in facts.as_json().items() if key != "weights"}
    assert ParityFacts.from_json(older).weights == ()


def test_few_clips_of_people_are_said_to_show_little():
    five = facts_of(people(*[clip(str(i)) for i in range(5)]))
    found = few_clips(five)
    assert found.message == "5 clips of people say little about labels: the share that agrees may be 57%"
    assert found.fix.startswith("73 or more with --data")
    assert few_clips(facts_of(people(*[clip(str(i)) for i in range(73)]))) is None
    assert few_clips(facts_of(ClipFacts(source="generated", clips=(clip(),)))) is None
    generated = ClipFacts(source="synthetic, test clips", clips=(clip(),))
    assert few_clips(facts_of(generated)).message.startswith("1 generated clips say little about labels: ")
    (failure,) = judge(facts_of(generated), Policy(min_clips=3)).failures
    assert failure == "1 generated clips, 3 are needed to say anything about labels"


def test_a_share_of_labels_is_asked_of_peoples_clips_only_but_no_flip_of_fp32_is_let_through():
    near = clip("near", candidate="b", margin=1e-5)
    generated = ClipFacts(source="generated", clips=(clip(), near))
    policy = policy_of("fp16")
    assert judge(facts_of(generated), policy, "fp16").passed
    (failure,) = judge(facts_of(people(clip(), near)), policy, "fp16").failures
    assert "1 labels differ, agreement must be 99.0%" in failure
    (failure,) = judge(facts_of(generated), Policy()).failures
    assert "1 labels differ, agreement must be 100.0%" in failure


def test_the_worst_clip_is_named_with_how_many_are_like_it():
    facts = facts_of(people(clip("good"), clip("bad", diff=2e-4), clip("worse", diff=3e-4)))
    (failure,) = judge(facts, Policy()).failures
    what = "3 clips (real, test clips): logits differ by 3.0e-04 on worse, allowed 1e-04"
    assert failure == f"{what}; 2 clips are beyond that"


def test_too_few_clips_of_people_for_a_claim_fail():
    generated = ClipFacts(source="generated", clips=(clip(),) * 50)
    facts = facts_of(generated, people(clip(), clip()))
    assert judge(facts, Policy(min_clips=2)).passed
    (failure,) = judge(facts, Policy(min_clips=3)).failures
    assert failure == "2 clips of people, 3 are needed to say anything about labels"


@pytest.mark.parametrize(
    ("agree", "clips", "low", "high"),
    [(1303, 1303, 0.99706, 1.0), (1296, 1303, 0.98896, 0.99739), (0, 10, 0.0, 0.27753)],
)
def test_the_interval_is_wilsons(agree, clips, low, high):
    # The published closed form, computed apart: centre ± half width over 1 + z²/n.
    found = agreement(agree, clips)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_the_worst_class_and_signer_are_named_only_where_a_label_turned():
    clips = [clip(label=label, signer=signer) for label in ("tea", "milk") for signer in ("A", "B")]
    assert worst_group(people(*clips), "label") is None
    turned = clip("t", candidate="b", margin=1e-5, label="milk", signer="B")
    facts = people(*clips, turned)
    assert worst_group(facts, "label") == ("milk", 2, 3)
    assert worst_group(facts, "signer") == ("B", 2, 3)
    assert worst_group(people(clip()), "signer") is None
    words = agreement_in_words(facts, "fp32")
    assert words.startswith("4 of 5 labels agree (37.6% to 96.4%), the best five of 5 (56.6% to 100.0%)")
    assert words.endswith("0 of 1 flips unexplained; worst class milk: 2 of 3; worst signer B: 2 of 3")


def test_a_proof_can_be_stored_read_and_judged_again():
    facts = facts_of(people(clip(diff=5e-4), FLIP))
    proof = Proof(
        artefact="model.onnx",
        precision="fp32",
        sha256="0" * 64,
        facts=facts,
        policy=Policy(),
        verdict=judge(facts, Policy()),
    )
    stored = json.loads(json.dumps(proof.as_json(), allow_nan=False))
    assert Proof.from_json(stored) == proof
    lax = dataclasses.replace(Policy(), max_logit_diff=1.0, min_label_agreement=0.5)
    again = Proof.from_json(stored).judged_by(lax)
    assert again.facts == facts
    assert len(again.verdict.failures) < len(proof.verdict.failures)
    assert not again.verdict.passed  # the flip


def test_a_table_of_thresholds_changes_what_it_names():
    policies = policies_from_table({"fp16": {"max_logit_diff": 0.05, "min_clips": 100}}, where="p.toml")
    assert policies["fp32"] == POLICIES["fp32"]
    assert policies["fp16"] == dataclasses.replace(POLICIES["fp16"], max_logit_diff=0.05, min_clips=100)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"fp61": {}}, r"p\.toml: precision: unknown 'fp61'; did you mean 'fp16'\?"),
        (
            {"fp16": {"max_logit_dif": 1}},
            r"p\.toml: \[fp16\]: unknown 'max_logit_dif'; did you mean 'max_logit_diff'",
        ),
        ({"fp16": {"zzz": 1}}, r"unknown 'zzz'; there are max_logit_diff, "),
        ({"max_logit_diff": 1}, r"max_logit_diff: of which precision\? Fix: a line \[fp32\] before it"),
        ({"fp16": 1}, r"fp16: expected a table\. Fix: a line \[fp16\]"),
        ({"fp16": {"max_logit_diff": "lots"}}, r"\[fp16\]: max_logit_diff: .* got 'lots'"),
        ({"fp16": {"max_logit_diff": -1}}, r"expected a number of 0 or more, got -1"),
        ({"fp16": {"max_logit_diff": float("nan")}}, r"got nan"),
        ({"fp16": {"max_logit_diff": float("inf")}}, r"expected a number of 0 or more, got inf"),
        (
            {"fp16": {"min_label_agreement": 1.5}},
            r"expected a number in 0\.\.1, got 1\.5",
        ),
        ({"fp16": {"min_clips": 10.5}}, r"min_clips: expected a whole number of 0 or more, got 10\.5"),
        ({"fp16": {"min_clips": True}}, r"min_clips: .* got True"),
    ],
)
def test_a_wrong_table_is_refused_with_the_nearest_right_one(table, message):
    with pytest.raises(ConfigError, match=message):
        policies_from_table(table, where="p.toml")


def test_a_threshold_is_shown_with_every_digit_that_it_was_set_with():
    assert [threshold(value) for value in (1e-4, 2e-2, 0.0078, 0.0644)] == [
        "1e-04",
        "2e-02",
        "0.0078",
        "0.0644",
    ]
