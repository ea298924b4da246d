"""The DATASET folder: what is written is read back, and nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError
from spoter_runtime.files import sha256_of
from spoter_toolkit.data.dataset import MAX_FRAMES, Dataset, Origin, read_dataset
from spoter_toolkit.data.dataset_writer import NewClip, check_resplit, rewrite_split, write_dataset

LABELS = (Label(name="tea", gloss="Tea", bengali="চা"), Label(name="no"), Label(name="never-signed"))


def poses(frames=5, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 0.9, (frames, 54, 2)).astype(np.float32)


def new_clip(id_="a", label="tea", **changes):
    given = {"signer": "A", "fps": 25.0, "poses_TLD": poses(), "source": f"{id_}.mp4", **changes}
    return NewClip(id=id_, label=label, **given)


def write(folder, clips, **changes) -> Dataset:
    given = {"labels": LABELS, "coordinates": "image", "origin": Origin(kind="test"), **changes}
    return write_dataset(folder, clips, **given)


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    clips = [
        new_clip("a", "no", poses_TLD=poses(3, 1)),
        new_clip("b", "tea", signer="B", poses_TLD=poses(7, 2)),
    ]
    return write(tmp_path / "data", clips, origin=Origin(kind="test", source="here", licence="MIT"))


def rehash(folder: Path) -> None:
    meta = json.loads((folder / "dataset.json").read_text())
    meta["sha256"] = {name: sha256_of(folder / name) for name in ("poses.npy", "clips.csv")}
    (folder / "dataset.json").write_text(json.dumps(meta))


def test_what_is_written_is_read_back(dataset):
    again = read_dataset(dataset.folder)
    assert [(c.id, c.label, c.signer, c.start, c.frames, c.fps, c.source) for c in again.clips] == [
        ("a", "no", "A", 0, 3, 25.0, "a.mp4"),
        ("b", "tea", "B", 3, 7, 25.0, "b.mp4"),
    ]
    np.testing.assert_array_equal(again.poses_of(again.clips[0]), poses(3, 1))
    np.testing.assert_array_equal(again.poses_of(again.clips[1]), poses(7, 2))
    assert again.origin == Origin(kind="test", source="here", licence="MIT")
    assert (again.sha256, again.split, again.coordinates) == (dataset.sha256, "", "image")


def test_poses_are_memory_mapped_and_read_only(dataset):
    assert isinstance(dataset.poses_FLD, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        dataset.poses_of(dataset.clips[0])[0] = 0


def test_labels_keep_their_order_and_lose_those_without_clips(dataset):
    assert dataset.labels == LABELS[:2]
    assert dataset.label_index() == {"tea": 0, "no": 1}


def test_zero_and_nan_are_stored_as_the_same_missing(tmp_path):
    zeros, nans, half = poses(), poses(), poses()
    zeros[2, 5], nans[2, 5], half[2, 5] = 0, np.nan, (np.nan, 0.5)
    written = write(
        tmp_path / "d", [new_clip(str(i), poses_TLD=p) for i, p in enumerate((zeros, nans, half))]
    )
    stored = [written.poses_of(clip).tobytes() for clip in written.clips]
    assert stored[0] == stored[1] == stored[2]
    assert np.isnan(written.poses_FLD[2, 5]).all()
    assert np.isnan(written.poses_FLD).sum() == 3 * 2


def test_flat_clips_of_108_values_are_taken(tmp_path):
    written = write(tmp_path / "d", [new_clip(poses_TLD=poses().reshape(5, 108))])
    np.testing.assert_array_equal(written.poses_FLD, poses())


infinite = poses()
infinite[1, 2, 0] = np.inf


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((0, 54, 2), np.float32), r"clip 'bad': 0 frames, the model takes 1\.\.299"),
        (poses(300), r"clip 'bad': 300 frames, the models take 1\.\.299\n +Fix: --long resample"),
        (np.ones((4, 54, 3), np.float32), r"clip 'bad': expected 54×2 values a frame, got 54×3"),
        (infinite, r"clip 'bad': value inf at index \(1, 2, 0\)"),
        (np.full((4, 54, 2), np.nan, np.float32), r"clip 'bad': no landmark is detected in any of its 4"),
        (np.zeros((4, 54, 2), np.float32), r"clip 'bad': no landmark is detected"),
        (np.ones((4, 54, 2), int), r"clip 'bad': expected floating-point landmarks"),
        (np.array(1.0), r"clip 'bad': expected \(frames, 54, 2\)"),
    ],
)
def test_a_clip_the_models_cannot_take_is_refused_and_nothing_written(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "d", [new_clip("good"), new_clip("bad", poses_TLD=bad)])
    assert list(tmp_path.iterdir()) == []


def test_bad_clips_are_counted_and_the_first_five_named(tmp_path):
    clips = [new_clip(str(i), where=f"file {i}", poses_TLD=poses(0)) for i in range(7)]
    with pytest.raises(
        DataError, match=r"(?s)7 of 8 clips .*file 4: .*and 2 more\nFix: .*--skip-bad"
    ) as caught:
        write(tmp_path / "d", [*clips, new_clip("good")])
    assert "file 5" not in str(caught.value)


def test_skip_bad_leaves_bad_clips_out_counts_and_names_them(tmp_path):
    clips = [new_clip("short", poses_TLD=poses(0)), DataError("no file"), new_clip("good")]
    written = write(tmp_path / "d", clips, skip_bad=True, origin=Origin(kind="x", skipped={"of others": 3}))
    named = (tmp_path / "d" / "skipped.txt").read_text().splitlines()
    assert len(named) == 2
    assert named[1] == "no file"
    assert named[0].startswith("clip 'short': ")
    rewrite_split(written)
    assert (tmp_path / "d" / "skipped.txt").read_text().splitlines() == named
    assert [clip.id for clip in written.clips] == ["good"]
    assert written.origin.skipped == {"of others": 3, "that cannot be used": 2}


def test_a_source_without_any_usable_clip_is_refused_even_with_skip_bad(tmp_path):
    with pytest.raises(DataError, match="no clip can be used: the first reason"):
        write(tmp_path / "d", [DataError("the first reason")], skip_bad=True)
    assert list(tmp_path.iterdir()) == []


def test_resampling_long_clips_keeps_their_duration(tmp_path):
    long = poses(600)
    clips = [new_clip("long", poses_TLD=long), new_clip("most", poses_TLD=poses(MAX_FRAMES))]
    written = write(tmp_path / "d", clips, long="resample")
    first, second = written.clips
    assert first.frames == MAX_FRAMES
    assert first.frames / first.fps == pytest.approx(600 / 25)
    assert (second.frames, second.fps) == (MAX_FRAMES, 25.0)
    assert all((long == frame).all(axis=(1, 2)).any() for frame in written.poses_of(first))
    assert written.origin.notes == {"resampled to 299 frames": 1}


def test_cutting_long_clips_keeps_their_beginning(tmp_path):
    written = write(tmp_path / "d", [new_clip(poses_TLD=poses(600))], long="cut")
    np.testing.assert_array_equal(written.poses_FLD, poses(600)[:MAX_FRAMES])
    assert written.clips[0].fps == 25.0
    assert written.origin.notes == {"cut after 299 frames": 1}


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([new_clip("a"), new_clip("a")], "the id 'a' is there twice"),
        ([new_clip("a", "coffee")], "unknown label 'coffee'"),
        *(
            (
                [new_clip("a", fps=fps)],
                rf"{fps} frames a second, expected 0\.1\.\.1000\. Fix: fps=30\.0",
            )
            for fps in (0.0, -25.0, 0.09, 1000.1, float("nan"), float("inf"))
        ),
        ([], "nothing to write"),
    ],
)
def test_rows_that_make_no_dataset_are_refused(tmp_path, clips, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "d", clips)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dataset.json", r"dataset\.json: cannot be read as JSON: .*not a file"),
        (
            "clips.csv",
            r"clips\.csv: not a file, although dataset\.json lists it\. Fix: import the data again",
        ),
        (
            "poses.npy",
            r"poses\.npy: not a file, although dataset\.json lists it\. Fix: import the data again",
        ),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(dataset, put_a_pipe, name, message):
    put_a_pipe(dataset.folder / name)
    with pytest.raises(DataError, match=message):
        read_dataset(dataset.folder)


def test_an_existing_dataset_is_replaced_only_with_force(dataset):
    with pytest.raises(DataError, match=r"data: exists already\. Fix: .*--force"):
        write(dataset.folder, [new_clip("c")])
    assert read_dataset(dataset.folder).sha256 == dataset.sha256
    write(dataset.folder, [new_clip("c")], force=True)
    assert [clip.id for clip in read_dataset(dataset.folder).clips] == ["c"]
    assert list(dataset.folder.parent.iterdir()) == [dataset.folder]


def test_force_replaces_a_dataset_and_nothing_else(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(DataError, match="exists already and is no dataset"):
        write(tmp_path / "photos", [new_clip()], force=True)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


def test_a_failed_replacement_leaves_the_old_dataset(dataset):
    with pytest.raises(DataError, match="0 frames"):
        write(dataset.folder, [new_clip("c", poses_TLD=poses(0))], force=True)
    assert read_dataset(dataset.folder).sha256 == dataset.sha256


def test_a_full_disk_is_an_oserror_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource", reason="file-size limits are Unix's")
    del resource
    code = f"""
import resource, signal, sys
import numpy as np
from spoter_runtime.contract import Label
from spoter_toolkit.data.dataset import Origin
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
clip = NewClip(id="a", label="x", signer="s", fps=30.0, poses_TLD=np.ones((99, 54, 2), np.float32))
try:
    write_dataset({str(tmp_path / "d")!r}, [clip], labels=[Label(name="x")], coordinates="image",
                  origin=Origin(kind="test"))
except OSError as error:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_made_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write(tmp_path / "file" / "d", [new_clip()])


@pytest.mark.parametrize("name", ["poses.npy", "clips.csv"])
def test_one_changed_byte_is_seen(dataset, name):
    path = dataset.folder / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}: sha256 is [0-9a-f]{{12}}…, dataset\.json says"):
        read_dataset(dataset.folder)


@pytest.mark.parametrize("name", ["poses.npy", "clips.csv"])
def test_a_missing_file_is_named(dataset, name):
    (dataset.folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: missing"):
        read_dataset(dataset.folder)


@pytest.mark.parametrize("size", [0, 60, 500])
def test_truncated_poses_are_refused_even_without_hashes(dataset, size):
    path = dataset.folder / "poses.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"poses\.npy: not a readable array"):
        read_dataset(dataset.folder, check_hashes=False)


def test_poses_of_another_shape_are_refused(dataset):
    np.save(dataset.folder / "poses.npy", np.zeros((10, 54, 3), np.float32))
    with pytest.raises(DataError, match=r"expected \(frames, 54, 2\) float32, got \(10, 54, 3\)"):
        read_dataset(dataset.folder, check_hashes=False)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("a,no,A,0,3", "a,no,A,0,30", r"line 2: clip 'a' is frames 0\.\.30, poses\.npy has 10"),
        ("a,no,A,0,3", "a,no,A,0,zero", "line 2: invalid literal"),
        ("a,no,A,0,3", f"a,no,A,{'9' * 4300},{'9' * 4300}", "line 2: .* a number of 4300 digits"),
        ("a,no,A", "a,yes,A", r"line 2: label 'yes' is not in dataset\.json"),
        *(
            (
                ",25.0,",
                f",{fps},",
                f"line 2: clip 'a' has {fps} frames a second, expected .* Fix: import the data",
            )
            for fps in ("nan", "inf", "0", "-25", "1e-300", "0.09", "1000.1", "20000")
        ),
        ("b,tea,B,3,7,25.0,,", "b,tea,B,3,7,25.0,dev,", "line 3: split 'dev'"),
        ("id,label", "name,label", "expected the columns id, label, signer"),
    ],
)
def test_rows_that_do_not_fit_are_named_by_line(dataset, before, after, message):
    path = dataset.folder / "clips.csv"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    rehash(dataset.folder)
    with pytest.raises(DataError, match=message):
        read_dataset(dataset.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, r"schema version 2, this spoter-kit reads 1\. Fix: "),
        ({"labels": [{"name": "tea", "smell": "good"}]}, r"labels\[0\]\.smell is unknown, expected name"),
        ({"labels": [{"name": 5}]}, r"labels\[0\]\.name: 5, expected a text"),
        ({"labels": 10**30}, "a number of 31 digits"),
        ({"origin": {"author": "me"}}, "origin.author is unknown, expected kind"),
        ({"coordinates": ["image"]}, r'coordinates: \["image"\], expected one of image, normalised'),
        ({"colour": 1}, "colour is unknown"),
        ({"sha256": {"poses.npy": 1}}, r"sha256\.poses\.npy: 1, expected a text"),
        ({"sha256": {}}, r"sha256 must name the hashes of poses\.npy and clips\.csv"),
    ],
)
def test_a_foreign_description_is_refused(dataset, change, message):
    path = dataset.folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        read_dataset(dataset.folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("[1, 2]", "not the description of a spoter-kit dataset"),
        ('{"schema_version": 1}', "labels is missing"),
    ],
)
def test_json_of_something_else_is_refused(dataset, text, message):
    (dataset.folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_dataset(dataset.folder)


def test_a_folder_that_is_no_dataset_says_what_makes_one(tmp_path):
    with pytest.raises(DataError, match="not a dataset: it has no"):
        read_dataset(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_dataset(tmp_path / "nowhere")


def test_rewriting_a_split_changes_only_the_rows(dataset):
    before = (dataset.folder / "poses.npy").read_bytes()
    a, b = dataset.clips
    clips = [
        type(a)(**{f: getattr(c, f) for f in a.__slots__} | {"split": s})
        for c, s in ((a, "train"), (b, "test"))
    ]
    rewrite_split(dataset.with_clips(clips, "by hand"))
    again = read_dataset(dataset.folder)
    assert (again.split, [clip.id for clip in again.clips_in("test")]) == ("by hand", ["b"])
    assert again.clips_in("val") == ()
    assert (dataset.folder / "poses.npy").read_bytes() == before
    assert again.origin == dataset.origin
    assert again.sha256 != dataset.sha256


def test_a_split_is_replaced_only_with_force(dataset):
    check_resplit(dataset, force=False)
    split = dataset.with_clips(dataset.clips, "by signer: test B; train A")
    with pytest.raises(DataError, match=r"is split already \(by signer: test B; train A\)\. Fix: .*--force"):
        check_resplit(split, force=False)
    check_resplit(split, force=True)
