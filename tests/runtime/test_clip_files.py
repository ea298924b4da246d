"""Clips from .npy files, and files that are none."""

from __future__ import annotations

import io

import numpy as np
import pytest

from spoter_runtime.clip_files import load_clip
from spoter_runtime.errors import InputError


def npy(array, save=np.save):
    buffer = io.BytesIO()
    save(buffer, array)
    return buffer.getvalue()


CLIP = np.full((5, 54, 2), 0.5, np.float32)


def test_an_array_comes_back_as_it_was_saved(tmp_path):
    path = tmp_path / "clip.npy"
    path.write_bytes(npy(CLIP))
    assert np.array_equal(load_clip(path), CLIP)
    assert np.array_equal(load_clip(str(path)), CLIP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable .npy array"),
        (b"word,tea\n", "not a readable .npy array"),
        (npy(CLIP)[:-1], "not a readable .npy array"),
        (npy(CLIP)[:20], "not a readable .npy array"),
        (npy(CLIP).replace(b"(5, 54, 2), }    ", b"(599999999, 54, 2), }"), "not a readable .npy array"),
        (npy(np.array([{"a": 1}])), "not a readable .npy array: Object arrays cannot be loaded"),
        (npy(CLIP, np.savez), "an archive of several arrays. Fix: save one array with numpy.save"),
        (npy(CLIP, np.savez)[:200], "not a readable .npy array"),
    ],
    ids=["empty", "text", "truncated", "half a header", "a shape of terabytes", "pickle", "npz", "half npz"],
)
def test_a_file_that_is_no_array_is_named(tmp_path, content, message):
    path = tmp_path / "clip.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"clip.npy: {message}"):
        load_clip(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none.npy: not a readable .npy array: .*No such file"):
        load_clip(tmp_path / "none.npy")
    with pytest.raises(InputError, match=r"not a readable .npy array"):
        load_clip(tmp_path)
