"""The notebook's landmark JSON, with BdSLW60's file names and words."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.errors import DataError
from spoter_runtime.landmarks import LANDMARK_NAMES, landmarks_from_mediapipe
from spoter_toolkit.data.bdslw60 import labels_named, trial_from_name, words
from spoter_toolkit.data.importers.common import ImportSettings
from spoter_toolkit.data.importers.formats import import_dataset

SHARED = Path(__file__).parents[4].parent / "shared" / "data" / "bdslw60"


def signing(frames=6, seed=0):
    """Pose (T, 33, 3) and hands (T, 21, 3) of a body whose hands are at its own wrists; some are NaN."""
    rng = np.random.default_rng(seed)
    pose = rng.uniform(0.1, 0.9, (frames, 33, 3))
    pose[:, 15, :2], pose[:, 16, :2] = (0.8, 0.5), (0.2, 0.5)  # left and right wrist
    left = pose[:, 15:16] + rng.uniform(-0.05, 0.05, (frames, 21, 3))
    right = pose[:, 16:17] + rng.uniform(-0.05, 0.05, (frames, 21, 3))
    left[1] = np.nan
    pose[3] = np.nan
    return pose, left, right


def as_lists(part, *, null=None, flat=False):
    return [null if np.isnan(f).any() else (f.ravel() if flat else f).tolist() for f in part]


def content(pose, left, right):
    hands = {"left": as_lists(left), "right": as_lists(right)}
    return {"pose_landmarks": as_lists(pose), "hand_landmarks": hands}


def save(folder, name, value):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "in", "U13W2F_trial_9_L", content(*signing(6, 1)))
    save(tmp_path / "in", "U4W20_3_trial_10_R_landmarks", content(*signing(4, 2)))
    return tmp_path / "in"


def test_name_and_landmarks_are_read(folder, tmp_path):
    dataset = import_dataset("notebook-json", folder, tmp_path / "out")
    assert [(c.id, c.label, c.signer, c.source, c.frames, c.fps) for c in dataset.clips] == [
        ("U4W20_3_trial_10_R", "W20", "U4", "U4W20_3", 4, 30.0),
        ("U13W2F_trial_9_L", "W2", "U13", "U13W2F", 6, 30.0),
    ]
    assert [(label.name, label.gloss, label.romanised) for label in dataset.labels] == [
        ("W2", "Relatives", "Attio"),
        ("W20", "Mother", "Maa"),
    ]
    for clip, given in zip(dataset.clips, (signing(4, 2), signing(6, 1)), strict=True):
        expected = landmarks_from_mediapipe(*given)
        np.testing.assert_array_equal(dataset.poses_of(clip), expected)
    assert dataset.origin.notes == {}


def variants():
    pose, left, right = signing()
    pairs = [
        {"left": one, "right": other} for one, other in zip(as_lists(left), as_lists(right), strict=True)
    ]
    flat_pose = as_lists(pose, null=[0.0] * 99, flat=True)
    flat_hands = {
        f"{side}_hand_landmarks": as_lists(part, null=[0.0] * 63, flat=True)
        for side, part in (("left", left), ("right", right))
    }
    return {
        "a list of pairs": {"pose_landmarks": as_lists(pose), "hand_landmarks": pairs},
        "flat lists, zeros": {"pose_landmarks": flat_pose, **flat_hands},
        "two coordinates": content(pose[..., :2], left[..., :2], right[..., :2]),
    }


@pytest.mark.parametrize("name", list(variants()))
def test_other_ways_to_write_the_same_clip_give_the_same_landmarks(tmp_path, name):
    save(tmp_path / "in", "U1W1_trial_1_R", variants()[name])
    dataset = import_dataset("notebook-json", tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(dataset.poses_FLD, landmarks_from_mediapipe(*signing()))


def test_hands_of_an_unmirrored_picture_are_swapped_back_and_noted(tmp_path):
    pose, left, right = signing()
    save(tmp_path / "in", "U1W1_trial_1_R", content(pose, left=right, right=left))
    save(tmp_path / "in", "U1W1_trial_2_R", content(pose[:2], left=right[:2], right=left[:2]))
    dataset = import_dataset("notebook-json", tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(
        dataset.poses_of(dataset.clips[0]), landmarks_from_mediapipe(pose, left, right)
    )
    assert dataset.origin.notes == {"left and right hand were named the other way round and swapped": 2}


def test_a_hand_may_be_absent_altogether(tmp_path):
    pose, left, _ = signing()
    save(
        tmp_path / "in",
        "U1W1_trial_1_R",
        {"pose_landmarks": as_lists(pose), "hand_landmarks": {"left": as_lists(left)}},
    )
    poses = import_dataset("notebook-json", tmp_path / "in", tmp_path / "out").poses_FLD
    right = [i for i, name in enumerate(LANDMARK_NAMES) if name.startswith("right_hand_")]
    np.testing.assert_array_equal(poses, landmarks_from_mediapipe(pose, left, None))
    assert np.isnan(poses[:, right]).all()


def test_a_frame_rate_in_the_file_is_used(tmp_path):
    save(tmp_path / "in", "U1W1_trial_1_R", content(*signing()) | {"metadata": {"fps": 24}})
    assert import_dataset("notebook-json", tmp_path / "in", tmp_path / "out").clips[0].fps == 24.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hello", r"'hello' is not the name of a BdSLW60 trial: U<signer>W<word>.*as U13W2F_trial_9_L"),
        ("U13W2F_trial_9_X", "is not the name of a BdSLW60 trial"),
        ("U13W2F", "It looks like a whole recording with many repetitions: cut it into trials first"),
        ("U13W13_trial_9_L", "W13 is none of the 60 words of BdSLW60"),
    ],
)
def test_a_name_that_does_not_follow_the_scheme_is_refused_or_left_out(folder, tmp_path, name, message):
    save(folder, name, content(*signing()))
    with pytest.raises(DataError, match=rf"1 of 3 clips(?s:.*){message}"):
        import_dataset("notebook-json", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert (
        len(import_dataset("notebook-json", folder, tmp_path / "out", ImportSettings(skip_bad=True)).clips)
        == 2
    )


good = content(*signing())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "cannot be read as JSON, truncated or foreign"),
        (json.dumps(good)[:500], "cannot be read as JSON, truncated or foreign"),
        ([1, 2], "not a landmark file: expected an object with pose_landmarks"),
        ({"hello": 1}, "not a landmark file"),
        (good | {"pose_landmarks": 3}, "pose landmarks: expected a list of frames, got int"),
        (
            good | {"pose_landmarks": [None, [[1.0, 2.0, 3.0]] * 32]},
            "pose landmarks, frame 1: expected 33×3 numbers or null, got 32×3",
        ),
        (
            good | {"hand_landmarks": {"left": [[["a", 0, 0]] * 21], "right": None}},
            "left landmarks, frame 0: not numbers",
        ),
        (good | {"hand_landmarks": {"left": [None]}}, "different numbers of frames: .*'left hand': 1"),
        (good | {"hand_landmarks": [1, 2]}, 'hand_landmarks: expected {"left": …, "right": …} or null'),
        ({"pose_landmarks": [], "hand_landmarks": []}, "0 frames, the model takes"),
        ({"pose_landmarks": [None] * 9}, "no landmark is detected in any of its 9 frames"),
    ],
)
def test_a_file_that_is_no_clip_is_named_with_the_reason(folder, tmp_path, value, message):
    save(folder, "U1W1_trial_1_R", value)
    with pytest.raises(DataError, match=rf"U1W1_trial_1_R\.json: (?s:.*){message}"):
        import_dataset("notebook-json", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_without_such_files_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected a folder of \.json files, found none"):
        import_dataset("notebook-json", tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        import_dataset("notebook-json", tmp_path / "nowhere", tmp_path / "out")
    save(tmp_path / "empty", "dataset_info", {})
    with pytest.raises(DataError, match="'dataset_info' is not the name of a BdSLW60 trial"):
        import_dataset("notebook-json", tmp_path / "empty", tmp_path / "out", ImportSettings(skip_bad=True))


def test_trial_names_are_taken_apart():
    trial = trial_from_name("U13W2F_trial_9_L")
    assert (trial.signer, trial.word, trial.recording, trial.hand) == ("U13", "W2", "U13W2F", "L")
    assert trial_from_name("U04W001_2_trial_11_R").signer == "U4"
    assert trial_from_name("U04W001_2_trial_11_R").word == "W1"


def test_labels_sort_by_number_and_gloss_only_words_of_bdslw60():
    assert [label.name for label in labels_named(["W10", "W2", "W2"])] == ["W2", "W10"]
    assert labels_named(["W10", "tea"])[0].gloss == ""


def test_there_are_sixty_words_each_complete():
    assert len({label.name for label in words()}) == 60
    for field in ("gloss", "bengali", "romanised"):
        assert all(getattr(label, field) for label in words())


@pytest.mark.skipif(not SHARED.is_dir(), reason="BdSLW60's word table is not beside the checkout")
def test_the_word_table_is_the_authors():
    with (SHARED / "words.csv").open(newline="", encoding="utf-8") as file:
        rows = [(r["word_label"], r["english"], r["bangla"], r["roman"]) for r in csv.DictReader(file)]
    assert [(label.name, label.gloss, label.bengali, label.romanised) for label in words()] == rows


@pytest.mark.skipif(not SHARED.is_dir(), reason="BdSLW60's real landmarks are not beside the checkout")
@pytest.mark.parametrize("recording", ["U2W2F", "U4W1F"])
def test_real_hands_are_told_apart_by_the_body(tmp_path, recording):
    with np.load(SHARED / f"{recording}.npz") as file:
        pose, left, right = (file[name][:200] for name in ("pose", "lh", "rh"))
    expected = landmarks_from_mediapipe(pose, left, right)
    for swapped in (False, True):
        hands = {"left": right, "right": left} if swapped else {"left": left, "right": right}
        save(tmp_path / "in", f"{recording}_trial_1_R", content(pose, **hands))
        dataset = import_dataset("notebook-json", tmp_path / "in", tmp_path / "out", force=True)
        np.testing.assert_array_equal(dataset.poses_FLD, expected)
        assert bool(dataset.origin.notes) is swapped


def test_a_pipe_is_refused_at_once(folder, tmp_path, put_a_pipe):
    put_a_pipe(folder / "U13W2F_trial_9_L.json")
    with pytest.raises(DataError, match=r"U13W2F_trial_9_L\.json: cannot be read as JSON.*not a file"):
        import_dataset("notebook-json", folder, tmp_path / "out")
