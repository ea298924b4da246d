"""Deal a dataset into folds, whole signers or whole recordings, each tested on once."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from spoter_runtime.errors import DataError, UsageError
from spoter_toolkit.data.dataset import UNKNOWN_SIGNER, Clip, Dataset
from spoter_toolkit.data.leaks import finished_split, grouped_clips
from spoter_toolkit.data.names import listed, natural_order
from spoter_toolkit.report.words import plural

By = Literal["signer", "recording"]
MOST_FOLDS: Final = 10  # unless somebody asks for more: each is a training
FOLDS_BY_RECORDING: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One training and its test."""

    name: str  # of its folder
    tested: str  # in words
    dataset: Dataset  # split into train and test; its hash is its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """All folds of a dataset; a clip is tested in one of them at most."""

    by: By
    folds: tuple[Fold, ...]
    remarks: tuple[str, ...]  # what somebody must know before believing the figures


def folds_of(dataset: Dataset, *, by: By | None = None, count: int | None = None) -> Folds:
    """Return the folds of a dataset; the split that it has does not count.

    Args:
        dataset: any dataset.
        by: ``"signer"`` keeps each signer's clips together, ``"recording"`` identical clips and those of one
            recording. None takes signers, or recordings where there is one signer or none is known.
        count: number of folds; None means one a signer, `MOST_FOLDS` at most, or `FOLDS_BY_RECORDING`.

    Raises:
        UsageError: fewer than two folds.
        DataError: one label only, more folds than signers, signers of whom only some are known, one recording
            of each label, or a fold without clips to test or to train on.
    """
    if count is not None and count < 2:
        raise UsageError(f"--folds {count}: expected at least 2", fix="--folds 5")
    if len({clip.label for clip in dataset.clips}) < 2:
        raise DataError(
            f"{dataset.folder}: all clips have the label {dataset.clips[0].label}: there is nothing to tell "
            "apart",
            fix="import clips of other labels too",
        )
    signers = sorted({clip.signer for clip in dataset.clips}, key=natural_order)
    remarks = []
    if by is None:
        by = "signer" if len(signers) > 1 else "recording"
        if by == "recording":
            whose = "signers are unknown" if signers == [UNKNOWN_SIGNER] else f"one signer, {signers[0]}"
            remarks.append(f"{whose}: the folds are by recording; they say nothing about other people")
    groups = _of_signers(dataset, signers) if by == "signer" else _of_recordings(dataset)
    asked = count or (min(MOST_FOLDS, len(groups)) if by == "signer" else FOLDS_BY_RECORDING)
    if len(groups) < asked:
        raise DataError(
            f"{dataset.folder}: {plural(len(groups), by)}, expected at least one a fold, {asked}",
            fix=f"--folds {len(groups)}" if len(groups) > 1 else "import clips of more signers",
        )
    parts = _dealt(groups, asked)
    folds = tuple(_fold(dataset, by, part, i, len(parts)) for i, part in enumerate(parts, start=1))
    if untested := len(dataset.clips) - sum(len(fold.dataset.clips_in("test")) for fold in folds):
        remarks.append(
            f"{plural(untested, 'clip')} not tested: only the clips of their own fold have their labels"
        )
    return Folds(by=by, folds=folds, remarks=tuple(remarks))


def _of_signers(dataset: Dataset, signers: Sequence[str]) -> list[list[Clip]]:
    """Return the clips of each signer.

    Raises:
        DataError: there is one signer, or some are unknown.
    """
    if UNKNOWN_SIGNER in signers and len(signers) > 1:
        raise DataError(
            f"{dataset.folder}: some clips are of an unknown signer, who may be any of the others",
            fix="--by recording, or import again with --signer NAME or --signers A,B",
        )
    if len(signers) == 1:
        raise DataError(
            f"{dataset.folder}: all clips are of one signer ({signers[0]}): no other is left to test on",
            fix="--by recording, or import clips of more signers",
        )
    of_signer = defaultdict(list)
    for clip in dataset.clips:
        of_signer[clip.signer].append(clip)
    return [of_signer[signer] for signer in signers]


def _of_recordings(dataset: Dataset) -> list[list[Clip]]:
    """Return groups of clips in an order that spreads each label over the folds."""
    groups = grouped_clips(dataset, "recording")
    if max(Counter(group[0].label for group in groups).values()) < 2:
        raise DataError(
            f"{dataset.folder}: no label has two recordings, so none can be tested by a model that knows it",
            fix="record each label twice, better by several signers",
        )
    order = np.random.default_rng(0).permutation(len(groups))
    return sorted((groups[i] for i in order), key=lambda group: group[0].label)


def _dealt(groups: Sequence[list[Clip]], count: int) -> list[list[list[Clip]]]:
    """Return `count` parts of the groups: each goes where its labels, then all clips, are fewest.

    As many groups as parts keep their order: a fold a signer.
    """
    parts: list[list[list[Clip]]] = [[] for _ in range(count)]
    if len(groups) == count:
        return [[group] for group in groups]
    labels: list[Counter[str]] = [Counter() for _ in range(count)]
    for group in groups:
        own = Counter(clip.label for clip in group)
        fewest = min(
            range(count), key=lambda i: (sum(labels[i][label] for label in own), labels[i].total(), i)
        )
        parts[fewest].append(group)
        labels[fewest] += own
    return parts


def _fold(dataset: Dataset, by: By, part: Iterable[list[Clip]], number: int, count: int) -> Fold:
    tested = {clip.id for group in part for clip in group}
    clips = [replace(clip, split="test" if clip.id in tested else "train") for clip in dataset.clips]
    names = sorted({clip.signer for clip in clips if clip.split == "test"}, key=natural_order)
    words = listed(names) if by == "signer" else f"fold {number} of {count}"
    shared = "" if by == "signer" else ", signers are shared"
    split = finished_split(
        dataset,
        clips,
        f"by {by}{shared}: test {words}; train the others",
        True,
        emptied="import clips of the same labels by other signers",
    )
    identity = f"{dataset.sha256} {split.split} {sorted(clip.id for clip in split.clips_in('test'))}"
    own = replace(split, sha256=hashlib.sha256(identity.encode()).hexdigest())
    return Fold(name=f"fold-{number}", tested=words, dataset=own)
