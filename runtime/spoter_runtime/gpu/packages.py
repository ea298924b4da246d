"""Import an engine library, and find faults of the installed GPU packages."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any, Final

from spoter_runtime.bundle.libraries import BACKEND_OF, EXTRAS, Library
from spoter_runtime.errors import BackendError, MissingExtraError, is_installed, pip_fix, require

# The distributions of each engine library or of its parts; Jetson's packages have the first name too.
_CUDAS: Final = (11, 12, 13)
_SUFFIXES: Final = ("", *(f"-cu{cuda}{part}" for cuda in _CUDAS for part in ("", "-bindings", "-libs")))
# TensorRT 8 has one name for all: its version tells the CUDA version.
_CUDA_OF_TENSORRT_8: Final = {"8.5": 11, "8.6": 12}


_PARTS: Final[dict[Library, tuple[str, ...]]] = {
    "tensorrt": tuple(f"tensorrt{suffix}" for suffix in _SUFFIXES),
    "tensorrt_lean": tuple(f"tensorrt-lean{suffix}" for suffix in _SUFFIXES),
    "tensorrt_rtx": tuple(f"tensorrt-rtx{suffix}" for suffix in _SUFFIXES),
}


_CUDA_LIBRARIES: Final = (
    *(f"nvidia-cuda-runtime-cu{cuda}" for cuda in (11, 12)),
    *(f"nvidia-cublas-cu{cuda}" for cuda in (11, 12)),
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)


# Distributions whose version gives the CUDA version; NVIDIA's names have no suffix from CUDA 13 on.
_NAMED_BY_VERSION: Final = ("cuda-bindings", "nvidia-cuda-runtime", "nvidia-cublas")


def import_engine_library(library: Library) -> Any:
    """Import TensorRT, its lean runtime or TensorRT-RTX.

    Raises:
        MissingExtraError: it is not installed.
        BackendError: a part is missing, or it does not load; the message quotes the loader.
    """
    try:
        return require(library, extra=EXTRAS[library])
    except MissingExtraError as error:
        installed = _installed(_PARTS[library])
        if not installed:
            raise
        raise _half_installed(library, installed) from error
    except (ImportError, OSError) as error:
        installed = _installed(_PARTS[library])
        fix = pip_fix(EXTRAS[library], option="--force-reinstall")
        # TensorRT 8.6 wants them and does not bring them; a newer TensorRT would not be 8.6 any more.
        if installed.get("tensorrt", "").startswith("8.") and re.search("libcu(blas|dnn)", str(error)):
            fix = "pip install 'nvidia-cublas-cu12==12.1.*' 'nvidia-cudnn-cu12==8.9.*'"
        names = _listed(installed) or library
        raise BackendError(f"{names}: installed, but does not load: {error}", fix=fix) from error


def mixed_cuda_packages() -> list[BackendError]:
    """Return an error for each fault of the installed GPU packages.

    Reads only their metadata; imports nothing.
    """
    problems = [
        _half_installed(library, installed)
        for library in BACKEND_OF
        if (installed := _installed(_PARTS[library])) and not is_installed(library)
    ]
    engines = _installed(tuple(name for library in BACKEND_OF for name in _PARTS[library]))
    others = _installed((*_NAMED_BY_VERSION, *_CUDA_LIBRARIES))
    by_cuda: dict[int, dict[str, str]] = {}
    for name, version in (engines | others).items():
        if cuda := _cuda_of(name, version):
            by_cuda.setdefault(cuda, {})[name] = version
    if len(by_cuda) > 1:
        kept = max((cuda for cuda, names in by_cuda.items() if engines.keys() & names), default=max(by_cuda))
        problems.append(_mixed(by_cuda, kept))
    cudnn = others.get("nvidia-cudnn-cu12", "8")
    if engines.get("tensorrt", "").startswith("8.6") and not cudnn.startswith("8"):
        problems.append(
            BackendError(
                f"tensorrt {engines['tensorrt']} needs cuDNN 8, nvidia-cudnn-cu12 {cudnn} is installed",
                fix="pip install 'nvidia-cudnn-cu12==8.9.*'; give torch an environment of its own",
            )
        )
    return problems


def _mixed(by_cuda: dict[int, dict[str, str]], kept: int) -> BackendError:
    wrong = sorted(name for cuda, names in by_cuda.items() if cuda != kept for name in names)
    lists = " and ".join(f"for CUDA {cuda} ({_listed(names)})" for cuda, names in sorted(by_cuda.items()))
    if any(name.startswith("nvidia-") for name in wrong):  # another framework needs them
        fix = f"give the engine an environment of its own, or install that framework's build for CUDA {kept}"
    elif wrong == ["cuda-bindings"]:
        fix = f"pip install 'cuda-bindings=={kept}.*'"
    else:
        # The distributions share a module's files: uninstalling one removes files of the other.
        again = " ".join(f"'{name}=={version}'" for name, version in sorted(by_cuda[kept].items()))
        fix = f"pip uninstall -y {' '.join(wrong)} && pip install --force-reinstall --no-deps {again}"
        if "cuda-bindings" in wrong:
            fix += f" 'cuda-bindings=={kept}.*'"
    return BackendError(f"packages {lists} are mixed", fix=fix)


def _half_installed(library: Library, installed: dict[str, str]) -> BackendError:
    return BackendError(
        f"{_listed(installed)}: installed, but the module {library!r} is not: only a part was installed",
        fix=f"pip uninstall -y {' '.join(sorted(installed))} && {pip_fix(EXTRAS[library])}",
    )


def _cuda_of(name: str, version: str) -> int | None:
    """Return a distribution's CUDA major version; None if neither its name nor its version gives it."""
    if name in _NAMED_BY_VERSION:
        return int(version.partition(".")[0]) or None  # 0: a placeholder that points to another package
    if name == "tensorrt":
        return _CUDA_OF_TENSORRT_8.get(version[:3])
    return next((cuda for cuda in _CUDAS if f"-cu{cuda}" in name), None)


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    # Asked by name, not listed: see `spoter_runtime.ort.installed.installed_distributions`.
    found: dict[str, str] = {}
    for name in names:
        for distribution in importlib.metadata.distributions(name=name):
            found.setdefault(name, distribution.version)  # the first on the path is the one that is imported
    return found


def _listed(installed: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(installed.items()))
