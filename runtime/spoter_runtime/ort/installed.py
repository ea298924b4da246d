"""The ONNX Runtime that is installed: which package, which version, which providers."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Final, Literal

from spoter_runtime.errors import BackendError, require
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
    # Read from the names of their folders, ``onnxruntime_gpu-1.32.0.dist-info``: importing importlib.metadata
    # takes a tenth of a cold start.
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
                    found.setdefault(wanted[name], version)  # the first on the path is what is imported
    return {name: found[name] for name in _DISTRIBUTIONS if name in found}


Provider = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]


# As ONNX Runtime calls them.
PROVIDER_NAMES: Final[dict[Provider, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}


PROVIDERS: Final[tuple[Provider, ...]] = tuple(PROVIDER_NAMES)


def import_onnxruntime(provider: Provider = "cpu") -> Any:
    """Import ONNX Runtime with its telemetry off; refuse when there is none, or more than one.

    Sets ``ORT_DISABLE_TELEMETRY=1`` in this process's environment, unless the user has set it. Warns once
    where ONNX Runtime was imported before without it: its telemetry may be running then.

    Args:
        provider: what it is wanted for; the fix in an error installs a build that has it.

    Raises:
        MissingExtraError: none is installed.
        BackendError: two distributions own the same files, and which one runs is chance; or its files
            are gone.
    """
    extra = "gpu" if provider in ("cuda", "tensorrt") else "cpu"
    found = installed_distributions()
    if len(found) > 1:
        names = ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
        raise BackendError(
            f"{len(found)} distributions of ONNX Runtime are installed and overwrite each other's files: "
            f"{names}",
            fix=f"pip uninstall -y {' '.join(sorted(found))} && pip install 'spoter-kit[{extra}]'",
        )
    too_late = switch_telemetry_off()
    ort = require("onnxruntime", extra=extra)
    if not hasattr(ort, "InferenceSession"):  # Python takes what is left of its folder for a package
        name = next(iter(found), "onnxruntime")
        raise BackendError(
            f"{name} is installed, but its files are gone, as after another build of it was uninstalled",
            fix=f"pip install --force-reinstall --no-deps {name}",
        )
    if too_late and not is_older(ort.__version__, FIRST_WITH_TELEMETRY):
        warn_of_telemetry(ort.__version__)
    return ort


def check_provider(provider: Provider) -> None:
    """Check that this ONNX Runtime has a provider, without loading it, or what is needed to load it.

    Raises:
        MissingExtraError, BackendError: as `import_onnxruntime`; or it has not.
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
    """Return the command that puts the build with CUDA in the place of what is installed."""
    others = " ".join(name for name in sorted(installed_distributions()) if name != "onnxruntime-gpu")
    if others:
        return f"pip uninstall -y {others} && pip install 'spoter-kit[gpu]'"
    return "pip install --force-reinstall --no-deps onnxruntime-gpu"  # it is there, and has lost files


def is_older(version: str, least: str) -> bool:
    """Compare the first two numbers of two versions; nothing is older than an empty one."""
    here, needed = (tuple(int(part) for part in re.findall(r"\d+", text)[:2]) for text in (version, least))
    return here < needed


def check_version(needed: str, version: str, where: str) -> None:
    """Refuse a version that may load a file, and do something else than it says: 1.24 heeds no length.

    Args:
        needed: ``">=1.25"``, or nothing.
        version: of the ONNX Runtime that is here.
        where: how an error names the file.

    Raises:
        BackendError: names the version that the file needs.
    """
    least = needed.removeprefix(">=")
    if is_older(version, least):
        raise BackendError(
            f"{where}: needs onnxruntime {least}, here is {version}",
            fix=f"pip install 'onnxruntime>={least}', or ort-cpu with model.onnx",
        )
