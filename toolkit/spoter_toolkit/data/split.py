"""Split a dataset into train, val and test without leaks."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from spoter_runtime.errors import DataError, SpoterError, UsageError
from spoter_toolkit.data.bdslw60 import OFFICIAL_TEST, SIGNERS
from spoter_toolkit.data.dataset import UNKNOWN_SIGNER, Clip, Dataset, read_dataset
from spoter_toolkit.data.dataset_writer import check_resplit, rewrite_split
from spoter_toolkit.data.leaks import ALL_TRAIN, finished_split, grouped_clips, mixing_command
from spoter_toolkit.data.names import check_known, listed, natural_order
from spoter_toolkit.data.split_file import split_from_file

TEST_SHARE: Final = 0.2  # share of clips, if no signers are named
VAL_SHARE: Final = 0.1
ENOUGH_LABELS: Final = 0.5  # of those that one signer could test; and that val has, of those of test

By = Literal["signer", "bdslw60", "recording", "clip"]  # how a dataset is split


def split_dataset(
    folder: Path,
    *,
    by: By = "signer",
    file: Path | None = None,
    test: Sequence[str] = (),
    val: Sequence[str] = (),
    seed: int = 0,
    drop_unseen: bool = False,
    train_all: bool = False,
    force: bool = False,
) -> Dataset:
    """Split a DATASET into train, val and test, and write the split into its folder.

    Args:
        folder: the DATASET.
        by: ``"signer"``: whole signers; ``"bdslw60"``: the data set's official split; ``"recording"`` or
            ``"clip"``: at random, signers are shared and the split's name says so.
        file: take the splits from this file, see `split_from_file`.
        test: see `split_by_signer`.
        val: see `split_by_signer`.
        seed: see `split_by_signer`.
        drop_unseen: see `split_by_signer`.
        train_all: put every clip into train.
        force: replace a split that is there.

    Raises:
        UsageError: options that exclude each other.
        DataError: the dataset has a split already, or the split would leak or is impossible.
    """
    command = f"spoter-kit data split {shlex.quote(str(folder))}"
    if file and (test or val or by == "bdslw60"):
        raise UsageError(
            "--from says which clips are test and val; leave --test, --val and bdslw60 out",
            fix=f"{command} --from {shlex.quote(str(file))}",
        )
    if by in ("recording", "clip") and (test or val or (drop_unseen and not file)):
        raise UsageError(
            f"--test, --val and --drop-unseen name signers; --by {by} mixes them", fix=f"{command} --by {by}"
        )
    if train_all and (file or test or val or drop_unseen or by != "signer"):
        raise UsageError(
            "--train-all leaves nothing to choose; leave the other options out", fix=f"{command} --train-all"
        )
    if by == "bdslw60" and test:
        raise UsageError("--by bdslw60 has its test signers, U4 and U8; --by signer takes others")
    whole = read_dataset(folder)
    check_resplit(whole, force=force)
    if train_all:
        clips = [replace(clip, split="train") for clip in whole.clips]
        result = finished_split(whole, clips, ALL_TRAIN, drop_unseen, needs=("train",))
    elif by == "bdslw60":
        result = split_bdslw60(whole, val=val, drop_unseen=drop_unseen)
    elif file:
        result = split_from_file(whole, file, by=by, drop_unseen=drop_unseen)
    elif by == "signer":
        result = split_by_signer(whole, test=test, val=val, seed=seed, drop_unseen=drop_unseen)
    else:
        result = split_by_clip(whole, by=by, seed=seed)
    rewrite_split(result)
    return result


def first_split_command(dataset: Dataset) -> str:
    """Return the command that splits clips which have no split yet: by signer where that can be done."""
    try:
        split_by_signer(dataset)
    except DataError as error:
        if error.fix.startswith("spoter-kit"):
            return error.fix
    return dataset.split_command()


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
        dataset: any dataset; its splits are replaced.
        test: signers of the test split. Empty draws signers so that about `TEST_SHARE` of the clips are test
            and, if `val` is empty too, about `VAL_SHARE` val, train has every label, and test has many, see
            `draw_signers`. Few signers leave no val; two give one for train and one for test.
        val: signers of the validation split.
        seed: seed of the draw.
        drop_unseen: leave out clips of val and test whose label train lacks, instead of raising.

    Raises:
        DataError: only one signer, an unknown signer among others, a named signer that does not exist or
            occurs twice, no signer left for train, a label that train lacks, or see `check_no_leak`.
    """
    signers = sorted({clip.signer for clip in dataset.clips}, key=natural_order)
    check_known([*test, *val], signers, what="signer", where=dataset.folder)
    if len(signers) == 1:
        whose = "nobody said who signs" if signers == [UNKNOWN_SIGNER] else f"all clips are of {signers[0]}"
        raise DataError(
            f"{dataset.folder}: {whose}, so no clips can be kept for a signer who is not in train",
            fix=mixing_command(dataset),
        )
    if UNKNOWN_SIGNER in signers:
        raise DataError(
            f"{dataset.folder}: some clips are of an unknown signer, who may be any of the others; --signer "
            "NAME at the import names that signer",
            fix=mixing_command(dataset),
        )
    typed = [
        word
        for name, names in (("--test", test), ("--val", val))
        if names
        for word in (name, ",".join(names))
    ]
    if not test:
        typed += ["--seed", str(seed)] if seed else []
        if len(set(signers) - set(val)) < 2:
            raise DataError(
                f"{dataset.folder}: val {listed(val)} leaves no signers for train and test",
                fix=dataset.split_command(),
            )
        test, drawn = draw_signers([clip for clip in dataset.clips if clip.signer not in val], seed)
        val = val or drawn
    if twice := sorted(name for name, count in Counter([*test, *val]).items() if count > 1):
        others = [name for name in dict.fromkeys(val) if name not in test]
        raise DataError(
            f"signer {', '.join(twice)} is named twice; each belongs to one split",
            fix=f"--test {','.join(dict.fromkeys(test))}" + (f" --val {','.join(others)}" if others else ""),
        )
    splits = dict.fromkeys(signers, "train") | dict.fromkeys(test, "test") | dict.fromkeys(val, "val")
    train = [name for name in signers if splits[name] == "train"]
    if not train:
        raise DataError(
            f"{dataset.folder}: no signer is left for train of {', '.join(signers)}",
            fix=dataset.split_command(),
        )
    words = f"by signer: test {listed(test)}{f'; val {listed(val)}' if val else ''}; train "
    words += train[0] if len(train) == 1 else f"the other {len(train)}"
    clips = [replace(clip, split=splits[clip.signer]) for clip in dataset.clips]
    return finished_split(dataset, clips, words, drop_unseen, typed=typed)


def untested_labels(dataset: Dataset) -> SpoterError | None:
    """Return a remark on a test that lacks labels of train, with the command of one that has more of them.

    None where it has all of them, or where there is no test.
    """
    kept = {clip.label for clip in dataset.clips if clip.split}
    tested = {clip.label for clip in dataset.clips_in("test")}
    if not tested or tested == kept:
        return None
    said = f"test has {len(tested)} of {len(kept)} labels: its score says nothing about the others"
    return SpoterError(said, fix=_wider_test(dataset, kept, len(tested)))


def _wider_test(dataset: Dataset, kept: Collection[str], least: int) -> str:
    """Return the command that tests on one signer more, or another one, with more labels; else nothing."""
    labels: dict[str, set[str]] = defaultdict(set)
    for clip in dataset.clips:
        labels[clip.signer].add(clip.label)
    test, val = ({clip.signer for clip in dataset.clips_in(name)} for name in ("test", "val"))
    chosen, most, drops = set[str](), least, False
    for one in sorted(labels.keys() - val, key=natural_order):
        for signers in ({one}, test | {one}):
            trained = labels_by(labels.keys() - signers - val, labels)
            count = len(labels_by(signers, labels) & trained)
            if count > most and trained.issuperset(kept):
                chosen, most, drops = signers, count, trained < labels_by(labels, labels)
    if not chosen or not dataset.split.startswith("by signer: "):
        return ""
    options = ["--test", ",".join(sorted(chosen, key=natural_order))]
    options += ["--val", ",".join(sorted(val, key=natural_order))] if val else []
    options += ["--drop-unseen"] if drops else []
    return dataset.split_command(*options)


def larger_val(dataset: Dataset, clips: Sequence[Clip], least: int) -> str:
    """Return the command of the same split with at least so many of some clips in val; nothing if none has.

    It takes the smallest signer that has enough of them, else several, and leaves every label in train.
    """
    official = dataset.split.startswith("official BdSLW60")
    if not (official or dataset.split.startswith("by signer: ")):
        return ""
    labels: dict[str, set[str]] = defaultdict(set)
    for clip in dataset.clips:
        labels[clip.signer].add(clip.label)
    test = sorted({clip.signer for clip in dataset.clips_in("test")}, key=natural_order)
    sizes = Counter(clip.signer for clip in clips if clip.signer not in test)
    largest = sorted(sizes, key=lambda one: (-sizes[one], natural_order(one)))
    enough = [one for one in largest if sizes[one] >= least]
    smallest = sorted(enough, key=lambda one: sizes[one])  # stable: of equal ones the first
    val = list[str]()
    for name in (*smallest, *largest):
        if sum(sizes[one] for one in val) < least and train_can_spare(labels, [*test, *val, name]):
            val += [name] if name not in val else []
    if sum(sizes[one] for one in val) < least:
        return ""
    kept = ["--by", "bdslw60"] if official else ["--test", ",".join(test)] if test else []
    return dataset.split_command(*kept, "--val", ",".join(sorted(val, key=natural_order)))


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
            fix=dataset.split_command(),
        )
    if absent := [name for name in OFFICIAL_TEST if name not in signers]:
        raise DataError(
            f"{dataset.folder}: the official split tests on {' and '.join(OFFICIAL_TEST)}; there is no "
            f"{' and no '.join(absent)}",
            fix=f"import all signers, or {dataset.split_command()}",
        )
    result = split_by_signer(dataset, test=OFFICIAL_TEST, val=val, drop_unseen=drop_unseen)
    partial = "" if signers == set(SIGNERS) else f" (only {len(signers)} of the 18 signers are there)"
    return replace(result, split=f"official BdSLW60{partial}, {result.split}")


def split_by_clip(dataset: Dataset, *, by: Literal["clip", "recording"] = "clip", seed: int = 0) -> Dataset:
    """Return the dataset split by clips at random, label by label; its name says that signers are shared.

    Scores on such a split hold for these signers only, not for new ones.

    Args:
        dataset: any dataset; its splits are replaced.
        by: ``"clip"`` keeps identical clips together; ``"recording"`` also clips of one recording
            (`Clip.source`).
        seed: seed of the draw. About `TEST_SHARE` and `VAL_SHARE` of each label's clips are test and val, in
            whole groups; at least one group of each label is train, two where there are three.

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
        splits |= draw_clips(drawn)
    if "test" not in splits.values():
        raise DataError(
            f"{dataset.folder}: no label has two {by}s that differ, so none is left for a test",
            fix=dataset.split_command("--train-all"),
        )
    shares = Counter(splits.values())
    words = ", ".join(f"{name} {100 * shares[name] / len(splits):.0f} %" for name in ("test", "val"))
    return finished_split(
        dataset,
        [replace(clip, split=splits[clip.id]) for clip in dataset.clips],
        f"by {by}, signers are shared: {words}, seed {seed}",
        drop_unseen=False,
    )


def draw_signers(clips: Sequence[Clip], seed: int) -> tuple[list[str], list[str]]:
    """Return signers for test and val: about their shares of the clips, with many labels, else at random.

    Train keeps every label. A test of few labels says little: then the signer with the most is taken, also
    where that is more than the share. A val of few labels would choose a wrong epoch: then there is none.
    """
    sizes = Counter(clip.signer for clip in clips)
    labels: dict[str, set[str]] = {name: set() for name in sorted(sizes, key=natural_order)}
    for clip in clips:
        labels[clip.signer].add(clip.label)
    names = [*labels]
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    test = signers_near_share(order, sizes, labels, TEST_SHARE, taken=[])
    spared = [name for name in order if train_can_spare(labels, [name])] or order
    alone = max(spared, key=lambda name: (len(labels[name]), -sizes[name]))
    if len(labels_by(test, labels)) < ENOUGH_LABELS * len(labels[alone]):
        test = [alone]
    others = [name for name in order if name not in test]
    val = signers_near_share(others, sizes, labels, VAL_SHARE, taken=test)
    if len(labels_by(val, labels)) < ENOUGH_LABELS * len(labels_by(test, labels)):
        val = []
    return sorted(test, key=natural_order), sorted(val, key=natural_order)


def signers_near_share(
    order: Sequence[str],
    sizes: Mapping[str, int],
    labels: Mapping[str, set[str]],
    share: float,
    *,
    taken: Sequence[str],
) -> list[str]:
    """Return signers that each bring their part of all clips nearer to a share, train keeping every label.

    The one with the most new labels comes first; of several the first in order.

    Args:
        order: signers to choose from.
        sizes: signer → clips, of all signers.
        labels: signer → labels, of all signers.
        share: of all clips.
        taken: signers of another split.
    """
    wanted, chosen, have = share * sum(sizes.values()), list[str](), 0
    while fitting := [
        name
        for name in order
        if name not in chosen
        and abs(have + sizes[name] - wanted) < abs(have - wanted)
        and train_can_spare(labels, [*taken, *chosen, name])
    ]:
        known = labels_by(chosen, labels)
        chosen.append(max(fitting, key=lambda name: len(labels[name] - known)))
        have += sizes[chosen[-1]]
    return chosen


def labels_by(signers: Collection[str], labels: Mapping[str, set[str]]) -> set[str]:
    """Return the labels of some signers together."""
    return set().union(*(labels[name] for name in signers))


def train_can_spare(labels: Mapping[str, set[str]], signers: Collection[str]) -> bool:
    """Return True if every label still has a signer without these."""
    return labels_by(labels.keys() - set(signers), labels) == labels_by(labels, labels)


def draw_clips(groups: list[list[Clip]]) -> dict[str, str]:
    """Return clip id → split for one label's groups, which are in random order."""
    total = sum(map(len, groups))
    names = iter(groups)
    splits: dict[str, str] = {}
    left = len(groups)
    for split, share, spared in (("test", TEST_SHARE, 1), ("val", VAL_SHARE, 2)):
        have = 0
        while left > spared and (not have or have + 0.5 < share * total):
            group = next(names)
            splits |= {clip.id: split for clip in group}
            have, left = have + len(group), left - 1
    return splits | {clip.id: "train" for group in names for clip in group}
