"""A background label is made from the clips of train and val, and from no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from in_process import spoter_kit
from spoter_runtime.errors import ConfigError, DataError
from spoter_runtime.landmarks import LEFT_HAND, RIGHT_HAND, Float32Array
from spoter_toolkit.calibration.background import scrambled, with_background
from spoter_toolkit.data.dataset import Dataset, read_dataset


def clip(seed: int, frames: int) -> Float32Array:
    return np.random.default_rng(seed).uniform(0.2, 0.8, (frames, 54, 2)).astype(np.float32)


def test_the_body_is_of_one_clip_and_the_hands_are_of_others() -> None:
    body, path, shape = clip(0, 12), clip(1, 20), clip(2, 7)
    path[:, RIGHT_HAND] = np.nan
    made = scrambled(body, path, shape, np.random.default_rng(3))
    assert (made.shape, made.dtype) == (body.shape, np.float32)
    np.testing.assert_array_equal(made[:, :12], body[:, :12])
    assert np.isnan(made[:, RIGHT_HAND]).all()  # no path, so no hand
    spread = np.ptp(made[:, LEFT_HAND], axis=(0, 1))
    assert (np.abs(made[:, LEFT_HAND] - body[:, LEFT_HAND]) > 0.01).mean() > 0.8
    assert (spread > 0).all()


def test_train_and_val_get_clips_of_the_label_and_the_test_none(tiny: Dataset, tmp_path: Path) -> None:
    made = with_background(tiny, tmp_path / "more", share=0.5, seed=1)
    assert [label.name for label in made.labels] == [*(label.name for label in tiny.labels), "none"]
    assert made.split == tiny.split
    for split in ("train", "val"):
        signs, added = tiny.clips_in(split), [c for c in made.clips_in(split) if c.label == "none"]
        assert len(added) == (len(signs) // 2 if len(signs) >= 3 else 0)
        assert {c.signer for c in added} <= {c.signer for c in signs}
    assert [c.id for c in made.clips_in("test")] == [c.id for c in tiny.clips_in("test")]
    for one in tiny.clips:
        same = next(c for c in made.clips if c.id == one.id)
        np.testing.assert_array_equal(made.poses_of(same), tiny.poses_of(one))
    again = with_background(tiny, tmp_path / "again", share=0.5, seed=1)
    assert again.sha256 == made.sha256
    assert with_background(tiny, tmp_path / "other", share=0.5, seed=2).sha256 != made.sha256
    assert made.origin.synthetic == tiny.origin.synthetic


def test_what_cannot_be_done_is_refused(tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="share 0: expected more than 0"):
        with_background(tiny, tmp_path / "x", share=0)
    with pytest.raises(DataError, match=f"has the label {tiny.labels[0].name!r} already"):
        with_background(tiny, tmp_path / "x", label=tiny.labels[0].name)
    with pytest.raises(
        DataError, match=r"fewer than 3 clips are in the train split. Fix: spoter-kit data split"
    ):
        with_background(tiny.with_clips(tiny.clips_in("test"), "x"), tmp_path / "x")


def test_the_verb_names_the_new_folder_and_the_next_step(tiny: Dataset, tmp_path: Path) -> None:
    done = spoter_kit(tmp_path, "data", "background", str(tiny.folder), "-o", "more")
    assert done.returncode == 0, done.stderr
    assert "next: spoter-kit train more" in done.stderr
    assert "none" in {label.name for label in read_dataset(tmp_path / "more").labels}
    assert spoter_kit(tmp_path, "data", "background", str(tiny.folder), "--share", "-1").returncode == 2
