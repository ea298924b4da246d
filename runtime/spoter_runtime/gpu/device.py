"""Find the GPU of this machine, or say why none can be used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from spoter_runtime.errors import BackendError
from spoter_runtime.gpu.cuda import check, import_cudart


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as CUDA describes it.

    Attributes:
        name: ``"NVIDIA GeForce RTX 3060"``.
        compute_capability: ``"8.6"``.
        memory_bytes: all of it, used or not.
        driver_cuda: the newest CUDA version that the driver supports, ``"13.0"``.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver_cuda: str


def find_gpu(index: int = 0) -> Gpu:
    """Return a GPU that CUDA can use.

    Args:
        index: in CUDA's order, after ``CUDA_VISIBLE_DEVICES``.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
        BackendError: no driver, a driver that is too old, no GPU, or fewer than `index` + 1.
    """
    cudart = import_cudart()
    driver = _driver_version(cudart)
    runtime = check("cudaRuntimeGetVersion", cudart.cudaRuntimeGetVersion())
    error, count = "", 0
    if driver:
        code, counted = cudart.cudaGetDeviceCount()
        error, count = code.name, counted or 0
    if no_gpu := no_gpu_error(error, driver=driver, runtime=runtime, count=count, index=index):
        raise no_gpu
    properties = check("cudaGetDeviceProperties", cudart.cudaGetDeviceProperties(index))
    name: bytes = properties.name
    return Gpu(
        name=name.decode(errors="replace").rstrip("\0"),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory_bytes=int(properties.totalGlobalMem),
        driver_cuda=_version(driver),
    )


def _driver_version(cudart: Any) -> int:
    try:
        return int(check("cudaDriverGetVersion", cudart.cudaDriverGetVersion()))
    except RuntimeError:  # no libcuda: cuda-bindings 12.8 and older raise, newer ones return 0
        return 0


def no_gpu_error(error: str, *, driver: int, runtime: int, count: int, index: int = 0) -> BackendError | None:
    """Return the error that says why GPU `index` cannot be used; None if it can.

    Args:
        error: CUDA's name of the error of counting the GPUs, ``"cudaSuccess"`` for none.
        driver: the newest CUDA version of the driver, 12040 for 12.4; 0 without a driver.
        runtime: the CUDA version of cuda-bindings, in the same form.
        count: number of GPUs.
        index: the wanted GPU.
    """
    if driver == 0:
        return no_driver_error()
    if error == "cudaErrorInsufficientDriver":
        return BackendError(
            f"NVIDIA's driver takes CUDA up to {_version(driver)}, cuda-bindings is of CUDA "
            f"{_version(runtime)}",
            fix=f"update the driver, or for its CUDA pip install 'cuda-bindings=={driver // 1000}.*' "
            "and an engine library",
        )
    if error == "cudaErrorNoDevice" or (error == "cudaSuccess" and count == 0):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}"
        found = f"NVIDIA's driver (CUDA {_version(driver)}) finds no GPU{hidden}"
        return BackendError(found, fix="see what `nvidia-smi` lists")
    if error != "cudaSuccess":
        versions = f"driver {_version(driver)}, cuda-bindings {_version(runtime)}"
        return BackendError(f"CUDA cannot be used: {error} ({versions})", fix="see what `nvidia-smi` says")
    if not 0 <= index < count:
        return BackendError(
            f"GPU {index}: this machine has {count}, counted from 0", fix="name one that `nvidia-smi` lists"
        )
    return None


def no_driver_error(detail: str = "") -> BackendError:
    """Return the error for a missing driver.

    Args:
        detail: the loader's own words; may be empty.
    """
    said = f" ({detail})" if detail else ""
    return BackendError(
        f"no NVIDIA driver on this machine{said}",
        fix="install the driver, then `nvidia-smi` lists the GPUs; start a container with --gpus all",
    )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
