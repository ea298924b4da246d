"""What this machine is, as far as speed depends on it; nothing that names a person."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")
_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


# What the speed of matrix products depends on, and a processor's name does not always tell.
_FEATURES: Final = {
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve"),
}


def usable_cores() -> int:
    """Return how many logical cores this process may keep busy, a container's quota rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores()
    return cores if quota is None else max(1, math.ceil(min(cores, quota)))


def quota_cores() -> float | None:
    """Return how much of the processor a container may use, in cores; None where the system does not tell."""
    try:
        quota, _, period = _CPU_QUOTA.read_text(encoding="utf-8").partition(" ")
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def cpu_features() -> list[str]:
    """Return the instructions for matrix products that the processor has, as Linux names them."""
    flags = next(iter(cpuinfo("flags") or cpuinfo("Features")), "")
    return sorted(_FEATURES & set(flags.split()))


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    for field in ("model name", "Model", "Hardware"):  # x86; Raspberry Pi and other ARM boards
        if values := cpuinfo(field):
            return values[0]
    return platform.processor() or platform.machine()


def cpuinfo(field: str) -> list[str]:
    """Return a field's value for every logical core, empty where the system does not tell."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return re.findall(rf"^{re.escape(field)}\s*:\s*(.+?)\s*$", text, re.MULTILINE)
