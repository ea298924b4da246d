from __future__ import annotations

import errno
import json

import pytest

from spoter_export.landmarker import writer
from spoter_export.landmarker.originals import FILES
from spoter_runtime.camera.files import MANIFEST
from spoter_runtime.errors import ExportError
from spoter_runtime.files import sha256_of


@pytest.fixture
def sources(landmarker_folder):
    return landmarker_folder.parent / "originals"


def test_the_folder_explains_itself(landmarker_folder):
    manifest = json.loads((landmarker_folder / MANIFEST).read_text())
    assert manifest["source"] == "mediapipe 0.10.21"
    assert manifest["files"] == {
        path.name: sha256_of(path) for path in sorted(landmarker_folder.iterdir()) if path.name != MANIFEST
    }
    for name, (path, digest) in FILES.items():
        network = manifest["networks"][name]
        assert (network["original"], network["original_sha256"]) == (path, digest)
        assert 0 < network["max_difference"] < 5e-5
    assert "Apache License" in (landmarker_folder / "LICENSE").read_text()
    notice = (landmarker_folder / "NOTICE").read_text()
    assert "MediaPipe" in notice
    assert "hand.onnx: hand_landmark/hand_landmark_full.tflite" in notice
    assert "Changed: converted" in notice


def test_a_landmarker_that_is_there_stays_without_force(sources, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "letter.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(ExportError, match="there: is there already"):
            writer.write_landmarker(sources, tmp_path / "there", force=force)
    assert (tmp_path / "there" / "letter.txt").read_text() == "mine"


def test_the_same_networks_give_the_same_landmarker(landmarker_folder, sources, tmp_path):
    steps = []
    folder = writer.write_landmarker(sources, tmp_path / "again", on_step=steps.append)
    first, second = (json.loads((f / MANIFEST).read_text()) for f in (landmarker_folder, folder))
    assert first["sha256"] == second["sha256"]
    assert len(steps) == 5
    writer.write_landmarker(sources, folder, force=True)


def test_a_full_disk_leaves_what_was_there(sources, tmp_path, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = writer.write_landmarker(sources, tmp_path / "landmarker")
    before = sha256_of(folder / MANIFEST)
    monkeypatch.setattr(writer, "_write_goldens", full)
    with pytest.raises(OSError, match="No space left"):
        writer.write_landmarker(sources, folder, force=True)
    assert sha256_of(folder / MANIFEST) == before
    assert [path.name for path in tmp_path.iterdir()] == ["landmarker"]
