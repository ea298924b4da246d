"""The proof that a converted network computes what the original does.

Where LiteRT is installed it runs the original; elsewhere LiteRT's answers are in `litert_answers.npz`, for
the same pictures, a sample of each output.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx

from spoter_export.landmarker.graphs import NETWORKS
from spoter_export.landmarker.tflite_to_onnx import IMAGE
from spoter_runtime.errors import ExportError, is_installed, require
from spoter_runtime.ort.installed import import_onnxruntime
from spoter_runtime.ort.session import SessionSettings, cpu_session

# Largest seen: 2.4e-5, of the body's raw points (0..256); both add the same products in another order.
TOLERANCE: Final = 2e-4
PICTURES: Final = 3
ANSWERS: Final = Path(__file__).with_name("litert_answers.npz")
_SAMPLE: Final = (
    997  # one value in so many is kept of an output with more than 1,000; prime, so of all channels
)

Answers = Mapping[str, npt.NDArray[np.float32]]


def check_network(name: str, content: bytes, model: onnx.ModelProto) -> float:
    """Compare a network with its original on made pictures; return the largest difference.

    The difference is relative to an output's largest value, where that is above 1.

    Args:
        name: of the graph, one of `NETWORKS`.
        content: the original, a TensorFlow Lite file.
        model: what was made of it.

    Raises:
        ExportError: they differ by more than `TOLERANCE`.
        MissingExtraError: ONNX Runtime is not installed.
    """
    reference = litert_answers(name, content) if is_installed("ai_edge_litert") else _stored(name)
    mine = _onnx_answers(model)
    worst = 0.0
    for output, expected in reference.items():
        got = _sampled(mine[output]) if mine[output].shape != expected.shape else mine[output]
        scale = max(1.0, float(np.abs(expected).max()))
        worst = max(worst, float(np.abs(got - expected).max()) / scale)
    if not worst <= TOLERANCE:
        raise ExportError(
            f"{name}: the converted network differs from the original by {worst:.1e}, allowed {TOLERANCE:.0e}"
        )
    return worst


def pictures(name: str) -> npt.NDArray[np.float32]:
    """Return pictures (PICTURES, 3, side, side) float32 in the network's range: coarse and fine structure."""
    side = {"pose_detection": 224, "hand": 224}.get(name, 256)
    rng = np.random.default_rng(17)
    coarse = rng.uniform(0, 1, (PICTURES, 3, 8, 8)).repeat(side // 8, 2).repeat(side // 8, 3)
    images = 0.8 * coarse + 0.2 * rng.uniform(0, 1, (PICTURES, 3, side, side))
    return (2 * images - 1 if name == "pose_detection" else images).astype(np.float32)


def litert_answers(name: str, content: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """Return the original's outputs for the pictures, by LiteRT, channels first."""
    interpreter = require("ai_edge_litert.interpreter", extra="dev").Interpreter(
        model_content=content, num_threads=1
    )
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    answers: dict[str, list[Any]] = {output: [] for output in NETWORKS[name].values()}
    for image in pictures(name):
        interpreter.set_tensor(entry["index"], image.transpose(1, 2, 0)[None])
        interpreter.invoke()
        for detail in interpreter.get_output_details():
            if (output := NETWORKS[name].get(detail["name"].split(":")[0])) is not None:
                value = interpreter.get_tensor(detail["index"])
                answers[output].append(value.transpose(0, 3, 1, 2) if value.ndim == 4 else value)
    return {output: np.concatenate(values) for output, values in answers.items()}


def _onnx_answers(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
    ort = import_onnxruntime()
    settings = SessionSettings(threads=1)
    session, _ = cpu_session(ort, model.SerializeToString(), settings.options(ort), (), model.graph.name)
    runs = [session.run(None, {IMAGE: image[None]}) for image in pictures(model.graph.name)]
    names = [output.name for output in session.get_outputs()]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*runs, strict=True), strict=True)}


def _sampled(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a sample of each picture's values: (pictures, n)."""
    flat = values.reshape(len(values), -1)
    return flat[:, ::_SAMPLE] if flat.shape[1] > 1000 else flat


def _stored(name: str) -> dict[str, npt.NDArray[np.float32]]:
    with np.load(ANSWERS) as stored:
        return {output: stored[f"{name}/{output}"] for output in NETWORKS[name].values()}


def write_answers(originals: Mapping[str, bytes], path: Path = ANSWERS) -> None:
    """Write LiteRT's answers, for machines without it; a test compares them with LiteRT's again."""
    answers = {
        f"{name}/{output}": _sampled(values)
        for name in NETWORKS
        for output, values in litert_answers(name, originals[name]).items()
    }
    np.savez_compressed(path, allow_pickle=False, **answers)
