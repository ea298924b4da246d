"""MediaPipe's networks: from its wheel, each checked by its hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from spoter_runtime.errors import BundleError, DataError

SOURCE: Final = "mediapipe 0.10.21"  # the last version that carries the networks
_WHEEL: Final = "mediapipe==0.10.21"
# Any of its wheels has the same networks; pip gives this one to every Python and system.
_WANTED: Final = (
    *("--no-deps", "--only-binary=:all:", "--python-version", "3.11"),
    *("--platform", "manylinux_2_28_x86_64", _WHEEL),
)
# The commands for a machine with a network, and for this one afterwards.
_FIX: Final = f"pip download {' '.join(_WANTED)}, then spoter-kit landmarker fetch --from FILE"
_MODULES: Final = "mediapipe/modules"
LICENSE: Final = "mediapipe-0.10.21.dist-info/LICENSE"

# Name of the graph → file in the wheel and its sha256.
FILES: Final = {
    "pose_detection": (
        "pose_detection/pose_detection.tflite",
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    ),
    "pose": (
        "pose_landmark/pose_landmark_full.tflite",
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    ),
    "recrop": (
        "holistic_landmark/hand_recrop.tflite",
        "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d",
    ),
    "hand": (
        "hand_landmark/hand_landmark_full.tflite",
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
    ),
}


def download_wheel(folder: Path) -> Path:
    """Download MediaPipe's wheel with pip, install nothing, and return its file.

    Raises:
        DataError: pip failed: there is no network, or no such package at the index that pip asks.
    """
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--dest", str(folder)]
    command += _WANTED
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("mediapipe-0.10.21-*.whl"))
    if "No module named pip" in done.stderr:
        raise DataError("this Python has no pip to download the networks with", fix=f"with another: {_FIX}")
    if done.returncode or not wheels:
        last = (done.stderr.strip() or done.stdout.strip() or "pip said nothing").splitlines()[-1]
        raise DataError(
            f"pip could not download {_WHEEL}, mostly for want of a network: {last.removeprefix('ERROR: ')}",
            fix=f"where there is a network: {_FIX}",
        )
    return wheels[0]


def read_originals(source: Path | None = None) -> dict[str, bytes]:
    """Return the networks' TensorFlow Lite files by graph, and their licence under the name `LICENSE`.

    Args:
        source: a wheel, or a folder with the files in it at any depth; None downloads the wheel.

    Raises:
        DataError: no such file, no wheel, or a network is not in it.
        BundleError: a network has another hash.
    """
    if source is None:
        with TemporaryDirectory() as folder:
            return read_originals(download_wheel(Path(folder)))
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    read = _from_folder if source.is_dir() else _from_wheel
    found = read(source, {name: Path(path).name for name, (path, _) in FILES.items()})
    for name, (_, expected) in FILES.items():
        digest = hashlib.sha256(found[name]).hexdigest()
        if digest != expected:
            raise BundleError(
                f"{source}: {Path(FILES[name][0]).name} is not the one of {SOURCE}: sha256 {digest[:12]}…, "
                f"expected {expected[:12]}…",
                fix=_FIX,
            )
    return found


def _from_folder(folder: Path, names: dict[str, str]) -> dict[str, bytes]:
    found = {}
    for graph, name in (*names.items(), (LICENSE, "LICENSE")):
        paths = sorted(folder.rglob(name))
        if not paths:
            raise DataError(f"{folder}: has no {name} in it", fix=_FIX)
        found[graph] = paths[0].read_bytes()
    return found


def _from_wheel(wheel: Path, names: dict[str, str]) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return {
                graph: archive.read(LICENSE if graph == LICENSE else f"{_MODULES}/{FILES[graph][0]}")
                for graph in (*names, LICENSE)
            }
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise DataError(f"{wheel}: is not a wheel of {_WHEEL}: {error}", fix=_FIX) from error
