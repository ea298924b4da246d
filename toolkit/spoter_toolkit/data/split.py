"""Split a dataset into train, val and test so that nothing of the test is known to the training."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np

from spoter_runtime.errors import DataError
from spoter_toolkit.data.bdslw60 import OFFICIAL_TEST, SIGNERS
from spoter_toolkit.data.dataset import SPLITS, UNKNOWN_SIGNER, Clip, Dataset
from spoter_toolkit.data.names import check_known, listed, natural_order

TEST_SHARE: Final = 0.2  # of the clips, where no signers are named
VAL_SHARE: Final = 0.1

# A split whose name begins like this has the same signers in train and test, because someone asked for it.
SIGNERS_SHARED: Final = ("by clip", "by recording")


def split_by_signer(
    dataset: Dataset,
    *,
    test: Sequence[str] = (),
    val: Sequence[str] = (),
    seed: int = 0,
    drop_unseen: bool = False,
) -> Dataset:
    """Return the dataset split by whole signers; `rewrite_split` writes it.

    Args:
        dataset: any; splits it already has are forgotten.
        test: signers of the test split. Empty: signers are drawn so that about `TEST_SHARE` of the clips
            are test and, where `val` is empty too, about `VAL_SHARE` val, and train has every label.
            Few signers leave no val, two leave one for train and one for test.
        val: signers of the validation split.
        seed: of that draw.
        drop_unseen: leave clips of val and test out where train never has their label, instead of
            refusing the split.

    Raises:
        DataError: one signer only, an unknown one among others, a signer that is not there or is named
            twice, no signer left for train, a label that train never has, or see `check_no_leak`.
    """
    signers = sorted({clip.signer for clip in dataset.clips}, key=natural_order)
    check_known([*test, *val], signers, what="signer", where=dataset.folder)
    if len(signers) == 1:
        raise DataError(
            f"{dataset.folder}: all clips are of one signer ({signers[0]}), so nothing can be said "
            "about others",
            fix="import more signers, or ask for a signer-mixed split: spoter-kit data split --by clip",
        )
    if UNKNOWN_SIGNER in signers:
        raise DataError(
            f"{dataset.folder}: some clips are of an unknown signer, who may be any of the others",
            fix="import again with --signer NAME, or without those clips: --signers A,B",
        )
    if not test:
        if len(set(signers) - set(val)) < 2:
            raise DataError(f"{dataset.folder}: val {listed(val)} leaves no signers for train and test")
        test, drawn = _drawn_signers([clip for clip in dataset.clips if clip.signer not in val], seed)
        val = val or drawn
    if twice := sorted(name for name, count in Counter([*test, *val]).items() if count > 1):
        raise DataError(f"signer {', '.join(twice)} is named twice; each belongs to one split")
    splits = dict.fromkeys(signers, "train") | dict.fromkeys(test, "test") | dict.fromkeys(val, "val")
    train = [name for name in signers if splits[name] == "train"]
    if not train:
        raise DataError(f"{dataset.folder}: no signer is left for train of {', '.join(signers)}")
    words = [f"test {listed(test)}", *([f"val {listed(val)}"] if val else []), _train_in_words(train)]
    return finished_split(
        dataset,
        [replace(clip, split=splits[clip.signer]) for clip in dataset.clips],
        f"by signer: {'; '.join(words)}",
        drop_unseen,
    )


def split_bdslw60(dataset: Dataset, *, val: Sequence[str] = (), drop_unseen: bool = False) -> Dataset:
    """Return BdSLW60 with its authors' user-independent split: test U4 and U8, train the others.

    Args:
        dataset: clips of signers U1 … U18, U4 and U8 among them.
        val: signers taken out of train for validation; the authors name none.
        drop_unseen: see `split_by_signer`.

    Raises:
        DataError: other signers than BdSLW60's, U4 or U8 is missing, or see `split_by_signer`.
    """
    signers = {clip.signer for clip in dataset.clips}
    if foreign := sorted(signers - set(SIGNERS), key=natural_order):
        raise DataError(
            f"{dataset.folder}: the official split is BdSLW60's, signers U1 … U18; this dataset also has "
            f"{listed(foreign)}",
            fix="spoter-kit data split --by signer",
        )
    if absent := [name for name in OFFICIAL_TEST if name not in signers]:
        raise DataError(
            f"{dataset.folder}: the official split tests on {' and '.join(OFFICIAL_TEST)}; there is no "
            f"{' and no '.join(absent)}",
            fix="import all signers, or spoter-kit data split --by signer",
        )
    result = split_by_signer(dataset, test=OFFICIAL_TEST, val=val, drop_unseen=drop_unseen)
    partial = "" if signers == set(SIGNERS) else f" (only {len(signers)} of the 18 signers are there)"
    return replace(result, split=f"official BdSLW60{partial}, {result.split}")


def split_by_clip(dataset: Dataset, *, by: Literal["clip", "recording"] = "clip", seed: int = 0) -> Dataset:
    """Return the dataset split by clips at random, label by label; its name says that signers are shared.

    Figures from such a split say how well a model knows these signers, not how well it knows signs.

    Args:
        dataset: any; splits it already has are forgotten.
        by: ``"clip"``: every clip on its own, but identical ones together; ``"recording"``: clips of
            one recording (`Clip.source`) together too.
        seed: of the draw. `TEST_SHARE` and `VAL_SHARE` of each label's clips are test and val, as nearly as
            whole groups allow; each label keeps at least one group for train.

    Raises:
        DataError: there are too few clips for a test split.
    """
    groups = grouped_clips(dataset, by)
    of_label = defaultdict(list)
    for group in groups:
        of_label[group[0].label].append(group)
    random = np.random.default_rng(seed)
    splits: dict[str, str] = {}
    for label in sorted(of_label):
        drawn = [of_label[label][i] for i in random.permutation(len(of_label[label]))]
        splits |= _drawn_clips(drawn)
    if "test" not in splits.values():
        raise DataError(f"{dataset.folder}: no label has two {by}s that differ, so none is left for a test")
    shares = Counter(splits.values())
    words = ", ".join(f"{name} {100 * shares[name] / len(splits):.0f} %" for name in ("test", "val"))
    return finished_split(
        dataset,
        [replace(clip, split=splits[clip.id]) for clip in dataset.clips],
        f"by {by}, signers are shared: {words}, seed {seed}",
        drop_unseen=False,
    )


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
            same = first.setdefault(_content(dataset, clip), clip)
            if same.split != clip.split:
                raise DataError(
                    f"{dataset.folder}: a leak: {same.split} clip {same.id!r} (signer {same.signer}) and "
                    f"{clip.split} clip {clip.id!r} (signer {clip.signer}) have identical landmarks",
                    fix="import again without one of them, or put both signers into one split",
                )


def _content(dataset: Dataset, clip: Clip) -> bytes:
    """Return a hash of the landmarks; missing ones are all alike, and so are 0 and -0."""
    poses_TLD = np.nan_to_num(dataset.poses_of(clip), nan=0.0) + 0.0
    return hashlib.sha256(poses_TLD.tobytes()).digest()


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


def _drawn_signers(clips: Sequence[Clip], seed: int) -> tuple[list[str], list[str]]:
    """Return signers for test and val: about the shares of the clips, and no label lost to train."""
    names = sorted({clip.signer for clip in clips}, key=natural_order)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    test = _nearest_share(clips, order, TEST_SHARE, taken=[])
    if not test:  # few signers: the one with fewest clips that train can do without
        by_size = sorted(order, key=Counter(clip.signer for clip in clips).__getitem__)
        test = [next((name for name in by_size if _train_can_spare(clips, [name])), by_size[0])]
    val = _nearest_share(clips, [name for name in order if name not in test], VAL_SHARE, taken=test)
    return sorted(test, key=natural_order), sorted(val, key=natural_order)


def _nearest_share(clips: Sequence[Clip], order: list[str], share: float, taken: list[str]) -> list[str]:
    """Take signers, in order, for as long as each brings their part of the clips nearer to the share."""
    sizes = Counter(clip.signer for clip in clips)
    wanted, chosen, have = share * len(clips), list[str](), 0
    for name in order:
        nearer = abs(have + sizes[name] - wanted) < abs(have - wanted)
        if nearer and _train_can_spare(clips, [*taken, *chosen, name]):
            chosen.append(name)
            have += sizes[name]
    return chosen


def _train_can_spare(clips: Sequence[Clip], signers: Collection[str]) -> bool:
    left = {clip.label for clip in clips if clip.signer not in signers}
    return left == {clip.label for clip in clips}


def grouped_clips(dataset: Dataset, by: str) -> list[list[Clip]]:
    """Return clips that must stay together: identical ones, and those of one recording."""
    parent = {clip.id: clip.id for clip in dataset.clips}

    def root(id_: str) -> str:
        while parent[id_] != id_:
            id_ = parent[id_]
        return id_

    first: dict[object, str] = {}
    for clip in dataset.clips:
        keys: list[object] = [_content(dataset, clip)]
        if by == "recording" and clip.source:
            keys.append((clip.signer, clip.label, clip.source))
        for key in keys:
            parent[root(clip.id)] = root(first.setdefault(key, clip.id))
    groups = defaultdict(list)
    for clip in dataset.clips:
        groups[root(clip.id)].append(clip)
    return list(groups.values())


def _drawn_clips(groups: list[list[Clip]]) -> dict[str, str]:
    """Return clip id → split for one label's groups, already in random order."""
    total = sum(map(len, groups))
    names = iter(groups)
    splits: dict[str, str] = {}
    left = len(groups)
    for split, share in (("test", TEST_SHARE), ("val", VAL_SHARE)):
        have = 0
        while left > 1 and (not have or have + 0.5 < share * total):
            group = next(names)
            splits |= {clip.id: split for clip in group}
            have, left = have + len(group), left - 1
    return splits | {clip.id: "train" for group in names for clip in group}


def _train_in_words(train: list[str]) -> str:
    return f"train {train[0]}" if len(train) == 1 else f"train the other {len(train)}"
