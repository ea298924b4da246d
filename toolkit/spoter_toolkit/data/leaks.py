"""Refuse splits that leak: shared signers or identical clips in two parts."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from spoter_runtime.errors import DataError
from spoter_toolkit.data.dataset import SPLITS, Clip, Dataset
from spoter_toolkit.data.names import listed, natural_order

# Prefix of a split's name if the user allowed the same signers in train and test.
SIGNERS_SHARED: Final = ("by clip", "by recording")
ALL_TRAIN: Final = "without a test: all clips are for train"  # a split's name


def finished_split(
    dataset: Dataset,
    clips: list[Clip],
    words: str,
    drop_unseen: bool,
    *,
    needs: Sequence[str] = ("train", "test"),
    typed: Sequence[str] = (),
    emptied: str = "",
) -> Dataset:
    """Return the dataset with a new split, after checking it for leaks and labels unknown to train.

    Args:
        dataset: the dataset.
        clips: all its clips with their new splits.
        words: name of the split.
        drop_unseen: leave out clips whose label train lacks, instead of raising.
        needs: splits that must have clips.
        typed: options that gave this split, for the fix of an error.
        emptied: fix where a needed split has no clip; without it, the command that mixes signers.

    Raises:
        DataError: train lacks a label, a split that is needed has no clip, or see `check_no_leak`.
    """
    trained = {clip.label for clip in clips if clip.split == "train"}
    unseen = sorted({clip.label for clip in clips} - trained, key=natural_order)
    if unseen and not drop_unseen:
        where = sorted({clip.split for clip in clips if clip.label in unseen})
        stay = {clip.split for clip in clips if clip.label in trained}
        raise DataError(
            f"{dataset.folder}: train never has these labels of {' and '.join(where)}, so no model can learn "
            f"them: {listed(unseen)}",
            fix=dataset.split_command(*typed, "--drop-unseen")
            if stay.issuperset(needs)
            else mixing_command(dataset),
        )
    if unseen:
        dropped = sum(clip.label in unseen for clip in clips)
        clips = [replace(clip, split="") if clip.label in unseen else clip for clip in clips]
        words += f"; left out: {dropped} clips of {len(unseen)} labels that train never has"
    if empty := [name for name in needs if all(clip.split != name for clip in clips)]:
        raise DataError(
            f"{dataset.folder}: no clip is left for {' and '.join(empty)}; split: {words}",
            fix=emptied or mixing_command(dataset),
        )
    result = dataset.with_clips(clips, words)
    check_no_leak(result, before=dataset, typed=typed)
    return result


def check_no_leak(dataset: Dataset, *, before: Dataset | None = None, typed: Sequence[str] = ()) -> None:
    """Raise if the splits of a dataset leak.

    A leak is a signer in two splits, unless the split's name says that signers are shared (`SIGNERS_SHARED`),
    or two clips with identical landmarks in different splits. Clips in no split do not count.

    Args:
        dataset: with its split.
        before: the same without it, for the fix of an error; None where the split is written already.
        typed: options that gave this split, for the fix too.

    Raises:
        DataError: there is a leak; the message names the signers, or the first two clips.
    """
    if not dataset.split.startswith(SIGNERS_SHARED):
        splits_of = defaultdict(set)
        for clip in dataset.clips:
            if clip.split:
                splits_of[clip.signer].add(clip.split)
        if shared := sorted((s for s, names in splits_of.items() if len(names) > 1), key=natural_order):
            raise DataError(
                f"{dataset.folder}: a leak: signer {listed(shared)} is in more than one split "
                f"({', '.join(name for name in SPLITS if name in splits_of[shared[0]])})",
                fix=before.split_command(*typed, "--by", "clip") if before else dataset.split_command(),
            )
    first: dict[bytes, Clip] = {}
    for clip in dataset.clips:
        if clip.split:
            same = first.setdefault(content_of(dataset, clip), clip)
            if same.split != clip.split:
                raise DataError(
                    f"{dataset.folder}: a leak: {same.split} clip {same.id!r} (signer {same.signer}) and "
                    f"{clip.split} clip {clip.id!r} (signer {clip.signer}) have identical landmarks",
                    fix=mixing_command(before or dataset),
                )


def mixing_command(dataset: Dataset) -> str:
    """Return the command that splits clips whose signers cannot be kept apart, for the fix of an error.

    It tests on other clips of the same signers; where no label has two clips, all clips are for train.
    """
    of_label = Counter(group[0].label for group in grouped_clips(dataset, "clip"))
    return dataset.split_command(*(("--by", "clip") if max(of_label.values()) > 1 else ("--train-all",)))


def grouped_clips(dataset: Dataset, by: str) -> list[list[Clip]]:
    """Return groups of clips that must stay in one split: identical clips, and those with equal `by`."""
    parent = {clip.id: clip.id for clip in dataset.clips}

    def root(id_: str) -> str:
        while parent[id_] != id_:
            id_ = parent[id_]
        return id_

    first: dict[object, str] = {}
    for clip in dataset.clips:
        keys: list[object] = [content_of(dataset, clip)]
        if by == "recording" and clip.source:
            keys.append((clip.signer, clip.label, clip.source))
        for key in keys:
            parent[root(clip.id)] = root(first.setdefault(key, clip.id))
    groups = defaultdict(list)
    for clip in dataset.clips:
        groups[root(clip.id)].append(clip)
    return list(groups.values())


def names_of(dataset: Dataset, clips: Sequence[Clip]) -> list[str]:
    """Return a name of each clip's landmarks: 16 hexadecimal digits of `content_of`."""
    return [content_of(dataset, clip).hex()[:16] for clip in clips]


def content_of(dataset: Dataset, clip: Clip) -> bytes:
    """Return a hash of a clip's landmarks; missing landmarks are equal, and so are 0 and -0."""
    poses_TLD = np.nan_to_num(dataset.poses_of(clip), nan=0.0) + 0.0
    return hashlib.sha256(poses_TLD.tobytes()).digest()
