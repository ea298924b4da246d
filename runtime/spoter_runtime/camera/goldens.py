"""The landmarker's goldens: one made picture, and each graph's answers to it, replayed on a device."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.camera.files import GOLDENS, LandmarkerFiles
from spoter_runtime.camera.landmarker import Run, load_graphs
from spoter_runtime.errors import BundleError
from spoter_runtime.strict import read_arrays

# A choice, not a measurement: on the machine that wrote the goldens the difference is 0, other processors
# were not tried. A bias that is wrong by 0.5 is far beyond it (a test).
TOLERANCE: Final = 5e-3
_MOST_BYTES: Final = 1 << 24  # thirty times what they take

Inputs = dict[str, dict[str, npt.NDArray[Any]]]


def golden_inputs() -> Inputs:
    """Return what each graph is asked: a picture of coarse and fine structure, and places in it."""
    rng = np.random.default_rng(17)
    coarse = rng.integers(0, 200, (6, 8, 3)).repeat(40, 0).repeat(40, 1)
    frame = (coarse + rng.integers(0, 56, coarse.shape)).astype(np.uint8)
    points = np.array([[[0.4, 0.7], [0.45, 0.6], [0.5, 0.62]]], np.float32)
    hand = {
        "landmarks": np.full((1, 21, 2), np.nan, np.float32),
        "tracked": np.full((1, 4), np.nan, np.float32),
    }
    return {
        "pose_detection": {"frame": frame},
        "pose": {"frame": frame, "region": np.array([[160, 130, 240, 12]], np.float32)},
        "recrop": {"frame": frame, "points": points, **hand},
        "hand": {"frame": frame, "regions": np.array([[150, 150, 90, 30]], np.float32)},
    }


def outputs_of(run: Run, inputs: Inputs) -> dict[str, npt.NDArray[np.float32]]:
    """Return each graph's outputs, by ``graph/place``."""
    return {
        f"{graph}/{n}": np.asarray(value, np.float32)
        for graph, values in inputs.items()
        for n, value in enumerate(run(graph, **values))
    }


def golden_answers(files: LandmarkerFiles) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs that are stored with a landmarker.

    Raises:
        BundleError: the file is missing, was changed, or holds no arrays.
    """
    try:
        return read_arrays(io.BytesIO(files.read(GOLDENS)), None, most_bytes=_MOST_BYTES)
    except (OSError, ValueError) as error:
        raise BundleError(f"{files.folder / GOLDENS}: cannot be read: {error}", fix=files.fix) from error


def replay(files: LandmarkerFiles, *, threads: int = 1) -> dict[str, float]:
    """Run the goldens here; return each graph's largest difference, relative to values above 1.

    Raises:
        BundleError: a file was changed, or holds other arrays.
        BackendError: ONNX Runtime failed.
    """
    expected = golden_answers(files)
    found = outputs_of(load_graphs(files, threads), golden_inputs())
    if {name: value.shape for name, value in expected.items()} != {n: v.shape for n, v in found.items()}:
        raise BundleError(f"{files.folder / GOLDENS}: holds the answers of other graphs", fix=files.fix)
    worst: dict[str, float] = {}
    for name, value in expected.items():
        difference = np.abs(found[name] - value) / np.maximum(1, np.abs(value))
        graph = name.partition("/")[0]
        worst[graph] = max(worst.get(graph, 0.0), float(difference.max()))
    return worst
