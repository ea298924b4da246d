"""Names that workers and their clients share: the roofline, and each backend's engine module."""

from typing import Final

ROOFLINE: Final = "floor"  # the GEMM roofline's name as a backend, in bench.json too

# Backend → the engine's module, whose import is timed separately, and the extra that installs it.
ENGINES: Final = {
    "torch": ("torch", "export"),
    "torch-cuda": ("torch", "export"),
    "torch-cuda-compile": ("torch", "export"),
    "torch-cuda-graph": ("torch", "export"),
    "trt": ("tensorrt", "trt"),
    "trt-lean": ("tensorrt_lean", "lean"),
    "trt-rtx": ("tensorrt_rtx", "rtx"),
    "ort-tensorrt": ("onnxruntime", "gpu"),
    "ort-tensorrt-rtx": ("onnxruntime", "cpu"),
    "ort-cuda": ("onnxruntime", "gpu"),
    "ort-cpu": ("onnxruntime", "cpu"),
    "ort-cpu-fused": ("onnxruntime", "cpu"),
    ROOFLINE: ("onnxruntime", "cpu"),
}
