"""The original SPOTER's CSV."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from spoter_runtime.errors import DataError
from spoter_runtime.landmarks import BODY_NAMES, HAND_NAMES, LANDMARK_NAMES, LEFT_SHOULDER, RIGHT_SHOULDER
from spoter_toolkit.data.importers.common import ImportSettings
from spoter_toolkit.data.importers.formats import import_dataset

# As the original writes them, in our order.
BODY = (
    *("nose", "neck", "rightEye", "leftEye", "rightEar", "leftEar", "rightShoulder", "leftShoulder"),
    *("rightElbow", "leftElbow", "rightWrist", "leftWrist"),
)
HAND = (
    *("wrist", "thumbCMC", "thumbMP", "thumbIP", "thumbTip"),
    *(
        finger + joint
        for finger in ("index", "middle", "ring", "little")
        for joint in ("MCP", "PIP", "DIP", "Tip")
    ),
)


def person(frames=6, seed=0, dtype=np.float32):
    """Random landmarks of someone upright: the nose above the shoulders, y down."""
    poses = np.random.default_rng(seed).uniform(0.1, 0.9, (frames, 54, 2))
    poses[:, 0, 1] = 0.2
    poses[:, [RIGHT_SHOULDER, LEFT_SHOULDER], 1] = 0.5
    return poses.astype(dtype).round(6)


def table(clips, *, hands=("left", "right"), labels=None, neck=True, **columns):
    """Header and rows; clips are (frames, 54, 2), zeros where not detected."""
    points = [*BODY, *(f"{name}_{hand}" for hand in hands for name in HAND)]
    keep = [i for i, name in enumerate(points) if neck or name != "neck"]
    header = [f"{points[i]}_{axis}" for i in keep for axis in "XY"]
    rows = [[str([float(v) for v in clip[:, i, axis]]) for i in keep for axis in (0, 1)] for clip in clips]
    columns = {"labels": labels or list(range(len(clips))), **columns}
    for name, values in columns.items():
        header.append(name)
        for row, value in zip(rows, values, strict=True):
            row.append(value)
    return [header, *rows]


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_the_names_are_in_our_order():
    assert [name.replace("_", "").lower() for name in BODY_NAMES] == [name.lower() for name in BODY]
    ours = [name.replace("_", "").lower().replace("thumbmcp", "thumbmp") for name in HAND_NAMES]
    assert ours == [name.lower() for name in HAND]


@pytest.mark.parametrize("hands", [("left", "right"), ("Left", "Right"), ("0", "1")])
def test_every_column_reaches_its_landmark(tmp_path, hands):
    clips = [person(6, 1), person(9, 2)]
    path = write_csv(tmp_path / "train.csv", table(clips, hands=hands))
    dataset = import_dataset("spoter-csv", path, tmp_path / "out")
    for clip, given in zip(dataset.clips, clips, strict=True):
        np.testing.assert_array_equal(dataset.poses_of(clip), given)


def test_the_order_of_columns_and_foreign_columns_do_not_matter(tmp_path):
    rows = table([person()], root_X=["[0, 0]"], video_size_width=[640])
    order = np.random.default_rng(0).permutation(len(rows[0]))
    path = write_csv(tmp_path / "t.csv", [[row[i] for i in order] for row in rows])
    np.testing.assert_array_equal(import_dataset("spoter-csv", path, tmp_path / "out").poses_FLD, person())


def test_zero_is_missing(tmp_path):
    clip = person()
    clip[2, 20] = 0
    clip[3, 33:] = 0
    dataset = import_dataset("spoter-csv", write_csv(tmp_path / "t.csv", table([clip])), tmp_path / "out")
    missing = np.isnan(dataset.poses_FLD).all(axis=-1)
    assert missing[2, 20]
    assert missing[3, 33:].all()
    assert missing.sum() == 1 + 21


def test_a_neck_that_is_not_there_is_put_between_the_shoulders(tmp_path):
    clip = person()
    clip[4, LEFT_SHOULDER] = 0
    dataset = import_dataset(
        "spoter-csv", write_csv(tmp_path / "t.csv", table([clip], neck=False)), tmp_path / "out"
    )
    neck = dataset.poses_FLD[:, LANDMARK_NAMES.index("neck")]
    expected = clip[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(axis=1)
    np.testing.assert_allclose(neck[:4], expected[:4], rtol=1e-6)
    assert np.isnan(neck[4]).all()


def test_y_that_points_up_is_turned_and_noted(tmp_path):
    upright = [person(6, 1), person(9, 2)]
    turned = [clip * [1, -1] + [0, 1] for clip in upright]
    turned[0][3, 40] = 0
    dataset = import_dataset("spoter-csv", write_csv(tmp_path / "t.csv", table(turned)), tmp_path / "out")
    assert dataset.origin.notes["y pointed up and was turned"] == 2
    first = dataset.poses_of(dataset.clips[0])
    assert np.isnan(first[3, 40]).all()
    assert np.isnan(first).sum() == 2
    np.testing.assert_allclose(np.nan_to_num(first), np.where(np.isnan(first), 0, upright[0]), atol=1e-6)


def test_pixels_with_y_up_stay_inside_their_picture(tmp_path):
    turned = [(person() * [1, -1] + [0, 1]) * [640, 480]]
    dataset = import_dataset("spoter-csv", write_csv(tmp_path / "t.csv", table(turned)), tmp_path / "out")
    y = dataset.poses_FLD[..., 1]
    assert (y >= 0).all()
    assert (y[:, 0] < y[:, RIGHT_SHOULDER]).all()


def test_labels_stay_as_written_and_sort_by_value(tmp_path):
    path = write_csv(tmp_path / "t.csv", table([person(4, s) for s in range(3)], labels=["10", "2.0", "1"]))
    dataset = import_dataset("spoter-csv", path, tmp_path / "out")
    assert [label.name for label in dataset.labels] == ["1", "2", "10"]
    assert [clip.label for clip in dataset.clips] == ["10", "2", "1"]


def test_signer_and_frame_rate_come_from_columns_where_there_are_any(tmp_path):
    rows = table([person(4, 1), person(4, 2)], signer=["ann", ""], video_fps=["25", ""])
    path = write_csv(tmp_path / "t.csv", rows)
    dataset = import_dataset("spoter-csv", path, tmp_path / "out", ImportSettings(signer="bob"))
    assert [(clip.signer, clip.fps) for clip in dataset.clips] == [("ann", 25.0), ("bob", 30.0)]
    assert dataset.origin.notes == {"frame rate not in the source, taken as 30": 1}
    dataset = import_dataset("spoter-csv", path, tmp_path / "out2", ImportSettings(fps=10.0))
    assert [(clip.signer, clip.fps) for clip in dataset.clips] == [("ann", 10.0), ("unknown", 10.0)]


def test_a_folder_of_files_becomes_one_dataset(tmp_path):
    (tmp_path / "wlasl").mkdir()
    for seed, name in enumerate(("train", "val")):
        write_csv(tmp_path / "wlasl" / f"{name}.csv", table([person(4, seed)]))
    dataset = import_dataset("spoter-csv", tmp_path / "wlasl", tmp_path / "out")
    assert [clip.id for clip in dataset.clips] == ["train/2", "val/2"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "[0.1, 0.2, oops, 0.4]",
            r"row 3, column 'leftEye_Y': expected a list of numbers, got '\[0\.1, 0\.2, oops",
        ),
        ("[0.1, 0.2", "row 3, column 'leftEye_Y': expected a list of numbers, .*: not a list in"),
        ("", "row 3, column 'leftEye_Y': .*not a list in"),
        ("[0.1, 0.2]", r"row 3, column 'leftEye_Y': 2 frames, nose_X has 4"),
        ("[]", r"row 3, column 'leftEye_Y': 0 frames, nose_X has 4"),
        ("[0.1, inf, 0.1, 0.1]", r"row 3: value inf at index \(1, 3, 1\)"),
    ],
)
def test_a_broken_cell_is_named_by_row_and_column(tmp_path, cell, message):
    rows = table([person(4, 1), person(4, 2)])
    rows[2][rows[0].index("leftEye_Y")] = cell
    path = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=message):
        import_dataset("spoter-csv", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    dataset = import_dataset("spoter-csv", path, tmp_path / "out", ImportSettings(skip_bad=True))
    assert dataset.origin.skipped == {"that cannot be used": 1}


def test_a_frame_rate_that_is_no_number_is_named(tmp_path):
    path = write_csv(tmp_path / "t.csv", table([person()], video_fps=["fast"]))
    with pytest.raises(DataError, match="row 2, column 'video_fps': not a number: 'fast'"):
        import_dataset("spoter-csv", path, tmp_path / "out")


def test_foreign_and_truncated_files_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    rows = table([person(), person()])
    whole = write_csv(path, rows).read_bytes()
    cases = {
        b"": "is empty",
        b"a,b\n1,2\n": r"no column labels, nose_X, nose_Y and 10\d more\. Expected",
        b"\x89PNG\r\n\x1a\n\x00\xff": "not a readable CSV file",
        whole[: whole.index(b"\n") + 1]: "no rows under the header",
        whole[: len(whole) - 3000]: r"row 3: \d+ cells, the header has 109; is the file complete\?",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            import_dataset("spoter-csv", path, tmp_path / "out")
    with pytest.raises(DataError, match="no such file or folder"):
        import_dataset("spoter-csv", tmp_path / "nowhere.csv", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected a \.csv file, or a folder of them, found none"):
        import_dataset("spoter-csv", tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_clip_of_300_frames_is_refused_or_resampled(tmp_path):
    path = write_csv(tmp_path / "t.csv", table([person(300)]))
    with pytest.raises(DataError, match="row 2: 300 frames, the models take"):
        import_dataset("spoter-csv", path, tmp_path / "out")
    assert (
        import_dataset("spoter-csv", path, tmp_path / "out", ImportSettings(long="resample")).clips[0].frames
        == 299
    )


def test_a_pipe_is_refused_at_once(tmp_path, put_a_pipe):
    path = put_a_pipe(tmp_path / "t.csv")
    for source in (path, tmp_path):
        with pytest.raises(DataError, match=r"t\.csv: not a file\. Fix: name a \.csv file, or a folder of"):
            import_dataset("spoter-csv", source, tmp_path / "out")
