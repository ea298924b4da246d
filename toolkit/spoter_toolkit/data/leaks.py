"""Refuse a split in which one part knows something of another."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace
from typing import Final

import numpy as np

from spoter_runtime.errors import DataError
from spoter_toolkit.data.dataset import SPLITS, Clip, Dataset
from spoter_toolkit.data.names import listed, natural_order

# A split whose name begins like this has the same signers in train and test, because someone asked for it.
SIGNERS_SHARED: Final = ("by clip", "by recording")


def finished_split(dataset: Dataset, clips: list[Clip], words: str, drop_unseen: bool) -> Dataset:
    """Return the dataset with the splits of `clips`; labels that train never has and leaks are refused.

    Args:
        dataset: whose clips they are.
        clips: all of them, each with its split.
        words: the split's name.
        drop_unseen: leave clips of labels that train never has out, instead of refusing them.

    Raises:
        DataError: such labels, no clip for test, or see `check_no_leak`.
    """
    trained = {clip.label for clip in clips if clip.split == "train"}
    unseen = sorted({clip.label for clip in clips} - trained, key=natural_order)
    if unseen and not drop_unseen:
        where = sorted({clip.split for clip in clips if clip.label in unseen})
        raise DataError(
            f"{dataset.folder}: train never has these labels of {' and '.join(where)}, so no model can learn "
            f"them: {listed(unseen)}",
            fix="--drop-unseen leaves their clips out of the split, or name other "
            "signers, or import again with --shared-labels",
        )
    if unseen:
        dropped = sum(clip.label in unseen for clip in clips)
        clips = [replace(clip, split="") if clip.label in unseen else clip for clip in clips]
        words += f"; left out: {dropped} clips of {len(unseen)} labels that train never has"
    if empty := [name for name in ("train", "test") if all(clip.split != name for clip in clips)]:
        raise DataError(f"{dataset.folder}: no clip is left for {' and '.join(empty)}; split: {words}")
    result = dataset.with_clips(clips, words)
    check_no_leak(result)
    return result


def check_no_leak(dataset: Dataset) -> None:
    """Refuse a dataset in which one split knows something of another.

    A signer in two splits is refused unless the split's name says that signers are shared
    (`SIGNERS_SHARED`); a clip whose landmarks are identical to one of another split always is. Clips in no
    split do not count.

    Raises:
        DataError: names the signers, or the first two clips.
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
                fix="split by whole signers, or --by clip, whose name says that signers are shared",
            )
    first: dict[bytes, Clip] = {}
    for clip in dataset.clips:
        if clip.split:
            same = first.setdefault(content_of(dataset, clip), clip)
            if same.split != clip.split:
                raise DataError(
                    f"{dataset.folder}: a leak: {same.split} clip {same.id!r} (signer {same.signer}) and "
                    f"{clip.split} clip {clip.id!r} (signer {clip.signer}) have identical landmarks",
                    fix="import again without one of them, or put both signers into one split",
                )


def grouped_clips(dataset: Dataset, by: str) -> list[list[Clip]]:
    """Return clips that must stay together: identical ones, and those of one recording."""
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


def content_of(dataset: Dataset, clip: Clip) -> bytes:
    """Return a hash of a clip's landmarks; all missing ones are alike, and so are 0 and -0."""
    poses_TLD = np.nan_to_num(dataset.poses_of(clip), nan=0.0) + 0.0
    return hashlib.sha256(poses_TLD.tobytes()).digest()
