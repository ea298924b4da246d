"""Clips from .npy files, and files that are none."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from spoter_runtime.clip_files import load_clip
from spoter_runtime.errors import InputError


def npy(array, save=np.save):
    buffer = io.BytesIO()
    save(buffer, array)
    return buffer.getvalue()


NO_CLIP = (
    r"not a clip\. A clip is a \.npy file of landmarks, \(frames, 54, 2\), .* landmarks_from_mediapipe\("
)
CUT_OFF = r"is damaged or cut off \(.+\)\. Fix: copy or save it again"
CLIP = np.full((5, 54, 2), 0.5, np.float32)


def test_an_array_comes_back_as_it_was_saved(tmp_path):
    path = tmp_path / "clip.npy"
    path.write_bytes(npy(CLIP))
    assert np.array_equal(load_clip(path), CLIP)
    assert np.array_equal(load_clip(str(path)), CLIP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NO_CLIP),
        (b"word,tea\n", NO_CLIP),
        (b"\0\0\0\x18ftypmp42" + bytes(1000), NO_CLIP),
        (pickle.dumps([CLIP]), NO_CLIP),
        (npy(CLIP)[:-1], CUT_OFF),
        (npy(CLIP)[:20], CUT_OFF),
        (npy(CLIP).replace(b"(5, 54, 2), }    ", b"(599999999, 54, 2), }"), CUT_OFF),
        (
            npy(np.array([{"a": 1}])),
            r"holds Python objects, not numbers\. Fix: numpy\.save\(path, numpy\.asarray",
        ),
        (npy(CLIP, np.savez), "an archive of several arrays. Fix: save one array with numpy.save"),
        (npy(np.array(["a"])), r"holds <U1, expected numbers\. Fix: numpy\.save"),
        (npy(CLIP).replace(b"<f4", b"<fx"), CUT_OFF),
    ],
    ids=[
        "empty",
        "text",
        "video",
        "a pickle",
        "truncated",
        "half a header",
        "a shape of terabytes",
        "objects",
        "npz",
        "text",
        "an unknown type",
    ],
)
def test_a_file_that_is_no_array_is_named(tmp_path, content, message):
    path = tmp_path / "clip.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"clip.npy: {message}") as caught:
        load_clip(path)
    assert "allow_pickle" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(
        InputError, match=r"none.npy: cannot be read: No such file or directory. Fix: check the path"
    ):
        load_clip(tmp_path / "none.npy")
    with pytest.raises(InputError, match=r"cannot be read: not a file"):
        load_clip(tmp_path)


def test_a_pipe_is_refused_at_once(tmp_path, put_a_pipe):
    with pytest.raises(InputError, match=r"clip\.npy: cannot be read: not a file\. Fix: check the path"):
        load_clip(put_a_pipe(tmp_path / "clip.npy"))
