"""Every clip is tested once, by a fold that has not seen its signer, and what cannot be folded says why."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError, UsageError
from spoter_toolkit.crossval.folds import folds_of
from spoter_toolkit.data.dataset import Dataset, Origin
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset


def made(folder: Path, clips: list[tuple[str, str]]) -> Dataset:
    """Return a dataset of (label, signer) clips, no two alike."""
    random = np.random.default_rng(0)
    names = sorted({label for label, _ in clips})
    return write_dataset(
        folder / "data",
        [
            NewClip(id=str(i), label=label, signer=signer, fps=30, poses_TLD=random.random((5, 54, 2)))
            for i, (label, signer) in enumerate(clips)
        ],
        labels=[Label(name=name) for name in names],
        coordinates="image",
        origin=Origin(kind="npy"),
    )


def test_each_signer_is_tested_once_and_never_trained_on_then(tiny: Dataset) -> None:
    folds = folds_of(tiny)
    assert (folds.by, folds.remarks) == ("signer", ())
    assert [fold.tested for fold in folds.folds] == ["s01", "s02", "s03", "s04"]
    tested = Counter(clip.id for fold in folds.folds for clip in fold.dataset.clips_in("test"))
    assert tested == Counter(clip.id for clip in tiny.clips)
    for fold in folds.folds:
        assert {clip.signer for clip in fold.dataset.clips_in("test")} == {fold.tested}
        assert fold.tested not in {clip.signer for clip in fold.dataset.clips_in("train")}
        assert fold.dataset.split == f"by signer: test {fold.tested}; train the others"
    hashes = {fold.dataset.sha256 for fold in folds.folds}
    assert len(hashes | {tiny.sha256}) == 5  # no fold's run is taken for a run on the dataset's own split
    assert [fold.dataset.sha256 for fold in folds_of(tiny).folds] == [f.dataset.sha256 for f in folds.folds]


def test_signers_are_dealt_into_fewer_folds_of_like_size(tiny: Dataset) -> None:
    folds = folds_of(tiny, count=2).folds
    assert [len(fold.dataset.clips_in("test")) for fold in folds] == [16, 16]
    assert sorted(name for fold in folds for name in fold.tested.split(", ")) == ["s01", "s02", "s03", "s04"]


def test_more_than_ten_signers_make_ten_folds(tmp_path: Path) -> None:
    dataset = made(tmp_path, [(label, f"s{n}") for n in range(23) for label in "ab"])
    sizes = [len(fold.dataset.clips_in("test")) for fold in folds_of(dataset).folds]
    assert (len(sizes), sum(sizes), max(sizes)) == (10, 46, 6)


@pytest.mark.parametrize("signer", ["unknown", "rina"])
def test_one_signer_or_none_known_makes_folds_by_recording_and_says_so(tmp_path: Path, signer: str) -> None:
    dataset = made(tmp_path, [(label, signer) for label in "abc" for _ in range(6)])
    folds = folds_of(dataset)
    assert folds.by == "recording"
    assert "nothing about other people" in folds.remarks[0]
    assert len(folds.folds) == 5
    for fold in folds.folds:  # each label is in each fold
        assert Counter(clip.label for clip in fold.dataset.clips_in("test")).keys() == {"a", "b", "c"}
        assert fold.dataset.split.startswith("by recording, signers are shared: test fold ")


def test_clips_whose_label_only_their_fold_has_are_counted(tmp_path: Path) -> None:
    dataset = made(tmp_path, [*((label, s) for s in ("p", "q") for label in "ab"), ("c", "p")])
    folds = folds_of(dataset)
    assert folds.remarks == ("1 clip not tested: only the clips of their own fold have their labels",)
    assert [len(fold.dataset.clips_in("test")) for fold in folds.folds] == [2, 2]


@pytest.mark.parametrize(
    ("clips", "options", "message", "fix"),
    [
        ([("a", "p"), ("a", "q")], {}, "all clips have the label a", "import clips of other labels too"),
        ([("a", "p"), ("b", "unknown")], {}, "an unknown signer", "--by recording, or import again"),
        ([("a", "p"), ("b", "p")], {"by": "signer"}, "one signer", "--by recording"),
        ([("a", "p"), ("b", "p")], {}, "no label has two recordings", "record each label twice"),
        (
            [("a", "p"), ("a", "p"), ("b", "p")],
            {},
            "3 recordings, expected at least one a fold, 5",
            "--folds 3",
        ),
        ([("a", "p"), ("b", "q")], {"count": 3}, "2 signers, expected at least one a fold", "--folds 2"),
        ([("a", "p"), ("b", "q")], {}, "no clip is left for", "by other signers"),
    ],
)
def test_what_cannot_be_folded_says_why(tmp_path: Path, clips, options, message, fix) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=message) as error:
        folds_of(made(tmp_path, clips), **options)
    assert fix in error.value.fix


def test_fewer_than_two_folds_are_none(tiny: Dataset) -> None:
    with pytest.raises(UsageError, match="--folds 1"):
        folds_of(tiny, count=1)


def test_identical_clips_of_two_signers_are_a_leak(tiny: Dataset) -> None:
    clips = [*tiny.clips, replace(tiny.clips[0], id="copy", signer="s09")]
    with pytest.raises(DataError, match="identical landmarks"):
        folds_of(tiny.with_clips(clips, ""))
