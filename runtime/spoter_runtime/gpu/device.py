"""The GPU of this machine, and the packages that reach it: found, or named with what is wrong."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from typing import Any, Final

from spoter_runtime.bundle.libraries import EXTRAS, LIBRARIES, Library
from spoter_runtime.errors import BackendError, MissingExtraError, is_installed, require
from spoter_runtime.gpu.cuda import check, import_cudart

# The distributions that hold an engine library, whole or in parts; Jetson's packages have the first name too.
_SUFFIXES: Final = ("", *(f"-cu{cuda}{part}" for cuda in (12, 13) for part in ("", "-bindings", "-libs")))
_PARTS: Final[dict[Library, tuple[str, ...]]] = {
    "tensorrt": tuple(f"tensorrt{suffix}" for suffix in _SUFFIXES),
    "tensorrt_rtx": tuple(f"tensorrt-rtx{suffix}" for suffix in _SUFFIXES),
}
_CUDA_LIBRARIES: Final = (
    "nvidia-cuda-runtime-cu12",
    "nvidia-cublas-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)
# Their names do not say for which CUDA they are, their versions do; NVIDIA's have no suffix from CUDA 13 on.
_NAMED_BY_VERSION: Final = ("cuda-bindings", "nvidia-cuda-runtime", "nvidia-cublas")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as CUDA describes it.

    Attributes:
        name: ``"NVIDIA GeForce RTX 3060"``.
        compute_capability: ``"8.6"``.
        memory_bytes: all of it, used or not.
        driver_cuda: the newest CUDA that the driver takes, ``"13.0"``.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver_cuda: str


def find_gpu(index: int = 0) -> Gpu:
    """Return a GPU that CUDA can use.

    Args:
        index: as CUDA counts, after ``CUDA_VISIBLE_DEVICES``.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
        BackendError: no driver, too old a driver, no GPU, or not so many.
    """
    cudart = import_cudart()
    driver = _driver_version(cudart)
    runtime = check("cudaRuntimeGetVersion", cudart.cudaRuntimeGetVersion())
    error, count = "", 0
    if driver:
        code, counted = cudart.cudaGetDeviceCount()
        error, count = code.name, counted or 0
    reason = no_gpu_reason(error, driver=driver, runtime=runtime, count=count, index=index)
    if reason is not None:
        raise BackendError(reason)
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
    except RuntimeError:  # cuda-bindings 12.8 and older, where there is no libcuda; newer ones give 0
        return 0


def no_gpu_reason(error: str, *, driver: int, runtime: int, count: int, index: int = 0) -> str | None:
    """Say why there is no GPU to use, from what CUDA answered; None where there is one.

    Args:
        error: CUDA's name for what counting the GPUs gave, ``"cudaSuccess"`` if it could.
        driver: the newest CUDA of the driver, 12040 for 12.4; 0 where there is no driver.
        runtime: the CUDA of cuda-bindings, in the same way.
        count: how many GPUs there are.
        index: which of them is wanted.
    """
    if driver == 0:
        return no_driver_reason()
    if error == "cudaErrorInsufficientDriver":
        return (
            f"NVIDIA's driver takes CUDA up to {_version(driver)}, cuda-bindings is of CUDA "
            f"{_version(runtime)}. Fix: update the driver, or for its CUDA "
            f"pip install 'cuda-bindings=={driver // 1000}.*' and an engine library"
        )
    if error == "cudaErrorNoDevice" or (error == "cudaSuccess" and count == 0):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}"
        found = f"NVIDIA's driver (CUDA {_version(driver)}) finds no GPU{hidden}"
        return f"{found}. Fix: see what `nvidia-smi` lists"
    if error != "cudaSuccess":
        versions = f"driver {_version(driver)}, cuda-bindings {_version(runtime)}"
        return f"CUDA cannot be used: {error} ({versions}). Fix: see what `nvidia-smi` says"
    if not 0 <= index < count:
        return f"GPU {index}: this machine has {count}, counted from 0. Fix: name one that `nvidia-smi` lists"
    return None


def no_driver_reason(detail: str = "") -> str:
    """Say that there is no driver, and what to do.

    Args:
        detail: who says so, and in which words; empty leaves it out.
    """
    said = f" ({detail})" if detail else ""
    return (
        f"no NVIDIA driver on this machine{said}. Fix: install the driver, then `nvidia-smi` lists the GPUs; "
        "start a container with --gpus all"
    )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def import_engine_library(library: Library) -> Any:
    """Import TensorRT or TensorRT-RTX.

    Raises:
        MissingExtraError: it is not installed.
        BackendError: it is installed in part, or does not load; the message has the loader's own words.
    """
    fix = f"Fix: pip install --force-reinstall 'spoter-kit[{EXTRAS[library]}]'"
    try:
        return require(library, extra=EXTRAS[library])
    except MissingExtraError as error:
        installed = _installed(_PARTS[library])
        if not installed:
            raise
        raise BackendError(_half_installed(library, installed)) from error
    except (ImportError, OSError) as error:
        names = _listed(_installed(_PARTS[library])) or library
        raise BackendError(f"{names}: installed, but does not load: {error}. {fix}") from error


def mixed_cuda_packages() -> list[str]:
    """Return what is wrong with the installed packages that reach the GPU, each with its fix; mostly nothing.

    Looks at the metadata alone: nothing is imported.
    """
    problems = [
        _half_installed(library, installed)
        for library in LIBRARIES
        if (installed := _installed(_PARTS[library])) and not is_installed(library)
    ]
    engines = _installed(tuple(name for library in LIBRARIES for name in _PARTS[library]))
    others = _installed((*_NAMED_BY_VERSION, *_CUDA_LIBRARIES))
    by_cuda: dict[int, dict[str, str]] = {}
    for name, version in (engines | others).items():
        if cuda := _cuda_of(name, version):
            by_cuda.setdefault(cuda, {})[name] = version
    if len(by_cuda) > 1:
        kept = max((cuda for cuda, names in by_cuda.items() if engines.keys() & names), default=max(by_cuda))
        problems.append(_mixed(by_cuda, kept))
    return problems


def _mixed(by_cuda: dict[int, dict[str, str]], kept: int) -> str:
    wrong = sorted(name for cuda, names in by_cuda.items() if cuda != kept for name in names)
    lists = " and ".join(f"for CUDA {cuda} ({_listed(names)})" for cuda, names in sorted(by_cuda.items()))
    if any(name.startswith("nvidia-") for name in wrong):  # another framework's, and it would break without
        fix = f"give the engine an environment of its own, or install that framework's build for CUDA {kept}"
    elif wrong == ["cuda-bindings"]:
        fix = f"pip install 'cuda-bindings=={kept}.*'"
    else:
        # They share a module's files: what stays has lost some of them.
        again = " ".join(f"'{name}=={version}'" for name, version in sorted(by_cuda[kept].items()))
        fix = f"pip uninstall -y {' '.join(wrong)} && pip install --force-reinstall --no-deps {again}"
        if "cuda-bindings" in wrong:
            fix += f" 'cuda-bindings=={kept}.*'"
    return f"packages {lists} are mixed. Fix: {fix}"


def _half_installed(library: Library, installed: dict[str, str]) -> str:
    return (
        f"{_listed(installed)}: installed, but the module {library!r} is not: only a part was installed. "
        f"Fix: pip uninstall -y {' '.join(sorted(installed))} && pip install 'spoter-kit[{EXTRAS[library]}]'"
    )


def _cuda_of(name: str, version: str) -> int | None:
    """Return the CUDA that a distribution is for; None where neither its name nor its version says."""
    if name in _NAMED_BY_VERSION:
        return int(version.partition(".")[0]) or None  # 0: a placeholder that points to another package
    return next((cuda for cuda in (12, 13) if f"-cu{cuda}" in name), None)


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    # Asked by name, not listed: see `spoter_runtime.ort.runner.installed_distributions`.
    found: dict[str, str] = {}
    for name in names:
        for distribution in importlib.metadata.distributions(name=name):
            found.setdefault(name, distribution.version)  # the first on the path is the one that is imported
    return found


def _listed(installed: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(installed.items()))
