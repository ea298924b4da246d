"""Name what a worker can measure, and the engine that each backend imports."""

from typing import Final

ROOFLINE: Final = "floor"  # the GEMM roofline's name as a backend, in bench.json too

# Backend → the module whose import is timed apart from loading the model, and the extra that brings it.
ENGINES: Final = {
    "torch": ("torch", "export"),
    "torch-cuda": ("torch", "export"),
    "torch-cuda-compile": ("torch", "export"),
    "torch-cuda-graph": ("torch", "export"),
    "trt": ("tensorrt", "trt"),
    "trt-rtx": ("tensorrt_rtx", "rtx"),
    "ort-tensorrt": ("onnxruntime", "gpu"),
    "ort-tensorrt-rtx": ("onnxruntime", "cpu"),
    "ort-cuda": ("onnxruntime", "gpu"),
    "ort-cpu": ("onnxruntime", "cpu"),
    "ort-cpu-fused": ("onnxruntime", "cpu"),
    ROOFLINE: ("onnxruntime", "cpu"),
}
