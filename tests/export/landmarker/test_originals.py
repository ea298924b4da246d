from __future__ import annotations

import sys
import venv
import zipfile

import pytest

from spoter_export.landmarker.originals import FILES, LICENSE, download_wheel, read_originals
from spoter_runtime.errors import BundleError, DataError

# On 3.13 too: without the version pip would look for a wheel of this Python, and there is none.
WORKS = "pip download --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_x86_64"


def test_the_wheel_and_a_folder_give_the_same(originals, tmp_path):
    with zipfile.ZipFile(tmp_path / "mediapipe.whl", "w") as wheel:
        for name, (path, _) in FILES.items():
            wheel.writestr(f"mediapipe/modules/{path}", originals[name])
            (tmp_path / "unpacked" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "unpacked" / path).write_bytes(originals[name])
        wheel.writestr(LICENSE, originals[LICENSE])
    (tmp_path / "unpacked" / "LICENSE").write_bytes(originals[LICENSE])
    assert read_originals(tmp_path / "mediapipe.whl") == originals
    assert read_originals(tmp_path / "unpacked") == originals
    assert b"Apache License" in originals[LICENSE]


def test_a_network_with_another_hash_is_refused(originals, tmp_path):
    for name, (path, _) in FILES.items():
        (tmp_path / path.rpartition("/")[2]).write_bytes(originals[name] + b"x" * (name == "hand"))
    (tmp_path / "LICENSE").write_bytes(originals[LICENSE])
    with pytest.raises(BundleError, match=r"hand_landmark_full.tflite is not the one of mediapipe 0.10.21"):
        read_originals(tmp_path)


def test_what_is_no_source_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing: no such file or folder"):
        read_originals(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"has no pose_detection.tflite in it"):
        read_originals(tmp_path)
    (tmp_path / "text.whl").write_text("no zip")
    with pytest.raises(DataError, match=r"text.whl: is not a wheel of mediapipe==0.10.21: File is not a zip"):
        read_originals(tmp_path / "text.whl")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr("mediapipe/__init__.py", "")
    with pytest.raises(DataError, match=r"other.whl: is not a wheel of mediapipe==0.10.21") as caught:
        read_originals(tmp_path / "other.whl")
    assert WORKS in caught.value.fix


def test_without_a_network_the_error_says_how_to_bring_the_wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataError, match=r"mediapipe==0.10.21, mostly for want of a network: [^E]") as caught:
        download_wheel(tmp_path)
    assert WORKS in caught.value.fix
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(DataError, match="this Python has no pip to download the networks with") as caught:
        download_wheel(tmp_path)
    assert WORKS in caught.value.fix
