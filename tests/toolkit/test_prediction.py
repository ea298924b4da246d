from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.errors import DataError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.recognizer import Recognizer
from spoter_toolkit.prediction import predict_files, read_clips


def test_files_folders_of_files_and_their_order(
    bundle_folder: Path, tmp_path: Path, make_clip: Callable[[int, int], Float32Array]
) -> None:
    clips = {"b.npy": make_clip(1, 30), "a.npy": make_clip(2, 9), "alone.npy": make_clip(3, 17)}
    (tmp_path / "folder").mkdir()
    files = {name: tmp_path / ("" if name == "alone.npy" else "folder") / name for name in clips}
    for name, clip in clips.items():
        np.save(files[name], clip)
    found = predict_files(
        read_clips([files["alone.npy"], tmp_path / "folder"]), bundle_folder, backend="ort-cpu"
    )
    order = ("alone.npy", "a.npy", "b.npy")
    assert found.names == tuple(str(files[name]) for name in order)
    assert found.backend == "ort-cpu"
    recognizer = Recognizer.load(bundle_folder, "ort-cpu")
    assert [p.label for p in found.predictions] == [recognizer.predict(clips[name]).label for name in order]


def test_a_folder_without_clips_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: not a dataset"):
        read_clips([tmp_path / "empty"])
