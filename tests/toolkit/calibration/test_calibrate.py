"""What a model is calibrated on: the validation split, recorded negatives, and negatives made from signs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import DataError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Int32Array, Runner
from spoter_toolkit.calibration.calibrate import (
    BACKGROUND,
    answers_of,
    calibrate,
    calibration_clips,
    negatives_of,
    seen_worse,
    typical_of,
)
from spoter_toolkit.data.dataset import Dataset, Origin
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset
from spoter_toolkit.parity.calibration import CalibrationCheck, CalibrationReference, in_words
from spoter_toolkit.parity.page import calibration_table

SIGNS = ("tea", "milk")
FRAMES = 8


class ByPlace(Runner):
    """Knows a sign by how high the hands are, the surer the farther from the middle; `off` is added."""

    name = "by-place"

    def __init__(self, labels: Sequence[str], off: float = 0.0) -> None:
        self.contract = GraphContract(labels=_labels(labels))
        self.off = off

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        hands = poses_NTD.reshape(*poses_NTD.shape[:2], 54, 2)[:, :, 12:, 1]
        found = np.where(np.isnan(hands) | (hands == 0), 0.5, hands)
        real = np.arange(found.shape[1])[None] < lengths_N[:, None]
        height = (found.mean(2) * real).sum(1) / lengths_N - 0.5
        logits = np.zeros((len(poses_NTD), self.contract.num_classes), np.float32)
        logits[:, 0], logits[:, 1] = 20 * height + self.off, -20 * height
        return logits


def _labels(names: Sequence[str]) -> tuple[Label, ...]:
    return tuple(Label(name=name) for name in names)


def clip(name: str, label: str, split: str, height: float, signer: str = "") -> NewClip:
    rng = np.random.default_rng(list(name.encode()))
    poses = rng.uniform(0.4, 0.6, (FRAMES, 54, 2)).astype(np.float32)
    poses[:, 12:, 1] = height
    return NewClip(id=name, label=label, signer=signer or f"s-{split}", fps=30, poses_TLD=poses, split=split)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Two signs, one with the hands up and one with them down; a label ``none`` with them in the middle."""
    clips = [
        clip(f"{label}-{split}-{i}", label, split, 0.5 + sign * (0.25 + i / 200))
        for label, sign in zip(SIGNS, (1, -1), strict=True)
        for split in ("train", "val", "test")
        for i in range(15)
    ]
    clips += [clip(f"none-{split}-{i}", "none", split, 0.52) for split in ("val", "test") for i in range(6)]
    return write_dataset(
        tmp_path / "data",
        clips,
        labels=_labels((*SIGNS, "none")),
        coordinates="image",
        origin=Origin(kind="npy"),
        split="by signer: test s-test; val s-val",
    )


def test_signs_are_of_the_val_split_and_negatives_are_recorded_or_made(data: Dataset) -> None:
    found = calibration_clips(data, GraphContract(labels=data.labels), background=("none",))
    assert sorted(set(found.labels)) == ["milk", "tea"]
    assert len(found.signs) == 30
    assert found.said == "npy, val split: by signer: test s-test; val s-val"
    kinds = {one.kind: one for one in found.negatives}
    assert kinds[BACKGROUND].recorded
    assert len(kinds[BACKGROUND].clips) == 6
    made = [one for one in found.negatives if not one.recorded]
    assert {one.kind for one in made} == {
        *("hands not found", "first half", "second half", "reversed", "frozen"),
        "end of one sign, start of the next",
    }
    assert {len(clip) for clip in kinds["first half"].clips} == {FRAMES // 2}
    assert np.isnan(kinds["hands not found"].clips[0][:, 12:]).all()
    assert (kinds["frozen"].clips[0] == kinds["frozen"].clips[0][0]).all()
    two = kinds["end of one sign, start of the next"]
    assert {len(labels) for labels in two.labels} == {2}
    np.testing.assert_array_equal(two.clips[0][: FRAMES // 2], found.signs[0][FRAMES // 2 :])


def test_labels_that_train_never_has_are_negatives_but_not_those_of_test_signers(data: Dataset) -> None:
    others = calibration_clips(data, GraphContract(labels=_labels(SIGNS)))
    (unknown,) = (one for one in others.negatives if one.kind == "signs never trained on")
    assert len(unknown.clips) == 6  # of s-val; the six of s-test stay for the test


def test_recorded_negatives_are_kept_apart_for_the_test(data: Dataset, tmp_path: Path) -> None:
    contract = GraphContract(labels=_labels(SIGNS))
    clips = [clip(f"r-{i}", "rest", "test" if i < 4 else "train", 0.5) for i in range(10)]

    def write(name: str, split: str) -> Path:
        given = [one if split else replace(one, split="") for one in clips]
        return write_dataset(
            tmp_path / name,
            given,
            labels=_labels(["rest"]),
            coordinates="image",
            origin=Origin(kind="npy"),
            split=split,
        ).folder

    split, unsplit = write("rests", "by signer: test s-test"), write("unsplit", "")
    count = {
        (folder.name, part): len(negatives_of(folder, contract, split=part)[0].clips)
        for folder in (split, unsplit)
        for part in ("val", "test", "all")
    }
    assert [count["rests", part] for part in ("val", "test", "all")] == [6, 4, 10]
    assert [count["unsplit", part] for part in ("val", "test", "all")] == [10, 10, 10]
    with pytest.raises(DataError, match="the model knows milk, none, tea, so these clips are no negatives"):
        negatives_of(data.folder, GraphContract(labels=data.labels), split="all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: None, "no data to calibrate on. Fix: name a DATASET with --data"),
        (lambda data: data.with_clips(data.clips_in("train"), "x"), "0 clips of signs are in the val split"),
        (
            lambda data: data.with_clips([c for c in data.clips if c.label == "none"], "x"),
            "a calibration needs 20. Fix: import clips of more signers, split and train again",
        ),
        (
            lambda data: data.with_clips(
                [
                    replace(clip, signer=f"s{i % 4}", split="test" if i % 4 == 1 else "train")
                    for i, clip in enumerate(data.clips)
                ],
                "by signer: test s1; train the other 3",
            ),
            r"a calibration needs 20. Fix: spoter-kit data split \S+ --test s1 --val s\d(,s\d)? --force, and",
        ),
    ],
)
def test_too_few_clips_are_refused_with_a_fix(
    data: Dataset, change: Callable[[Dataset], Dataset | None], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        calibration_clips(change(data), GraphContract(labels=data.labels), background=("none",))
    with pytest.raises(DataError, match="the model: no label 'nothing' there"):
        calibration_clips(data, GraphContract(labels=data.labels), background=("nothing",))


def test_a_model_learns_to_say_no_sign_and_states_the_evidence(data: Dataset) -> None:
    runner = ByPlace(SIGNS)
    clips = calibration_clips(data, runner.contract)
    rule = calibrate(runner, clips)
    kinds = {kind["kind"]: kind for kind in rule.evidence["kinds"]}
    assert kinds["signs never trained on"]["false_answers"] == 0
    assert kinds["hands not found"]["false_answers"] == 0
    assert rule.evidence["kept"] >= 0.95
    assert (rule.evidence["signs"], rule.evidence["top1"], rule.evidence["bins"]) == (30, 1.0, 15)
    assert rule.evidence["clips"] == "npy, val split: by signer: test s-test; val s-val"


def test_typical_logits_are_of_the_clips_that_the_model_learned_from(data: Dataset) -> None:
    clips = calibration_clips(data, ByPlace(SIGNS).contract)
    assert {*clips.trained_labels} == {*SIGNS}
    trained = {data.poses_of(clip).tobytes() for clip in data.clips_in("train")}
    assert {np.asarray(poses).tobytes() for poses in clips.trained} <= trained
    # two labels: their logits would always be alike; and no clip of train
    assert typical_of(ByPlace(SIGNS), clips) == ()
    three = replace(clips, trained_labels=[*clips.trained_labels[:-1], "none"])
    rows = typical_of(ByPlace((*SIGNS, "none")), three)
    assert [np.argmax([int(number) for number in row.split(" ")]) for row in rows][:2] == [0, 1]
    assert typical_of(ByPlace(SIGNS), replace(clips, trained=(), trained_labels=())) == ()


def test_another_backend_is_held_to_the_same_decisions(data: Dataset, tmp_path: Path) -> None:
    runner = ByPlace(SIGNS)
    clips = calibration_clips(data, runner.contract)
    rule = calibrate(runner, clips)
    known = CalibrationReference(rule, runner, clips)
    same = known.check("ort-cpu", "fp32", ByPlace(SIGNS, off=1e-7))
    assert (same.agree, same.failures) == (same.clips, ())
    assert same.clips == len(clips.signs) + sum(len(one.clips) for one in clips.negatives)
    other = known.check("ort-cpu", "fp32", ByPlace(SIGNS, off=9.0))
    assert any("decisions agree, fp32 allows 0.1% to differ" in failure for failure in other.failures)
    assert CalibrationCheck.from_json(other.as_json()) == other
    held, failed = calibration_table([same, other]).rows
    assert (held[0], held[1], held[-1]) == ("ort-cpu", f"{same.clips} of {same.clips}", "holds")
    assert failed[-1] == "; ".join(other.failures)
    assert in_words([same]).startswith(f"calibration holds on 1 backend: of {same.clips} decisions at least")


def test_answers_say_which_labels_are_a_clips_own(data: Dataset) -> None:
    runner = ByPlace(SIGNS)
    signs, negatives = answers_of(runner, calibration_clips(data, runner.contract))
    assert signs.own_N.all()
    assert not next(one for one in negatives if one.recorded).own_NC.any()
    assert next(one for one in negatives if one.kind == "reversed").own_N.all()


def test_a_worse_tracker_loses_hands_and_moves_points_of_the_same_signs(data: Dataset) -> None:
    runner = ByPlace(SIGNS)
    clips = calibration_clips(data, runner.contract)
    before = [poses.copy() for poses in clips.signs]
    worse = seen_worse(runner, clips)
    assert len(worse.logits_NC) == 2 * len(clips.signs)
    assert worse.own_N.all()
    assert worse.hand_share_N[: len(clips.signs)].min() == 1
    assert 0.5 < worse.hand_share_N[len(clips.signs) :].mean() < 1
    assert all(np.array_equal(*pair, equal_nan=True) for pair in zip(before, clips.signs, strict=True))
