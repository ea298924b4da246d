"""OpenVINO with the file that torch.onnx.export writes: fp32, bf16 as a hint, int8 by NNCF."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REQUIREMENTS = ("openvino", "nncf", "onnx", "numpy")
PEERS = {
    "openvino": "OpenVINO, fp32",
    "openvino-bf16": "OpenVINO, bf16 (hint)",
    "openvino-int8": "OpenVINO, int8 (NNCF, weights and activations)",
}

# Or each import of openvino, and nncf, reports to Google Analytics; without this module they take a stub.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def prepare(peer: str, folder: Path, made: Path) -> None:
    """Calibrate the int8 one on the model's own clips; the others read the file as it is."""
    if peer != "openvino-int8":
        return
    import nncf
    import openvino

    with np.load(folder / "calibration.npz") as clips:
        alone = [clip[None] for clip in np.split(clips["given"], clips["ends"][:-1])]
    model = openvino.Core().read_model(folder / "notebook.onnx")
    quantised = nncf.quantize(
        model,
        nncf.Dataset(alone),
        subset_size=len(alone),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    openvino.save_model(quantised, made / "int8.xml", compress_to_fp16=False)


def load(peer: str, folder: Path, made: Path, threads: int) -> Callable[[Any], Any]:
    """Return one infer request as a function of arrays."""
    import openvino

    precision = "bf16" if peer == "openvino-bf16" else "f32"
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    file = made / "int8.xml" if peer == "openvino-int8" else folder / "notebook.onnx"
    compiled = openvino.Core().compile_model(file, "CPU", config)
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if taken != precision:
        raise RuntimeError(f"the hint {precision} is not taken: this CPU computes in {taken}")
    request = compiled.create_infer_request()

    def infer(poses_NTD: Any) -> Any:
        request.infer([poses_NTD], share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    return infer
