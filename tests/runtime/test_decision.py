"""The decision: a calibrated probability, and "no sign" with its reason, by the documented formula."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from spoter_runtime.__main__ import main
from spoter_runtime.bundle.manifest import manifest_from_bundle, read_bundle
from spoter_runtime.contract import Label
from spoter_runtime.decision import NO_CALIBRATION, Abstention, decide, hand_share, likeness
from spoter_runtime.errors import BundleError
from spoter_runtime.recognizer import Prediction, Recognizer

LABELS = tuple(Label(name=name) for name in ("tea", "milk", "none"))
RULE = Abstention(temperature=0.5, min_probability=0.55, min_margin=0.2, min_hand_share=0.5, target=0.05)
TYPICAL = ("9 0 5", "0 9 0", "0 0 9")  # of tea, none comes nearer than milk


def clip(frames=10, with_hands=10):
    poses = np.full((frames, 54, 2), 0.5, np.float32)
    poses[with_hands:, 12:] = np.nan
    return poses


def test_the_probability_is_the_softmax_of_the_logits_over_the_temperature():
    logits = [1.0, 0.2, -1.0]
    scaled = np.exp(np.array(logits) / 0.5)
    found = decide(logits, LABELS, clip(), RULE)
    assert found.probability == pytest.approx(scaled[0] / scaled.sum(), rel=1e-12)
    assert (found.is_sign, found.reason) == (True, "")


@pytest.mark.parametrize(
    ("logits", "shown", "change", "reason"),
    [
        ([1.0, 0.9, 0.8], 10, {}, "score 0.40 below 0.55"),
        ([1.0, 0.9, -5.0], 10, {"min_probability": 0.0}, "margin 0.10 below 0.20"),
        ([9.0, 0.0, 0.0], 2, {}, "no hand in 80 % of the frames"),
        ([0.0, 0.0, 9.0], 10, {"background": ("none",)}, "none stands for no sign"),
        ([0.0, 0.0, 0.0], 0, {"background": ("tea",)}, "tea stands for no sign"),
        ([0.0, 0.0, 0.0], 0, {}, "no hand in 100 % of the frames"),
        ([1.0, 0.0, 0.0], 10, {"min_probability": 0.788}, "score 0.787 below 0.788"),
        ([9.0, 5.0, 0.0], 10, {"min_likeness": 0.9, "typical_logits": TYPICAL}, "likeness 0.39 below 0.90"),
    ],
)
def test_no_sign_has_a_reason(logits, shown, change, reason):
    found = decide(logits, LABELS, clip(with_hands=shown), dataclasses.replace(RULE, **change))
    assert (found.is_sign, found.reason) == (False, reason)
    assert 0 < found.probability <= 1


def test_the_likeness_is_the_correlation_with_the_labels_own_row():
    logits = [9.0, 5.0, 0.0]
    assert likeness(logits, TYPICAL[0]) == pytest.approx(np.corrcoef(logits, [9, 0, 5])[0, 1], rel=1e-12)
    assert likeness([18.0, 0.0, 10.0], TYPICAL[0]) == pytest.approx(1.0)  # scale and offset do not matter
    assert likeness(logits, "0 0 0") == 1.0  # a label without a clip to learn from
    rule = dataclasses.replace(RULE, min_likeness=0.99, typical_logits=TYPICAL)
    assert decide([9.0, 0.0, 5.0], LABELS, clip(), rule).is_sign
    assert decide([0.0, 9.0, 5.0], LABELS, clip(), rule).reason == "likeness 0.83 below 0.99"


def test_thresholds_are_reached_by_equal_values():
    rule = dataclasses.replace(RULE, min_probability=1.0, min_margin=1.0, min_hand_share=0.5)
    assert decide([1e5, 0.0, 0.0], LABELS, clip(with_hands=5), rule).is_sign


def test_a_model_of_one_label_and_huge_logits_have_a_decision():
    assert decide([3.0], LABELS[:1], clip(), RULE).is_sign
    assert decide([1e30, -1e30, 0.0], LABELS, clip(), RULE).probability == 1.0


def test_a_hand_counts_where_one_of_its_points_was_found():
    poses = clip(frames=4, with_hands=0)
    poses[0, 20] = 0.1
    poses[1, 40] = 0.1
    poses[2, 30] = 0.0  # not detected
    assert hand_share(poses) == 0.5


def test_without_a_calibration_nothing_is_pretended(bundle_folder, make_clip):
    for found in (
        decide([9.0, 0.0, 0.0], LABELS, clip(), None),
        Recognizer.load(bundle_folder).predict(make_clip()),
        Recognizer.load(bundle_folder / "model.onnx").predict(make_clip()),
    ):
        assert (found.probability, found.is_sign, found.reason) == (None, None, NO_CALIBRATION)


def test_a_prediction_needs_no_decision(contract):
    made = Prediction(
        sign=contract.labels[0],
        score=1,
        logits_C=np.zeros(5, np.float32),
        labels=contract.labels,
        latency_ms=1,
    )
    assert (made.probability, made.is_sign, made.reason) == (None, None, "")


@pytest.fixture
def with_rule(bundle_copy):
    """Return with_rule(**changes): the bundle with an abstention, sealed anew."""

    def with_rule(**changes):
        bundle = dataclasses.replace(read_bundle(bundle_copy), abstention=RULE)
        content = manifest_from_bundle(bundle)
        content["abstention"] |= changes
        (bundle_copy / "bundle.json").write_text(json.dumps(_sealed(content)))
        return bundle_copy

    return with_rule


def _sealed(content):
    from spoter_runtime.bundle.manifest import _seal

    return content | {"manifest_sha256": _seal(content)}


def test_a_bundle_keeps_its_abstention_and_a_later_field_is_read_past(with_rule):
    folder = with_rule(min_energy=3, evidence={"clips": "val", "signs": 540})
    assert read_bundle(folder).abstention == dataclasses.replace(
        RULE, evidence={"clips": "val", "signs": 540}
    )


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"temperature": math.inf},
        {"min_probability": 1.5},
        {"min_margin": "much"},
        {"min_hand_share": -0.1},
        {"min_hand_share": None},
        {"evidence": []},
        {"background": None},
        {"min_likeness": -1.5},
        {"typical_logits": ["1 2", "3"]},
        {"typical_logits": ["1 2", "3 4"]},  # the model has five labels
        {"typical_logits": ["1 2.5", "3 4"]},
        {"typical_logits": ["1  2", "3 4"]},
        {"typical_logits": [[1, 2], [3, 4]]},
    ],
)
def test_a_wrong_abstention_is_refused(with_rule, change):
    with pytest.raises(BundleError, match=r"bundle\.json: (cannot be read as JSON: Infinity|.*expected )"):
        read_bundle(with_rule(**change))


@pytest.mark.parametrize("backend", ["ort-cpu", "ort-cpu-fused"])
def test_every_backend_decides_by_the_bundles_rule(with_rule, make_clip, backend):
    folder = with_rule(min_probability=0.0, min_margin=0.0)
    clips = [make_clip(seed, 20) for seed in range(4)]
    clips[1][:, 12:] = np.nan
    found = Recognizer.load(folder, backend).predict_many(clips)
    assert [one.is_sign for one in found] == [True, False, True, True]
    assert found[1].reason == "no hand in 100 % of the frames"
    for one in found:
        shares = np.exp((one.logits_C - one.logits_C.max()).astype(float) / RULE.temperature)
        assert one.probability == pytest.approx(1 / shares.sum(), rel=1e-6)


def test_the_devices_command_says_no_sign_before_the_labels(with_rule, make_clip, tmp_path, capsys):
    rest = make_clip(0, 20)
    rest[:, 12:] = np.nan
    np.save(tmp_path / "rest.npy", rest)
    folder = with_rule(min_probability=0.0, min_margin=0.0)
    assert main(["predict", str(folder), str(tmp_path / "rest.npy"), "--backend", "ort-cpu"]) == 0
    name, decision, labels, _ = capsys.readouterr().out.split("\t")
    assert (name, decision) == (str(tmp_path / "rest.npy"), "no sign (no hand in 100 % of the frames)")
    assert labels.split()[0] in {label.name for label in read_bundle(folder).contract.labels}
