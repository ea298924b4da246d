"""Where the figures were measured: processor, memory, system, versions; nothing that names a person."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from spoter_runtime.errors import SpoterError
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.machine import cpu_model, cpuinfo, quota_cores, usable_cores
from spoter_runtime.ort.installed import installed_distributions
from spoter_toolkit.bench.host.monitor import core_mhz

_PACKAGES: Final = ("spoter-kit", "numpy", "torch", "onnx", "tensorrt", "tensorrt-rtx", "cuda-bindings")
_CPUFREQ: Final = Path("/sys/devices/system/cpu/cpu0/cpufreq")


def environment() -> dict[str, Any]:
    """Return plain JSON values that describe this machine; None for what it does not tell.

    No host name, no user name, no path.
    """
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "logical_cores": os.cpu_count(),
        "physical_cores": _physical_cores(),
        "usable_cores": usable_cores(),
        "cpu_quota_cores": _cpu_quota_cores(),
        "governor": _read(_CPUFREQ / "scaling_governor"),
        "frequency_mhz": list(core_mhz() or ()) or None,
        "ram_bytes": _ram_bytes(),
        "system": _system(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gpu": _gpu(),
        "packages": _versions(),
    }


def load_average() -> float | None:
    """Return how many processes wanted to run during the last minute; None where it is not known."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def slug(text: str) -> str:
    """Return a name for a folder: ``Intel(R) Core(TM) i7-1165G7 @ 2.80GHz`` → ``intel-core-i7-1165g7``."""
    plain = re.sub(r"\((r|tm)\)|\b(cpu|processor)\b|@.*", " ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "unnamed"


def without_places(text: str, *paths: Path) -> str:
    """Return an error's text without the folders that lead to its files: they name people and machines.

    Args:
        text: any text.
        paths: files or folders that it may mention; a space in their parents could not be told otherwise.
    """
    for folder in (*(path.absolute().parent for path in paths), Path.cwd(), Path.home()):
        text = text.replace(f"{folder}{os.sep}", "…/")
    return re.sub(r"(?<![\w.…:/])/(?:[^\s/:'\"]+/)+", "…/", text)


def _physical_cores() -> int | None:
    sockets, cores = cpuinfo("physical id"), cpuinfo("core id")
    return len(set(zip(sockets, cores, strict=False))) or None


def _cpu_quota_cores() -> float | str | None:
    """Return how much of the processor a container may use, in cores."""
    quota = quota_cores()
    return "unlimited" if quota == math.inf else quota and round(quota, 2)


def _ram_bytes() -> int | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _gpu() -> dict[str, Any] | None:
    """Return the first GPU that CUDA shows; None where there is none, or nothing that could tell."""
    try:
        return asdict(find_gpu())
    except SpoterError:
        return None


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {**versions, **(installed_distributions() or {"onnxruntime": None})}


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
