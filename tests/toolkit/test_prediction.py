from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from in_process import spoter_kit
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
    found = read_clips([tmp_path / "empty"])
    assert (found.clips, [name for name, _ in found.bad]) == ((), [str(tmp_path / "empty")])
    assert "empty: not a dataset" in str(found.bad[0][1])


@pytest.mark.parametrize(("landmarker", "clip"), [("", "clip.npy"), ("a" * 64, "video.mp4")])
def test_verify_names_a_clip_of_the_kind_that_was_trained_on(
    bundle_copy: Path, reseal: Callable[..., None], landmarker: str, clip: str
) -> None:
    def made_of(manifest: dict[str, Any]) -> None:
        manifest["provenance"]["data"]["landmarker"] = landmarker

    reseal(bundle_copy, made_of)
    done = spoter_kit(bundle_copy.parent, "verify", bundle_copy.name)
    assert done.stderr.splitlines()[-1] == f"next: spoter-kit predict --bundle {bundle_copy.name} {clip}"


@pytest.mark.parametrize("long", [False, True])  # refused when it is read, or by the model
def test_json_names_each_clip_also_where_none_can_be_used(
    bundle_folder: Path, tmp_path: Path, make_clip: Callable[[int, int], Float32Array], long: bool
) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, make_clip(2, 120) if long else np.zeros((3, 3)))
    done = spoter_kit(tmp_path, "predict", "a.npy", "b.npy", "--json", "--bundle", bundle_folder)
    assert (done.returncode, "error: 2 of 2 clips cannot be used:" in done.stderr) == (1, True)
    found = json.loads(done.stdout)
    assert (found["predictions"], [row["clip"] for row in found["bad"]]) == ([], ["a.npy", "b.npy"])
    assert all(row["error"].startswith(f"{row['clip']}: ") for row in found["bad"])
    shown = spoter_kit(tmp_path, "predict", "a.npy", "b.npy", "--bundle", bundle_folder)
    assert (shown.returncode, shown.stdout, shown.stderr) == (1, "", done.stderr)
