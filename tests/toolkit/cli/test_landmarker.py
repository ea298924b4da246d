"""The `landmarker` verbs, as a user types them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from in_process import spoter_kit


def test_fetch_from_a_folder_then_verify_without_naming_it(landmarker_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = spoter_kit(tmp_path, "landmarker", "verify")
    assert done.returncode == 1
    assert "no landmarker there. Fix: spoter-kit landmarker fetch" in done.stderr
    originals = landmarker_folder.parent / "originals"
    done = spoter_kit(tmp_path, "landmarker", "fetch", "--from", originals)
    assert done.returncode == 0, done.stderr
    assert "cache/spoter-kit/landmarker: the landmarker of mediapipe 0.10.21, sha256 " in done.stdout
    assert "converting and proving hand" in done.stderr
    assert done.stderr.endswith("next: spoter-kit landmarker verify\n")
    assert len((done.stdout + done.stderr).splitlines()) <= 12
    done = spoter_kit(tmp_path, "landmarker", "verify")
    assert done.stdout.startswith("verified: same landmarks as its goldens: largest difference ")
    done = spoter_kit(tmp_path, "landmarker", "verify", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["passed"]
    assert answer["differences"].keys() == {"pose_detection", "pose", "recrop", "hand"}
    done = spoter_kit(tmp_path, "landmarker", "fetch")
    assert done.returncode == 0, done.stderr
    assert "it is there already; --force fetches it again" in done.stderr
    assert "the landmarker of mediapipe 0.10.21, sha256 " in done.stdout
    done = spoter_kit(tmp_path, "landmarker", "fetch", "--from", originals)
    assert done.returncode == 1
    assert "is there already. Fix: spoter-kit landmarker fetch --force" in done.stderr


def test_engines_are_added_to_a_landmarker_that_is_there(landmarker_folder, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no engine can be built")
    from spoter_export.landmarker import engines

    monkeypatch.setattr(engines, "GRAPHS", ("recrop",))  # the smallest of the four
    folder = shutil.copytree(landmarker_folder, tmp_path / "landmarker")
    done = spoter_kit(tmp_path, "landmarker", "fetch", "-o", folder, "--compute-capability", "8.9")
    assert (done.returncode, "Fix: add --rtx" in done.stderr) == (2, True)
    done = spoter_kit(tmp_path, "landmarker", "fetch", "-o", folder, "--rtx", "--compute-capability", "8.9")
    assert done.returncode == 0, done.stderr
    assert "converting" not in done.stderr
    assert "engines of tensorrt_rtx: 3 MB, for 8.9: built, not executed" in done.stdout
    done = spoter_kit(tmp_path, "landmarker", "verify", folder)
    assert done.returncode == 0, done.stderr


def test_verify_says_no_where_the_answers_are_others(landmarker_folder, tmp_path, reseal_landmarker):
    def spoil(folder):
        with np.load(folder / "goldens.npz") as stored:
            values = {name: stored[name] for name in stored.files}
        values["hand/0"] = values["hand/0"] + 0.1
        np.savez(folder / "goldens.npz", **values)

    folder = reseal_landmarker(landmarker_folder, spoil)
    done = spoter_kit(tmp_path, "landmarker", "verify", folder)
    assert done.returncode == 3
    assert done.stdout.startswith("FAILED: other landmarks than its goldens: largest difference 1.0e-01 of")
