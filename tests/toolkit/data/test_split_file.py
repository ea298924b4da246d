"""A split that somebody has published: taken as the file says, and leaks are still refused or named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from spoter_runtime.errors import DataError
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.data.split_file import read_split_file, split_from_file


def csv_of(path: Path, rows: dict[str, str], header: str = "id,split") -> Path:
    path.write_text("\n".join([header, *(f"{id_},{split}" for id_, split in rows.items())]) + "\n")
    return path


def splits_of(dataset: Dataset) -> dict[str, str]:
    return {clip.id: clip.split for clip in dataset.clips}


@pytest.fixture
def by_signer(tiny: Dataset) -> dict[str, str]:
    """Two signers for train, one for val, one for test."""
    names = sorted({clip.signer for clip in tiny.clips})
    of_signer = dict(zip(names, ("train", "train", "val", "test"), strict=True))
    return {clip.id: of_signer[clip.signer] for clip in tiny.clips}


@pytest.fixture
def mixed(tiny: Dataset) -> dict[str, str]:
    """Every third clip is test, whoever signed it."""
    return {clip.id: "test" if i % 3 == 0 else "train" for i, clip in enumerate(tiny.clips)}


def test_the_clips_go_where_the_file_says(tiny: Dataset, by_signer: dict[str, str], tmp_path: Path) -> None:
    result = split_from_file(tiny, csv_of(tmp_path / "theirs.csv", by_signer))
    assert splits_of(result) == by_signer
    (test,) = {clip.signer for clip in result.clips_in("test")}
    (val,) = {clip.signer for clip in result.clips_in("val")}
    assert result.split == f"by signer, from theirs.csv: test {test}; val {val}"


@pytest.mark.parametrize("named", ["validation", "valid", "dev", "VAL"])
def test_other_names_of_val(tiny: Dataset, by_signer: dict[str, str], tmp_path: Path, named: str) -> None:
    rows = {id_: named if split == "val" else split for id_, split in by_signer.items()}
    assert splits_of(split_from_file(tiny, csv_of(tmp_path / "a.csv", rows))) == by_signer


def test_the_json_of_wlasl_is_taken(tiny: Dataset, by_signer: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "nslt_100.json"
    path.write_text(
        json.dumps({id_: {"subset": split, "action": [1, 2]} for id_, split in by_signer.items()})
    )
    assert splits_of(split_from_file(tiny, path)) == by_signer


def test_a_clip_is_known_by_the_last_part_of_its_id_or_its_source(tiny: Dataset, tmp_path: Path) -> None:
    clips = [
        replace(clip, id=f"{clip.label}/{clip.signer}/{i}", source=f"videos/v{i}.mp4")
        for i, clip in enumerate(tiny.clips)
    ]
    dataset = tiny.with_clips(clips, "")
    names = sorted({clip.signer for clip in clips})
    split = ["test" if clip.signer == names[0] else "train" for clip in clips]
    for form in ("{}", "v{}"):
        rows = {form.format(i): name for i, name in enumerate(split)}
        result = split_from_file(dataset, csv_of(tmp_path / "a.csv", rows))
        assert [clip.split for clip in result.clips] == split


def test_clips_that_the_file_does_not_name_are_left_out_and_counted(
    tiny: Dataset, by_signer: dict[str, str], tmp_path: Path
) -> None:
    first = next(id_ for id_, split in by_signer.items() if split == "test")
    rows = {id_: split for id_, split in by_signer.items() if id_ != first} | {"of another word": "test"}
    result = split_from_file(tiny, csv_of(tmp_path / "a.csv", rows))
    assert splits_of(result)[first] == ""
    assert result.split.endswith("; left out: 1 clips that it does not name")


def test_a_signer_in_two_splits_is_refused_unless_asked_for(
    tiny: Dataset, mixed: dict[str, str], tmp_path: Path
) -> None:
    path = csv_of(tmp_path / "a.csv", mixed)
    with pytest.raises(DataError, match=r"a leak: signer .* --from \S+a\.csv --by clip --force$"):
        split_from_file(tiny, path)
    result = split_from_file(tiny, path, by="clip")
    assert result.split == "by clip, signers are shared, from a.csv: test 34 %"


def test_unknown_signers_may_be_shared(tiny: Dataset, by_signer: dict[str, str], tmp_path: Path) -> None:
    dataset = tiny.with_clips([replace(clip, signer="unknown") for clip in tiny.clips], "")
    path = csv_of(tmp_path / "a.csv", by_signer)
    with pytest.raises(DataError, match="unknown signer") as caught:
        split_from_file(dataset, path)
    assert caught.value.fix == f"spoter-kit data split {tiny.folder} --from {path} --by clip"
    assert splits_of(split_from_file(dataset, path, by="clip")) == by_signer


def test_a_recording_in_two_splits_is_refused(tiny: Dataset, mixed: dict[str, str], tmp_path: Path) -> None:
    dataset = tiny.with_clips([replace(clip, source="one.mp4") for clip in tiny.clips], "")
    path = csv_of(tmp_path / "a.csv", mixed)
    with pytest.raises(DataError, match=r"a leak: .* are of one recording"):
        split_from_file(dataset, path, by="recording")
    assert splits_of(split_from_file(dataset, path, by="clip")) == mixed


def test_a_label_that_train_never_has_is_refused(
    tiny: Dataset, by_signer: dict[str, str], tmp_path: Path
) -> None:
    label = tiny.clips[0].label
    rows = {clip.id: by_signer[clip.id] for clip in tiny.clips if clip.label != label}
    rows |= {clip.id: "test" for clip in tiny.clips if clip.label == label and by_signer[clip.id] == "test"}
    path = csv_of(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match=f"train never has these labels .*{label}"):
        split_from_file(tiny, path)
    result = split_from_file(tiny, path, drop_unseen=True)
    assert label not in {clip.label for clip in result.clips if clip.split}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,fold\na,1\n", "no column split, the columns are id, fold"),
        ("", "no column id or split, the columns are none"),
        ("id,split\n", "names no clip"),
        ("id,split\na,trian\n", "line 2: split 'trian'; did you mean 'train'"),
        ("id,split\na\n", "names .* clips, the first 'a', and none is in"),
        ("id,split\na,test\na,train\n", "line 3: 'a' is in test and in train"),
        ("id,split\nno such clip,test\n", "names 1 clips, the first 'no such clip', and none is in"),
    ],
)
def test_a_file_that_is_no_split_says_so(tiny: Dataset, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        split_from_file(tiny, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "expected {id: split}, got a list"), ("{", "is no JSON"), ('{"a": {"fold": 1}}', "split None")],
)
def test_json_that_is_no_split_says_so(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_split_file(path)


def test_an_id_that_fits_several_clips_is_refused(tiny: Dataset, tmp_path: Path) -> None:
    clips = [replace(clip, id=f"{i}/same") for i, clip in enumerate(tiny.clips)]
    with pytest.raises(DataError, match=r"'same' fits \d+ clips"):
        split_from_file(tiny.with_clips(clips, ""), csv_of(tmp_path / "a.csv", {"same": "test"}))


def test_no_such_file(tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file, expected a split of clips"):
        split_from_file(tiny, tmp_path / "none.csv")


def test_all_clips_may_be_for_train(tiny: Dataset, tmp_path: Path) -> None:
    named = {clip.id: "train" for clip in tiny.clips}
    result = split_from_file(tiny, csv_of(tmp_path / "all.csv", named))
    assert (len(result.clips_in("train")), result.split) == (
        len(tiny.clips),
        "without a test: all clips are for train, from all.csv",
    )
