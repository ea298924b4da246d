"""Folders of .npy files."""

from __future__ import annotations

import numpy as np
import pytest

from spoter_runtime.errors import DataError
from spoter_toolkit.data.dataset import skipped_clips
from spoter_toolkit.data.importers.common import ImportSettings
from spoter_toolkit.data.importers.formats import import_dataset


def poses(frames=5, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 0.9, (frames, 54, 2)).astype(np.float32)


def save(root, name, array):
    path = root / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


@pytest.fixture
def root(tmp_path):
    save(tmp_path / "in", "tea/ann/2", poses(3, 1))
    save(tmp_path / "in", "tea/ann/10", poses(4, 2).reshape(4, 108))
    save(tmp_path / "in", "milk/x", poses(5, 3).astype(np.float64))
    return tmp_path / "in"


def test_label_and_signer_are_the_folders(root, tmp_path):
    dataset = import_dataset("npy", root, tmp_path / "out")
    assert [(c.id, c.label, c.signer, c.frames) for c in dataset.clips] == [
        ("milk/x", "milk", "unknown", 5),
        ("tea/ann/2", "tea", "ann", 3),
        ("tea/ann/10", "tea", "ann", 4),
    ]
    for clip, (frames, seed) in zip(dataset.clips, ((5, 3), (3, 1), (4, 2)), strict=True):
        np.testing.assert_array_equal(dataset.poses_of(clip), poses(frames, seed))


def test_a_signer_may_be_given_where_no_folder_names_one(root, tmp_path):
    dataset = import_dataset("npy", root, tmp_path / "out", ImportSettings(signer="bob"))
    assert [clip.signer for clip in dataset.clips] == ["bob", "ann", "ann"]


def test_an_archive_among_the_clips_is_named(root, tmp_path):
    np.savez(root / "tea/ann/3.npz", poses())
    with pytest.raises(DataError, match=r"1 of 4 clips cannot be used(?s:.*)3\.npz: an archive of several"):
        import_dataset("npy", root, tmp_path / "out")


def test_words_of_bdslw60_bring_their_glosses(tmp_path):
    for word in ("W20", "W3"):
        save(tmp_path / "in", f"{word}/U1/1", poses())
    labels = import_dataset("npy", tmp_path / "in", tmp_path / "out").labels
    assert [(label.name, label.gloss, label.bengali) for label in labels] == [
        ("W3", "Brother", "ভাই"),
        ("W20", "Mother", "মা"),
    ]


def test_files_of_labels_not_asked_for_are_not_read(root, tmp_path):
    (root / "milk" / "broken.npy").write_bytes(b"junk")
    assert len(import_dataset("npy", root, tmp_path / "out", ImportSettings(labels=("tea",))).clips) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a clip"),
        (b"junk", "not a clip"),
        ("truncated", "is damaged or cut off"),
        ("pickle", "holds Python objects"),
    ],
)
def test_a_file_that_is_no_array_is_named(root, tmp_path, content, said):
    path = save(root, "tea/ann/bad", poses() if content == "truncated" else np.array([{}], dtype=object))
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"1 of 4 clips cannot be used(?s:.*)bad\.npy: {said}"):
        import_dataset("npy", root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(import_dataset("npy", root, tmp_path / "out", ImportSettings(skip_bad=True)).clips) == 3


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 54, 3), np.float32), r"bad\.npy: expected 54×2 values a frame, got 54×3"),
        (np.ones((4, 33, 2), np.float32), r"bad\.npy: expected \(frames, 54, 2\)"),
        (np.full((4, 54, 2), np.nan), r"bad\.npy: no landmark is detected"),
        (np.float32(1), r"bad\.npy: expected \(frames, 54, 2\)"),
    ],
)
def test_an_array_that_is_no_clip_is_named_by_its_file(root, tmp_path, array, message):
    save(root, "tea/ann/bad", array)
    with pytest.raises(DataError, match=message):
        import_dataset("npy", root, tmp_path / "out")


def test_another_layout_is_refused_with_the_right_one(root, tmp_path):
    layout = r"<label>/<signer>/<clip>\.npy or <label>/<clip>\.npy"
    with pytest.raises(DataError, match="no such folder; expected a folder of <label>"):
        import_dataset("npy", root / "nowhere" / "tea", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"empty: expected a folder of {layout}, found none"):
        import_dataset("npy", tmp_path / "empty", tmp_path / "out")
    for name in ("stray", "tea/ann/monday/1"):
        path = save(root, name, poses())
        with pytest.raises(DataError, match=rf"{path.name}: expected {layout} in"):
            import_dataset("npy", root, tmp_path / "out")
        made = import_dataset("npy", root, tmp_path / path.stem, ImportSettings(skip_bad=True))
        assert made.origin.skipped == {"that cannot be used": 1}
        assert f"{path.name}: expected " in skipped_clips(made.folder)[0]
        path.unlink()


def test_pipes_are_refused_at_once(root, tmp_path, put_a_pipe):
    put_a_pipe(root / "LICENSE")
    assert import_dataset("npy", root, tmp_path / "out").origin.licence == ""
    put_a_pipe(root / "tea" / "ann" / "2.npy")
    with pytest.raises(DataError, match=r"2\.npy: cannot be read: not a file"):
        import_dataset("npy", root, tmp_path / "out2")
