"""Find and import the installed ONNX Runtime: package, version, providers."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Final, Literal

from spoter_runtime.errors import BackendError, pip_fix, require
from spoter_runtime.ort.telemetry import FIRST_WITH_TELEMETRY, switch_telemetry_off, warn_of_telemetry

# Every distribution that installs the module `onnxruntime`; two of them overwrite each other's files.
_DISTRIBUTIONS: Final = (
    "onnxruntime",
    "onnxruntime-directml",
    "onnxruntime-gpu",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)


def installed_distributions() -> dict[str, str]:
    """Return name → version of every installed distribution that provides ONNX Runtime."""
    # Read from folder names such as ``onnxruntime_gpu-1.32.0.dist-info``: importing importlib.metadata takes
    # a tenth of a cold start.
    wanted = {name.replace("-", "_"): name for name in _DISTRIBUTIONS}
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            with os.scandir(folder or ".") as entries:
                names = [entry.name for entry in entries if entry.name.startswith("onnxruntime")]
        except OSError:
            continue
        for entry in names:
            if entry.endswith(".dist-info"):
                name, _, version = entry.removesuffix(".dist-info").partition("-")
                if name in wanted:
                    found.setdefault(wanted[name], version)  # Python imports the first on the path
    return {name: found[name] for name in _DISTRIBUTIONS if name in found}


Provider = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]


# ONNX Runtime's names of the providers.
PROVIDER_NAMES: Final[dict[Provider, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}


PROVIDERS: Final[tuple[Provider, ...]] = tuple(PROVIDER_NAMES)


def import_onnxruntime(provider: Provider = "cpu") -> Any:
    """Import ONNX Runtime with its telemetry off.

    Sets ``ORT_DISABLE_TELEMETRY=1`` in this process's environment, unless the user has set it. Warns once if
    ONNX Runtime was imported earlier without it: its telemetry may be running.

    Args:
        provider: the provider needed; the fix of an error installs a build that has it.

    Raises:
        MissingExtraError: none is installed.
        BackendError: several distributions are installed and overwrite each other's files; or the files are
            gone.
    """
    extra = "gpu" if provider in ("cuda", "tensorrt") else "cpu"
    found = installed_distributions()
    if len(found) > 1:
        names = ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
        raise BackendError(
            f"{len(found)} distributions of ONNX Runtime are installed and overwrite each other's files: "
            f"{names}",
            fix=f"pip uninstall -y {' '.join(sorted(found))} && {pip_fix(extra)}",
        )
    too_late = switch_telemetry_off()
    ort = require("onnxruntime", extra=extra)
    if not hasattr(ort, "InferenceSession"):  # an empty folder is left, and imports
        name = next(iter(found), "onnxruntime")
        raise BackendError(
            f"{name} is installed, but its files are gone, as after another build of it was uninstalled",
            fix=f"pip install --force-reinstall --no-deps {name}",
        )
    if too_late and not is_older(ort.__version__, FIRST_WITH_TELEMETRY):
        warn_of_telemetry(ort.__version__)
    return ort


def check_provider(provider: Provider) -> None:
    """Check that this ONNX Runtime was built with a provider; loads neither the provider nor its libraries.

    Raises:
        MissingExtraError, BackendError: as `import_onnxruntime`, or it lacks the provider.
    """
    name = PROVIDER_NAMES[provider]
    ort = import_onnxruntime(provider)
    if provider == "tensorrt-rtx" or name in ort.get_available_providers():  # that one is a plug-in
        return
    installed = ", ".join(f"{name} {version}" for name, version in installed_distributions().items())
    raise BackendError(
        f"{name}: not in {installed or 'this ONNX Runtime'}, which has "
        f"{', '.join(ort.get_available_providers())}",
        fix=f"{gpu_build_fix()}",
    )


def gpu_build_fix() -> str:
    """Return the command that replaces the installed build by the one with CUDA."""
    others = " ".join(name for name in sorted(installed_distributions()) if name != "onnxruntime-gpu")
    if others:
        return f"pip uninstall -y {others} && {pip_fix('gpu')}"
    return "pip install --force-reinstall --no-deps onnxruntime-gpu"  # installed, but files are missing


def is_older(version: str, least: str) -> bool:
    """Return True if the first two numbers of a version are below those of `least`; empty means none."""
    here, needed = (tuple(int(part) for part in re.findall(r"\d+", text)[:2]) for text in (version, least))
    return here < needed


def check_version(needed: str, version: str, where: str) -> None:
    """Raise if ONNX Runtime is too old for a file: 1.24 loads Attention but ignores `lengths`.

    Args:
        needed: ``">=1.25"``; empty for any version.
        version: the installed version.
        where: the file's name in errors.

    Raises:
        BackendError: the version is too old; the message names the needed one.
    """
    least = needed.removeprefix(">=")
    if is_older(version, least):
        raise BackendError(
            f"{where}: needs onnxruntime {least}, here is {version}",
            fix=f"pip install 'onnxruntime>={least}', or ort-cpu with model.onnx",
        )
