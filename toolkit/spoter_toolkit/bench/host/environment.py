"""Describe the machine that figures were measured on; nothing in it names a person."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psutil

from spoter_runtime.errors import SpoterError
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.machine import cpu_model, quota_cores, usable_cores
from spoter_runtime.ort.installed import installed_distributions
from spoter_toolkit.bench.host.monitor import core_mhz

_PACKAGES: Final = (
    "spoter-kit",
    "numpy",
    "torch",
    "onnx",
    "tensorrt",
    "tensorrt-lean-cu12",
    "tensorrt-rtx",
    "cuda-bindings",
)
_GOVERNOR: Final = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def environment() -> dict[str, Any]:
    """Return plain JSON values that describe this machine; None for unknown values.

    No host name, no user name, no path.
    """
    quota, gpu = quota_cores(), None
    with suppress(SpoterError):  # no GPU, or no CUDA to ask
        gpu = asdict(find_gpu())
    system = platform.system()
    with suppress(OSError, KeyError):
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    versions: dict[str, str | None] = dict.fromkeys(_PACKAGES)
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "logical_cores": os.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "usable_cores": usable_cores(),
        "cpu_quota_cores": "unlimited" if quota == math.inf else quota and round(quota, 2),
        "governor": _GOVERNOR.read_text().strip() if _GOVERNOR.is_file() else None,
        "frequency_mhz": list(core_mhz() or ()) or None,
        "ram_bytes": psutil.virtual_memory().total,
        "system": system,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gpu": gpu,
        "packages": {**versions, **(installed_distributions() or {"onnxruntime": None})},
    }


def load_average() -> float | None:
    """Return the load average of the last minute; None if unknown."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
