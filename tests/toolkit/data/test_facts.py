"""What `data show` says and draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError
from spoter_toolkit.data import drawing
from spoter_toolkit.data.dataset import Clip, Dataset, Origin
from spoter_toolkit.data.drawing import draw_clip, draw_lengths
from spoter_toolkit.data.facts import SplitFacts, clip_named, describe, length_histogram

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def dataset() -> Dataset:
    """Three clips of 4, 4 and 12 frames; half of the left hands, one right hand in twenty, are missing."""
    poses = np.random.default_rng(0).uniform(0.1, 0.9, (20, 54, 2)).astype(np.float32)
    poses[:10, 12:33] = np.nan
    poses[0, 33:] = 0
    rows = [
        ("a", "tea", "U2", 0, 4, "train"),
        ("b", "no", "U10", 4, 4, "test"),
        ("c", "tea", "U2", 8, 12, "train"),
    ]
    return Dataset(
        folder=Path("data"),
        poses_FLD=poses,
        clips=tuple(
            Clip(id=i, label=label, signer=signer, start=start, frames=frames, fps=10.0, split=split)
            for i, label, signer, start, frames, split in rows
        ),
        labels=(Label(name="tea"), Label(name="no")),
        coordinates="image",
        origin=Origin(kind="test"),
        split="by signer: test U10; train U2",
        sha256="",
    )


def test_the_facts_are_counted(dataset):
    facts = describe(dataset)
    assert (facts.clips, facts.frames, facts.duration_s) == (3, 20, pytest.approx(2.0))
    assert facts.clips_of_label == {"tea": 2, "no": 1}
    assert list(facts.clips_of_signer.items()) == [("U2", 2), ("U10", 1)]
    assert facts.splits == (
        SplitFacts(name="train", clips=2, frames=16, labels=1, signers=("U2",)),
        SplitFacts(name="test", clips=1, frames=4, labels=1, signers=("U10",)),
    )
    assert facts.length_percentiles[0] == 4
    assert facts.length_percentiles[50] == 4
    assert facts.length_percentiles[100] == 12
    assert facts.missing == {
        "body": 0.0,
        "left hand": pytest.approx(0.5),
        "right hand": pytest.approx(0.05),
    }
    assert facts.frames_without_hands == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("lengths", "first", "last", "bins"),
    [
        ([20, 20], (20, 20, 2), (20, 20, 2), 1),
        ([9, 44, 164], (0, 19, 1), (160, 179, 1), 9),
        ([1, 299], (0, 49, 1), (250, 299, 1), 6),
    ],
)
def test_the_histogram_has_round_bins_and_every_clip(lengths, first, last, bins):
    histogram = length_histogram(np.array(lengths))
    assert (histogram[0], histogram[-1], len(histogram)) == (first, last, bins)
    assert sum(count for _, _, count in histogram) == len(lengths)


@pytest.mark.parametrize("low", [1, 7, 96])
def test_no_histogram_has_more_than_twelve_bins(low):
    for high in range(low, 300):
        histogram = length_histogram(np.array([low, high]))
        assert 1 <= len(histogram) <= 12
        assert histogram[0][0] <= low <= histogram[0][1]
        assert histogram[-1][0] <= high <= histogram[-1][1]


def test_a_clip_is_found_by_its_id_and_the_nearest_is_named(dataset):
    assert clip_named(dataset, "b").frames == 4
    with pytest.raises(DataError, match="data: no clip 'z' there; there are a, b, c"):
        clip_named(dataset, "z")


@pytest.mark.parametrize(
    ("suffix", "frames"), [("png", 1), ("png", 2), ("png", 299), ("svg", 12), ("pdf", 12)]
)
def test_clips_of_any_length_are_drawn(tmp_path, suffix, frames):
    poses = np.random.default_rng(0).uniform(0.1, 0.9, (frames, 54, 2)).astype(np.float32)
    path = tmp_path / f"clip.{suffix}"
    draw_clip(poses, path, title="চা · a label in a script the font lacks")
    starts = {"png": PNG, "svg": b"<?xml", "pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[suffix])
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def figures(monkeypatch):
    saved = []
    monkeypatch.setattr(drawing, "save_picture", lambda figure, path: saved.append(figure))
    return saved


def drawn_points(axes):
    return np.concatenate([line.get_xydata() for line in axes.get_lines()])


def test_y_points_down_and_both_axes_have_one_scale(figures):
    draw_clip(np.random.default_rng(0).uniform(0.1, 0.9, (30, 54, 2)).astype(np.float32), Path("x.png"))
    frames = figures[0].axes
    assert len(frames) == 8 + 1
    for axes in frames:
        low, high = sorted(axes.get_ylim())
        assert axes.get_ylim() == (high, low)
        assert axes.get_aspect() == 1.0
    assert len({axes.get_ylim() for axes in frames}) == 1


def test_missing_landmarks_are_not_drawn(figures):
    poses = np.random.default_rng(0).uniform(0.4, 0.6, (8, 54, 2)).astype(np.float32)
    poses[:, 33:] = 0
    poses[3] = np.nan
    draw_clip(poses, Path("x.png"))
    for axes in figures[0].axes:
        points = drawn_points(axes)
        seen = points[~np.isnan(points).any(axis=1)]
        assert ((seen > 0.3) & (seen < 0.7)).all()
        assert min(axes.get_xlim()) > 0.3
    empty = figures[0].axes[3]
    assert np.isnan(drawn_points(empty)).all()
    assert [text.get_text() for text in empty.texts] == ["nothing\ndetected"]


def test_the_ways_of_the_wrists_run_through_their_places(figures):
    poses = np.full((6, 54, 2), np.nan, np.float32)
    poses[:, [6, 7]] = [[0.4, 0.4], [0.6, 0.4]]
    poses[:, 10] = [[0.1 * t, 0.5] for t in range(1, 7)]
    poses[2, 10] = np.nan
    draw_clip(poses, Path("x.png"))
    ways = figures[0].axes[-1]
    lines = {line.get_label(): line.get_xydata() for line in ways.get_lines()}
    np.testing.assert_array_equal(lines["right wrist"], poses[:, 10])
    assert np.isnan(lines["left wrist"]).all()


def test_a_clip_without_landmarks_is_refused(tmp_path):
    with pytest.raises(DataError, match="no landmark is detected in any frame of this clip"):
        draw_clip(np.zeros((5, 54, 2), np.float32), tmp_path / "x.png")


def test_lengths_are_stacked_by_split(figures, dataset):
    draw_lengths(dataset, Path("x.png"))
    axes = figures[0].axes[0]
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert {name: sum(counts) for name, counts in heights.items()} == {"train": 2, "test": 1}


def test_lengths_are_drawn(tmp_path, dataset):
    draw_lengths(dataset, tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").read_bytes().startswith(PNG)


def test_a_picture_with_another_suffix_is_refused(tmp_path, dataset):
    for draw in (lambda p: draw_lengths(dataset, p), lambda p: draw_clip(dataset.poses_FLD, p)):
        with pytest.raises(DataError, match=r"clip\.jpeg: a picture's name ends in \.png, \.pdf, \.svg"):
            draw(tmp_path / "clip.jpeg")
    assert list(tmp_path.iterdir()) == []
