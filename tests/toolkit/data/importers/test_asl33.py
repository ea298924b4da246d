"""The asl33 layout, and the choice of clips that all importers share."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.errors import ConfigError, DataError
from spoter_runtime.landmarks import LANDMARK_NAMES
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.data.importers.common import ImportSettings
from spoter_toolkit.data.importers.formats import import_dataset

SHARED = Path(__file__).parents[4].parent / "shared" / "data" / "asl33"

# word, signer, number within the word
CLIPS = [
    *(("hello", "A", n) for n in (0, 1, 29, 30)),
    ("hello", "B", 60),
    ("tea", "A", 0),
    ("tea", "B", 1),
    ("milk", "A", 0),
    ("none", "A", 0),
]


def arrays(frames=4):
    rng = np.random.default_rng(3)
    words = sorted({word for word, _, _ in CLIPS})
    total = frames * len(CLIPS)
    return {
        "pose": rng.uniform(0.1, 0.9, (total, 33, 3)).astype(np.float32),
        "lh": rng.uniform(0.1, 0.9, (total, 21, 2)).astype(np.float32),
        "rh": rng.uniform(0.1, 0.9, (total, 21, 2)).astype(np.float32),
        "offset": np.arange(0, total + 1, frames),
        "label": np.array([words.index(word) for word, _, _ in CLIPS], np.int32),
        "label_names": np.array(words),
        "signer": np.array([signer for _, signer, _ in CLIPS]),
        "name": np.array([f"{word}/{number}" for word, _, number in CLIPS]),
    }


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    np.savez(tmp_path / "source" / "data.npz", **arrays())
    (tmp_path / "source" / "LICENSE").write_text("\nMIT License\n\nCopyright\n")
    return tmp_path / "source"


def taken(source: Path, **settings) -> list[str]:
    dataset = import_dataset("asl33", source, source.parent / "out", ImportSettings(**settings), force=True)
    return sorted(f"{clip.id}:{clip.signer}" for clip in dataset.clips)


def test_landmarks_come_from_the_right_points(source, tmp_path):
    given = arrays()
    dataset = import_dataset("asl33", source, tmp_path / "out")
    clip = next(clip for clip in dataset.clips if clip.id == "hello/1")
    poses, frames = dataset.poses_of(clip), slice(4, 8)
    at = {name: poses[:, i] for i, name in enumerate(LANDMARK_NAMES)}
    np.testing.assert_array_equal(at["nose"], given["pose"][frames, 0, :2])
    np.testing.assert_array_equal(at["right_eye"], given["pose"][frames, 5, :2])
    np.testing.assert_array_equal(at["left_wrist"], given["pose"][frames, 15, :2])
    np.testing.assert_allclose(at["neck"], given["pose"][frames, 11:13, :2].mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(at["left_hand_thumb_tip"], given["lh"][frames, 4])
    np.testing.assert_array_equal(at["right_hand_little_tip"], given["rh"][frames, 20])


def test_zeros_become_missing(source, tmp_path):
    given = arrays()
    given["lh"][4:8] = 0
    given["pose"][5, 11] = 0
    np.savez(source / "data.npz", **given)
    poses = import_dataset("asl33", source, tmp_path / "out").poses_FLD
    assert np.isnan(poses[4:8, 12:33]).all()
    assert np.isnan(poses[5, LANDMARK_NAMES.index("neck")]).all()
    assert np.isnan(poses).sum() == 2 * (4 * 21 + 2)  # the left hands, one left shoulder and its neck


def test_a_clip_tells_its_recording_batch(source, tmp_path):
    clips = {clip.id: clip for clip in import_dataset("asl33", source, tmp_path / "out").clips}
    assert clips["hello/0"].source == clips["hello/29"].source
    assert clips["hello/0"].source != clips["hello/30"].source
    assert clips["hello/0"].source != clips["tea/0"].source


def test_the_origin_is_recorded(source, tmp_path):
    origin = import_dataset("asl33", source, tmp_path / "out", ImportSettings(labels=("tea",))).origin
    assert (origin.kind, origin.source, origin.licence) == ("asl33", "source", "MIT License")
    assert origin.skipped == {"of labels not asked for": 7}
    assert origin.notes == {"frame rate not in the source, taken as 30": 2}
    assert not origin.synthetic


def test_a_given_frame_rate_is_used_and_not_noted(source, tmp_path):
    dataset = import_dataset("asl33", source, tmp_path / "out", ImportSettings(fps=12.5))
    assert {clip.fps for clip in dataset.clips} == {12.5}
    assert dataset.origin.notes == {}


def test_the_npz_itself_may_be_named(source, tmp_path):
    assert len(import_dataset("asl33", source / "data.npz", tmp_path / "out").clips) == len(CLIPS)


def test_labels_and_signers_are_chosen(source):
    assert taken(source, labels=("tea", "milk")) == ["milk/0:A", "tea/0:A", "tea/1:B"]
    assert taken(source, signers=("B",)) == ["hello/60:B", "tea/1:B"]
    assert "none/0:A" not in taken(source, without=("none",))
    assert taken(source, labels=("tea",), signers=("A",)) == ["tea/0:A"]


def test_shared_labels_are_those_of_every_chosen_signer(source):
    assert {name.split("/")[0] for name in taken(source, shared_labels=True)} == {"hello", "tea"}
    assert {name.split("/")[0] for name in taken(source, shared_labels=True, signers=("A",))} == {
        "hello",
        "milk",
        "none",
        "tea",
    }
    assert taken(source, shared_labels=True, without=("hello",)) == ["tea/0:A", "tea/1:B"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ("helo",)}, "no label 'helo' there; did you mean hello"),
        ({"without": ("nothing",)}, "no label 'nothing' there"),
        ({"signers": ("C",)}, "no signer 'C' there; there are A, B"),
        ({"labels": ("milk",), "signers": ("B",)}, "none of its 9 clips is of the labels and signers asked"),
    ],
)
def test_a_choice_that_takes_nothing_is_refused(source, tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        import_dataset("asl33", source, tmp_path / "out", ImportSettings(**settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"fps": fps}, rf"fps must be 0\.1\.\.1000 frames a second, got {fps}\. Fix: --fps 30")
            for fps in (0.0, 0.09, 1001.0, 1e-300, float("nan"), float("inf"))
        ),
        ({"labels": ("a", "b"), "without": ("b",)}, "both asked for and left out: b"),
        ({"signer": ""}, "signer's name is empty"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ImportSettings(**settings)


def test_empty_clips_are_refused_or_counted(source, tmp_path):
    given = arrays()
    for part in ("pose", "lh", "rh"):
        given[part][-4:] = 0
    np.savez(source / "data.npz", **given)
    with pytest.raises(DataError, match=r"1 of 9 clips cannot be used(?s:.*)clip 'none/0': no landmark"):
        import_dataset("asl33", source, tmp_path / "out")
    dataset = import_dataset("asl33", source, tmp_path / "out", ImportSettings(skip_bad=True))
    assert dataset.origin.skipped == {"that cannot be used": 1}
    assert "none" not in dataset.label_index()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "pose",
            np.ones((36, 17, 3), np.float32),
            r"pose is float32 \(36, 17, 3\), expected floats \(36, 33, 3\)",
        ),
        (
            "lh",
            np.ones((35, 21, 2), np.float32),
            r"lh is float32 \(35, 21, 2\), expected floats \(36, 21, 2\)",
        ),
        ("label", np.ones(9), r"label is float64 \(9,\), expected integers"),
        ("label", np.full(9, 4), r"label has values outside 0\.\.3"),
        ("offset", np.arange(0, 32, 4), r"offset is int64 \(8,\), expected integers \(10,\)"),
        ("offset", np.arange(0, 40, 4)[::-1], "offset must rise from 0 to the 36 frames"),
        ("signer", np.arange(9), r"signer is int64 \(9,\), expected text"),
        ("pose", np.float32(1), r"pose is float32 \(\), expected floats"),
    ],
)
def test_arrays_that_do_not_fit_are_named(source, tmp_path, name, value, message):
    np.savez(source / "data.npz", **arrays() | {name: value})
    with pytest.raises(DataError, match=message):
        import_dataset("asl33", source, tmp_path / "out")


def test_foreign_and_damaged_files_are_refused(source, tmp_path):
    path = source / "data.npz"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"not a zip at all"):
        path.write_bytes(content)
        with pytest.raises(
            DataError, match=r"data\.npz: not the asl33 layout, or damaged: is no archive of arrays"
        ):
            import_dataset("asl33", source, tmp_path / "out")
    path.write_bytes(whole[:3000] + bytes(b ^ 255 for b in whole[3000:3100]) + whole[3100:])
    with pytest.raises(
        DataError, match=r"data\.npz: not the asl33 layout, or damaged: .*(CRC|decompressing)"
    ):
        import_dataset("asl33", source, tmp_path / "out")
    np.savez(path, pose=np.zeros(3))
    with pytest.raises(DataError, match="not the asl33 layout, or damaged: no array lh, rh, offset"):
        import_dataset("asl33", source, tmp_path / "out")
    np.savez(path, **arrays() | {"name": np.array([{}] * 9, dtype=object)})
    with pytest.raises(DataError, match="holds object, expected numbers"):
        import_dataset("asl33", source, tmp_path / "out")
    np.savez(path, **arrays() | {"offset": np.array([0, 9, 3], np.uint64), "label": np.zeros(2, int)})
    with pytest.raises(DataError, match=r"offset|signer is"):
        import_dataset("asl33", source, tmp_path / "out")
    np.savez_compressed(path, **arrays() | {"pose": np.zeros((200_000, 33, 3))})
    with pytest.raises(DataError, match="bytes when unpacked, expected at most 67108864"):
        import_dataset("asl33", source, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected a folder with a data\.npz, found none\. Fix: spo"):
        import_dataset("asl33", tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_progress_reaches_the_end(source, tmp_path):
    seen = []
    import_dataset(
        "asl33", source, tmp_path / "out", on_progress=lambda done, total, what: seen.append((done, total))
    )
    assert seen == [(n, 9) for n in range(1, 10)]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real asl33 landmarks are not beside the checkout")
def test_the_words_that_two_real_signers_share(tmp_path):
    settings = ImportSettings(signers=("A", "B"), without=("none",), shared_labels=True)
    import_dataset("asl33", SHARED, tmp_path / "out", settings)
    dataset = read_dataset(tmp_path / "out")
    assert (len(dataset.clips), len(dataset.labels)) == (3133, 14)
    assert Counter(clip.signer for clip in dataset.clips) == {"A": 1830, "B": 1303}
    with (SHARED / "index.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    batches = {(rows[clip.id]["label"], rows[clip.id]["block"]) for clip in dataset.clips}
    assert len({clip.source for clip in dataset.clips}) == len(batches)
    assert len({(clip.source, rows[clip.id]["block"]) for clip in dataset.clips}) == len(batches)


def test_a_pipe_is_refused_at_once(source, tmp_path, put_a_pipe):
    put_a_pipe(source / "data.npz")
    with pytest.raises(DataError, match=r"data\.npz: not the asl33 layout, or damaged: .*pipe"):
        import_dataset("asl33", source, tmp_path / "out")
