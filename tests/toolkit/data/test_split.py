"""Splits: nothing of the test is known to the training."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError
from spoter_toolkit.data.bdslw60 import OFFICIAL_TEST, SIGNERS
from spoter_toolkit.data.dataset import Clip, Dataset, Origin
from spoter_toolkit.data.leaks import check_no_leak
from spoter_toolkit.data.split import (
    larger_val,
    split_bdslw60,
    split_by_clip,
    split_by_signer,
    untested_labels,
)

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "bdslw60"


def dataset_of(rows, *, same=()) -> Dataset:
    """A dataset in memory: rows of (label, signer) or (label, signer, source); `same` are pairs of twins."""
    poses = np.random.default_rng(0).uniform(0.1, 0.9, (len(rows), 2, 54, 2)).astype(np.float32)
    for original, twin in same:
        poses[twin] = poses[original]
    clips = tuple(
        Clip(
            id=f"c{i}", label=row[0], signer=row[1], start=2 * i, frames=2, fps=30.0, source="".join(row[2:])
        )
        for i, row in enumerate(rows)
    )
    return Dataset(
        folder=Path("data"),
        poses_FLD=poses.reshape(-1, 54, 2),
        clips=clips,
        labels=tuple(Label(name=name) for name in sorted({row[0] for row in rows})),
        coordinates="image",
        origin=Origin(kind="test"),
        split="",
        sha256="",
    )


def people(signers, labels=("tea", "milk"), clips=3):
    return [(label, signer) for signer in signers for label in labels for _ in range(clips)]


def signers_in(dataset, split):
    return {clip.signer for clip in dataset.clips_in(split)}


def test_named_signers_go_where_they_are_named():
    result = split_by_signer(dataset_of(people("ABCDE")), test=["B", "D"], val=["E"])
    assert signers_in(result, "test") == {"B", "D"}
    assert signers_in(result, "val") == {"E"}
    assert signers_in(result, "train") == {"A", "C"}
    assert result.split == "by signer: test B, D; val E; train the other 2"


def test_named_test_signers_bring_no_val_along():
    result = split_by_signer(dataset_of(people("ABCDEFGHIJ")), test=["B"])
    assert signers_in(result, "val") == set()
    assert len(signers_in(result, "train")) == 9


@pytest.mark.parametrize("seed", range(5))
def test_drawn_signers_are_about_a_fifth_and_a_tenth_of_the_clips(seed):
    rows = [row for i in range(18) for row in people([f"U{i + 1}"], clips=5 + (7 * i) % 11)]
    result = split_by_signer(dataset_of(rows), seed=seed)
    part = {name: len(result.clips_in(name)) / len(rows) for name in ("train", "val", "test")}
    assert part["test"] == pytest.approx(0.2, abs=0.04)
    assert part["val"] == pytest.approx(0.1, abs=0.04)
    assert sum(part.values()) == pytest.approx(1)
    assert not signers_in(result, "train") & (signers_in(result, "test") | signers_in(result, "val"))


def test_the_draw_depends_on_the_seed_alone():
    dataset = dataset_of(people([f"s{i}" for i in range(12)]))
    assert split_by_signer(dataset, seed=1).clips == split_by_signer(dataset, seed=1).clips
    assert len({split_by_signer(dataset, seed=seed).split for seed in range(8)}) > 1


def test_the_draw_leaves_train_every_label():
    rows = [*people("ABCDE"), ("coffee", "A"), ("coffee", "B"), ("water", "C")]
    for seed in range(10):
        result = split_by_signer(dataset_of(rows), seed=seed)
        assert {clip.label for clip in result.clips_in("train")} == {"tea", "milk", "coffee", "water"}
        assert "C" in signers_in(result, "train")


def test_the_draw_takes_signers_with_many_labels():
    words = [f"w{i}" for i in range(8)]
    rows = people("AB", words, clips=8) + people("C", words[:1], clips=8)  # C has 6 % of the clips
    result = split_by_signer(dataset_of(rows))
    assert len(signers_in(result, "test") & {"A", "B"}) == 1
    assert signers_in(result, "val") == set()  # C would choose the epoch by one word
    halves = [words[:4], words[4:]]
    rows = [row for i in range(20) for row in people([f"s{i}"], halves[i % 2])]
    for seed in range(10):
        result = split_by_signer(dataset_of(rows), seed=seed)
        assert len(signers_in(result, "test")) == 4
        for split in ("test", "val"):
            assert {clip.label for clip in result.clips_in(split)} == set(words)


def test_signers_who_sign_every_label_are_drawn_at_random_as_before():
    drawn = [split_by_signer(dataset_of(people("ABCDEFGHIJ")), seed=seed).split for seed in range(3)]
    assert drawn == [
        "by signer: test E, G; val C; train the other 7",
        "by signer: test E, I; val H; train the other 7",
        "by signer: test A, C; val H; train the other 7",
    ]


def test_two_signers_are_one_for_train_and_one_for_test():
    result = split_by_signer(dataset_of([*people("A", clips=9), *people("B")]))
    assert (signers_in(result, "train"), signers_in(result, "test")) == ({"A"}, {"B"})
    assert result.split == "by signer: test B; train A"
    assert not result.clips_in("val")


def test_one_signer_is_refused_with_what_to_do():
    with pytest.raises(DataError, match="all clips are of A, so no clips can be kept for a signer") as caught:
        split_by_signer(dataset_of(people("A")))
    assert caught.value.fix == "spoter-kit data split data --by clip"


def test_an_unknown_signer_among_others_may_be_any_of_them():
    with pytest.raises(
        DataError, match=r"unknown signer, who may be any of the others; --signer NAME .*Fix: .*--by clip$"
    ):
        split_by_signer(dataset_of(people(["ann", "bob", "unknown"])), test=["ann"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": ["U44"]}, "no signer 'U44' there; did you mean U4"),
        ({"test": ["U4"], "val": ["Ux"]}, "no signer 'Ux' there"),
        ({"test": ["U4"], "val": ["U4"]}, "signer U4 is named twice"),
        ({"test": ["U4", "U4"]}, "signer U4 is named twice"),
        ({"test": ["U4"], "val": ["U5", "U6"]}, "no signer is left for train of U4, U5, U6"),
        ({"val": ["U4", "U6"]}, "val U4, U6 leaves no signers for train and test"),
    ],
)
def test_signers_that_make_no_split_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        split_by_signer(dataset_of(people(["U4", "U5", "U6"])), **arguments)


def test_a_label_that_train_never_has_is_refused_or_left_out_in_words():
    dataset = dataset_of([*people("AB"), ("coffee", "B"), ("coffee", "B"), ("jam", "B")])
    with pytest.raises(
        DataError,
        match=r"train never has these labels of test, .*: coffee, jam\. Fix: .* data --test B --drop-unseen$",
    ):
        split_by_signer(dataset, test=["B"])
    result = split_by_signer(dataset, test=["B"], drop_unseen=True)
    assert {clip.label for clip in result.clips_in("test")} == {"tea", "milk"}
    assert {clip.label for clip in result.clips_in("")} == {"coffee", "jam"}
    assert result.split.endswith("train A; left out: 3 clips of 2 labels that train never has")


def test_a_test_split_of_nothing_but_unseen_labels_is_refused():
    with pytest.raises(DataError, match="no clip is left for test"):
        split_by_signer(dataset_of([("tea", "A"), ("jam", "B")]), test=["B"], drop_unseen=True)


def test_bdslw60s_official_split():
    result = split_bdslw60(dataset_of(people(SIGNERS)))
    assert signers_in(result, "test") == {"U4", "U8"}
    assert len(signers_in(result, "train")) == 16
    assert result.split == "official BdSLW60, by signer: test U4, U8; train the other 16"
    result = split_bdslw60(dataset_of(people(SIGNERS)), val=["U3"])
    assert signers_in(result, "val") == {"U3"}
    assert result.split == "official BdSLW60, by signer: test U4, U8; val U3; train the other 15"


def test_an_official_split_of_a_part_says_so():
    result = split_bdslw60(dataset_of(people(["U1", "U4", "U8"])))
    assert result.split.startswith(
        "official BdSLW60 (only 3 of the 18 signers are there), by signer: test U4, U8"
    )


@pytest.mark.parametrize(
    ("signers", "message"),
    [
        (["U1", "U4"], "tests on U4 and U8; there is no U8"),
        (["U1", "U2"], "there is no U4 and no U8"),
        (["U1", "U4", "U8", "ann"], "signers U1 … U18; this dataset also has ann"),
    ],
)
def test_the_official_split_is_refused_for_other_data(signers, message):
    with pytest.raises(DataError, match=message):
        split_bdslw60(dataset_of(people(signers)))


@pytest.mark.skipif(not SHARED.is_dir(), reason="BdSLW60's split table is not beside the checkout")
def test_the_official_signers_are_the_authors():
    official = json.loads((SHARED / "splits.json").read_text())["official"]
    assert tuple(official["test"]) == OFFICIAL_TEST
    assert set(official["train"]) == set(SIGNERS) - set(OFFICIAL_TEST)


def test_a_split_by_clip_is_stratified_and_names_itself():
    rare = [*people("A", ["rare"], clips=5), *people("A", ["thrice"], clips=3)]
    dataset = dataset_of([*people("AB", clips=50), *rare])
    result = split_by_clip(dataset)
    counts = Counter((clip.label, clip.split) for clip in result.clips)
    assert (counts["tea", "train"], counts["tea", "val"], counts["tea", "test"]) == (70, 10, 20)
    assert (counts["rare", "train"], counts["rare", "val"], counts["rare", "test"]) == (3, 1, 1)
    assert (counts["thrice", "train"], counts["thrice", "test"]) == (2, 1)
    assert result.split == "by clip, signers are shared: test 20 %, val 10 %, seed 0"
    assert split_by_clip(dataset, seed=1).clips != result.clips
    assert split_by_clip(dataset, seed=0).clips == result.clips


def test_identical_clips_stay_together_in_a_split_by_clip():
    pairs = [(i, i + 1) for i in range(0, 40, 2)]
    dataset = dataset_of(people("A", clips=20), same=pairs)
    for seed in range(5):
        splits = [clip.split for clip in split_by_clip(dataset, seed=seed).clips]
        assert all(splits[a] == splits[b] for a, b in pairs)
        assert "test" in splits


def test_whole_recordings_stay_together():
    rows = [("tea", "A", f"r{i // 5}") for i in range(50)]
    result = split_by_clip(dataset_of(rows), by="recording")
    splits_of = {row[2]: set() for row in rows}
    for clip in result.clips:
        splits_of[clip.source].add(clip.split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert Counter(clip.split for clip in result.clips) == {"train": 35, "val": 5, "test": 10}
    assert result.split == "by recording, signers are shared: test 20 %, val 10 %, seed 0"


def test_a_split_by_clip_needs_two_clips_of_a_label():
    with pytest.raises(
        DataError, match=r"no label has two clips that differ.*Fix: spoter-kit data split data --train-all$"
    ):
        split_by_clip(dataset_of([("tea", "A"), ("milk", "A"), ("tea", "A")], same=[(0, 2)]))


def test_an_unsplit_dataset_has_no_leak():
    check_no_leak(dataset_of(people("AB"), same=[(0, 7)]))


def test_a_signer_in_two_splits_is_a_leak_unless_the_name_says_so():
    dataset = dataset_of(people("AB"))
    clips = [replace(clip, split="train" if i % 2 else "test") for i, clip in enumerate(dataset.clips)]
    with pytest.raises(DataError, match=r"a leak: signer A, B is in more than one split \(train, test\)"):
        check_no_leak(dataset.with_clips(clips, "by signer: test A"))
    check_no_leak(dataset.with_clips(clips, "by clip, signers are shared: test 50 %"))


def test_clips_in_no_split_do_not_leak():
    dataset = dataset_of(people("AB"))
    clips = [replace(clip, split="" if clip.id == "c0" else "train") for clip in dataset.clips]
    check_no_leak(dataset.with_clips(clips, "by signer: train all"))


def test_an_identical_clip_in_two_splits_is_a_leak_by_any_name():
    dataset = dataset_of(people("AB"), same=[(0, 7)])
    with pytest.raises(
        DataError,
        match=r"a leak: train clip 'c0' \(signer A\) and test clip 'c7' \(signer B\) have identical "
        r"landmarks. Fix: spoter-kit data split data --by clip$",
    ):
        split_by_signer(dataset, test=["B"])
    clips = [replace(clip, split="test" if clip.id == "c7" else "train") for clip in dataset.clips]
    with pytest.raises(DataError, match="have identical landmarks"):
        check_no_leak(dataset.with_clips(clips, "by clip, signers are shared"))


def test_the_command_of_a_wider_test_keeps_the_other_options():
    rows = [("tea", "A"), *((label, signer) for signer in "BCD" for label in ("tea", "milk"))]
    assert str(untested_labels(split_by_signer(dataset_of(rows), test=["A"], val=["B"]))) == (
        "test has 1 of 2 labels: its score says nothing about the others. "
        "Fix: spoter-kit data split data --test C --val B --force"
    )
    assert untested_labels(split_by_signer(dataset_of(rows), test=["C"])) is None
    rows = [("tea", "A"), ("rare", "A"), ("milk", "B"), ("tea", "C"), ("milk", "C")]
    gap = untested_labels(split_by_signer(dataset_of(rows), test=["A"], drop_unseen=True))
    assert gap.fix == "spoter-kit data split data --test A,B --drop-unseen --force"
    rows = [("tea", "A"), ("tea", "B"), ("milk", "B")]  # nobody else has milk
    assert untested_labels(split_by_signer(dataset_of(rows), test=["A"])).fix == ""


def test_the_command_of_a_larger_val_keeps_the_test():
    dataset = dataset_of([*people("ABC", clips=3), *people("DE", clips=12)])
    result = split_by_signer(dataset, test=["D"], val=["A"])
    command = "spoter-kit data split data --test D --val"
    assert larger_val(result, result.clips, 6) == f"{command} A --force"
    assert larger_val(result, result.clips, 20) == f"{command} E --force"
    assert (
        larger_val(result, [clip for clip in result.clips if clip.signer != "E"], 8)
        == f"{command} A,B --force"
    )
    assert larger_val(result, result.clips, 40) == ""
    assert larger_val(replace(result, split="by clip, signers are shared"), result.clips, 6) == ""


def test_identity_does_not_depend_on_how_missing_is_written():
    dataset = dataset_of(people("AB"), same=[(0, 7)])
    dataset.poses_FLD[0, 3] = np.nan
    dataset.poses_FLD[14, 3] = (0.0, -0.0)
    with pytest.raises(DataError, match="identical landmarks"):
        split_by_signer(dataset, test=["B"])
