from __future__ import annotations

import json
import math

import pytest

from spoter_runtime.errors import DataError
from spoter_toolkit.data.extract.videos import find_videos


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_folder_of_labels_and_signers(tmp_path):
    source = touch(
        tmp_path, "tea/ann/1.mp4", "tea/ann/1.gif", "tea/bob/2.MOV", "milk/3.webm", "tea/notes.txt"
    )
    found = find_videos(source, signer="cid")
    assert found.kind == "videos"
    assert [(part.id, part.label, part.signer) for part in found.parts] == [
        ("milk/3", "milk", "cid"),
        ("tea/ann/1.gif", "tea", "ann"),
        ("tea/ann/1.mp4", "tea", "ann"),
        ("tea/bob/2", "tea", "bob"),
    ]
    assert all((part.start, part.end) == (0, math.inf) for part in found.parts)


def test_a_table_names_parts_of_videos(tmp_path):
    touch(tmp_path, "long.mp4", "short.mp4")
    rows = ["long.mp4,tea,ann,1.5,3", "long.mp4,milk,ann,3,", "short.mp4,tea,,,", "none.mp4,tea,ann,,"]
    rows += ["short.mp4,,ann,,", "long.mp4,tea,ann,3,2", "long.mp4,tea,ann,x,2", "long.mp4,tea,ann,1.5,2"]
    table = tmp_path / "clips.csv"
    table.write_text("\ufefffile,label,signer,start,end\n" + "\n".join(rows))
    found = find_videos(table)
    assert [(part.id, part.label, part.signer, part.start, part.end) for part in found.parts] == [
        ("long.mp4@1.5", "tea", "ann", 1.5, 3),
        ("long.mp4@3", "milk", "ann", 3, math.inf),
        ("short.mp4", "tea", "unknown", 0, math.inf),
    ]
    said = [error.message for error in found.bad]
    assert [text.partition(": ")[0].rpartition(", ")[2] for text in said] == [
        f"line {n}" for n in range(5, 10)
    ]
    for text, expected in zip(
        said,
        [
            "'none.mp4': no such file in ",
            "is empty",
            "the start before the end",
            "expected seconds",
            "there twice",
        ],
        strict=True,
    ):
        assert expected in text


def test_trials_of_bdslw60(tmp_path):
    found = find_videos(touch(tmp_path, "a/U13W2F_trial_9_L.mp4", "b/U4W1F_trial_10_R.mp4", "U13W2F.mp4"))
    assert found.kind == "bdslw60"
    assert [(part.id, part.label, part.signer, part.source) for part in found.parts] == [
        ("U13W2F_trial_9_L", "W2", "U13", "U13W2F"),
        ("U4W1F_trial_10_R", "W1", "U4", "U4W1F"),
    ]
    assert ["looks like a whole recording" in str(error) for error in found.bad] == [True]


def test_recordings_of_bdslw60_with_their_trials(tmp_path):
    touch(tmp_path, "W2/U13W2F.mp4")
    trials = {"1": {"starting": 10, "ending": 40}, "2": {"starting": 50, "ending": 49}}
    facts = {"FrameRate": 30, "View": "F", "Session": 1, "trials": trials}
    gone = facts | {"trials": {"1": {"starting": 0, "ending": 9}}}
    table = {"W2": {"U13": {"LeftHand": {"U13W2F.mp4": facts, "U13W2F_2.mp4": gone}}}}
    (tmp_path / "W2" / "output1.json").write_text(json.dumps(table))
    found = find_videos(tmp_path)
    assert found.kind == "bdslw60-recordings"
    (part,) = found.parts
    assert (part.id, part.label, part.signer) == ("U13W2F_trial_1_L", "W2", "U13")
    assert (part.start, part.end, part.unit, part.source) == (10, 41, "frames", "U13W2F")
    assert ["starting 50" in str(found.bad[0]), "has no video" in str(found.bad[1])] == [True, True]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none", None, "none: no such folder; expected a folder with videos as LABEL/SIGNER/VIDEO"),
        ("empty.csv", "", "has no rows"),
        ("wrong.csv", "video,label\na.mp4,tea\n", "without file"),
        ("folder/a.txt", "", "folder: expected a folder with videos as LABEL/SIGNER/.*, found none"),
        ("folder/tea/a.npy", "", r"folder: has \.npy files, expected a folder with videos as LABEL"),
        ("folder/W1/output1.json", "[]", "is no table of BdSLW60's trials"),
    ],
)
def test_a_source_that_cannot_be_used(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        find_videos(tmp_path / "folder" if name.startswith("folder") else path)
