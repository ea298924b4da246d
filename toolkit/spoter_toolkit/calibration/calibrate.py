"""Calibrate a model on the validation split of a data set, and state the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_export.parity.compare import infer_batches
from spoter_export.parity.perturbations import CHANGED_CLIPS, add_jitter, lose_hands
from spoter_runtime._types import OnProgress
from spoter_runtime.contract import GraphContract
from spoter_runtime.decision import Abstention, hand_share
from spoter_runtime.errors import DataError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Runner
from spoter_toolkit.calibration.figures import BINS, Answers, Figures, figures_of
from spoter_toolkit.calibration.fit import MOST_LABELS, TARGET, fit_abstention, typical_logits
from spoter_toolkit.calibration.negatives import (
    MOST_SIGNS,
    Negatives,
    made_negatives,
    recorded_negatives,
    spread,
    unknown_signs,
)
from spoter_toolkit.data.dataset import Clip, Dataset, read_dataset
from spoter_toolkit.data.facts import MIN_SIGNS
from spoter_toolkit.data.names import check_known
from spoter_toolkit.data.split import larger_val

_MOST_TRAINED: Final = 20  # clips of a label, for its typical logits
BACKGROUND: Final = "clips of a label that stands for no sign"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationClips:
    """Clips to calibrate on, or to check a calibration with.

    Attributes:
        said: which clips these are, in words.
        signs: (frames, 54, 2) each, with the names of their labels.
        trained: clips of the train split: the typical logits of each label are theirs.
    """

    said: str
    signs: Sequence[Float32Array]
    labels: Sequence[str]
    negatives: Sequence[Negatives]
    trained: Sequence[Float32Array] = ()
    trained_labels: Sequence[str] = ()


def calibrate(
    runner: Runner,
    clips: CalibrationClips,
    *,
    background: Sequence[str] = (),
    target: float = TARGET,
    on_progress: OnProgress | None = None,
) -> Abstention:
    """Return the temperature and the thresholds of a model, with their evidence."""
    names = [label.name for label in runner.contract.labels]
    signs, negatives = answers_of(runner, clips, on_progress=on_progress)
    rule = fit_abstention(
        signs,
        negatives,
        names,
        changed=seen_worse(runner, clips),
        typical=typical_of(runner, clips),
        background=tuple(background),
        target=target,
    )
    figures = figures_of(signs, negatives, rule, names)
    return replace(rule, evidence=evidence_of(figures, clips.said))


def evidence_of(figures: Figures, said: str) -> dict[str, Any]:
    """Return the evidence that a bundle holds, as plain JSON values."""
    return {"clips": said, "bins": BINS} | {
        name: value for name, value in figures.as_json().items() if name != "bins"
    }


def seen_worse(runner: Runner, clips: CalibrationClips) -> Answers:
    """Return the answers to signs with jitter, and with hands lost: other people's cameras see worse.

    Validation clips are often of people whom the model knows, before one camera. Thresholds that only these
    signs pass cost many signs of others.
    """
    rng = np.random.default_rng(0)
    chosen = np.linspace(0, len(clips.signs) - 1, min(len(clips.signs), CHANGED_CLIPS)).astype(int)
    poses = [change(clips.signs[i].copy(), rng) for change in (add_jitter, lose_hands) for i in chosen]
    return _answers(runner, poses, 2 * [clips.labels[i] for i in chosen])


def typical_of(runner: Runner, clips: CalibrationClips) -> tuple[str, ...]:
    """Return the typical logits of each label; empty where they cannot be had."""
    if not clips.trained or len(runner.contract.labels) > MOST_LABELS:
        return ()
    return typical_logits(_answers(runner, clips.trained, clips.trained_labels))


def answers_of(
    runner: Runner, clips: CalibrationClips, *, on_progress: OnProgress | None = None
) -> tuple[Answers, list[Answers]]:
    """Return a model's answers to the signs, and to the negatives of each kind."""
    names = [label.name for label in runner.contract.labels]
    groups = [_as_group(clips.signs, clips.labels), *clips.negatives]
    total, done, found = sum(len(group.clips) for group in groups), 0, []
    for group in groups:
        logits_NC = infer_batches(runner, group.clips, runner.contract.max_batch)
        found.append(answers_from(group, logits_NC, names))
        done += len(group.clips)
        if on_progress:
            on_progress(done, total, f"clips to calibrate on, {runner.name}")
    return found[0], found[1:]


def _answers(runner: Runner, clips: Sequence[Float32Array], labels: Sequence[str]) -> Answers:
    """Return a model's answers to clips of signs."""
    logits_NC = infer_batches(runner, clips, runner.contract.max_batch)
    names = [label.name for label in runner.contract.labels]
    return answers_from(_as_group(clips, labels), logits_NC, names)


def _as_group(clips: Sequence[Float32Array], labels: Sequence[str]) -> Negatives:
    own = [frozenset({label}) for label in labels]
    return Negatives(kind="", recorded=True, clips=clips, labels=own)


def answers_from(clips: Negatives, logits_NC: Float32Array, names: Sequence[str]) -> Answers:
    """Return logits with what is known of their clips; `names` are the labels of the columns."""
    return Answers(
        kind=clips.kind,
        recorded=clips.recorded,
        logits_NC=logits_NC,
        own_NC=np.array([np.isin(names, [*labels]) for labels in clips.labels]),
        hand_share_N=np.array([hand_share(clip) for clip in clips.clips]),
    )


def calibration_clips(
    dataset: Dataset | None,
    contract: GraphContract,
    *,
    negatives: Path | None = None,
    background: Sequence[str] = (),
) -> CalibrationClips:
    """Return the signs of the validation split, and negatives: recorded ones, and others made from the signs.

    Args:
        dataset: the data set that the model was trained on.
        contract: the model's.
        negatives: a DATASET of clips without a sign of the model; those of its test split are not taken.
        background: labels of the model that stand for no sign.

    Raises:
        DataError: no data set, or too few clips in its validation split; the message says what to do.
    """
    names = [label.name for label in contract.labels]
    check_known(background, names, what="label", where="the model")
    if dataset is None:
        raise DataError("no data to calibrate on", fix="name a DATASET with --data")
    val = [clip for clip in dataset.clips_in("val") if clip.frames <= contract.max_frames]
    known = [clip for clip in val if clip.label in names and clip.label not in background]
    if len(known) < MIN_SIGNS:
        usable = [clip for clip in dataset.clips if clip.label in names and clip.label not in background]
        command = larger_val(dataset, usable, MIN_SIGNS)
        raise DataError(
            f"{dataset.folder}: {len(known)} clips of signs are in the val split, a calibration needs "
            f"{MIN_SIGNS}",
            fix=f"{command}, and train again"
            if command
            else "import clips of more signers, split and train again",
        )
    signs = spread(known, MOST_SIGNS)
    trained = _trained(dataset, contract)
    kinds = [
        *recorded_negatives(dataset, [clip for clip in val if clip.label in background], BACKGROUND),
        *recorded_negatives(dataset, unknown_signs(dataset), "signs never trained on"),
        *(negatives_of(negatives, contract, background, split="val") if negatives else ()),
        *made_negatives(dataset, signs, max_frames=contract.max_frames),
    ]
    return CalibrationClips(
        said=f"{dataset.origin.kind}, val split: {dataset.split}",
        signs=[dataset.poses_of(clip) for clip in signs],
        labels=[clip.label for clip in signs],
        negatives=kinds,
        trained=[dataset.poses_of(clip) for clip in trained],
        trained_labels=[clip.label for clip in trained],
    )


def _trained(dataset: Dataset, contract: GraphContract) -> list[Clip]:
    """Return some clips of each label that the model learned from."""
    names = {label.name for label in contract.labels}
    by_label: dict[str, list[Clip]] = {}
    for clip in dataset.clips_in("train"):
        if clip.label in names and clip.frames <= contract.max_frames:
            by_label.setdefault(clip.label, []).append(clip)
    return [clip for clips in by_label.values() for clip in spread(clips, _MOST_TRAINED)]


def negatives_of(
    folder: Path, contract: GraphContract, background: Sequence[str] = (), *, split: str
) -> list[Negatives]:
    """Return `negative_clips` with their landmarks, but those that are too long for the model.

    Raises:
        DataError: as `negative_clips` does, or every clip is too long.
    """
    dataset, clips = negative_clips(folder, contract, background, split=split)
    clips = [clip for clip in clips if clip.frames <= contract.max_frames]
    if not clips:
        raise DataError(f"{folder}: no clip for {split}", fix=dataset.split_command())
    return recorded_negatives(dataset, clips, f"clips of {folder.resolve().name}")


def negative_clips(
    folder: Path, contract: GraphContract, background: Sequence[str] = (), *, split: str
) -> tuple[Dataset, list[Clip]]:
    """Return the clips of a DATASET in which nobody signs a word of the model.

    Args:
        folder: the DATASET. Where it is split, ``"test"`` takes its test clips, and another split all others.
        contract: the model's.
        background: labels of the model that stand for no sign.
        split: that the clips are for.

    Raises:
        DataError: no data set, no such clips, or a label that the model knows as a sign.
    """
    dataset = read_dataset(folder)
    clips = [clip for clip in dataset.clips if _is_for(clip, dataset, split)]
    signs = {label.name for label in contract.labels} - set(background)
    if both := sorted({clip.label for clip in clips} & signs):
        raise DataError(
            f"{folder}: the model knows {', '.join(both)}, so these clips are no negatives",
            fix="import clips without a sign of the model, with --labels; --background names a label of the "
            "model that stands for no sign",
        )
    if not clips:
        raise DataError(f"{folder}: no clip for {split}", fix=dataset.split_command())
    return dataset, clips


def _is_for(clip: Clip, dataset: Dataset, split: str) -> bool:
    """Return True where a clip of negatives may be used for a split; without splits, each clip may."""
    if split == "all" or not dataset.split:
        return True
    return (clip.split == "test") == (split == "test")
