"""The facts of this machine that speed depends on; none identifies a person."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")
_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


# CPU features that matrix products depend on; the processor's name does not always imply them.
_FEATURES: Final = {
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve"),
}


def usable_cores() -> int:
    """Return the number of logical cores this process may use; a container's quota is rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores()
    return cores if quota is None else max(1, math.ceil(min(cores, quota)))


def quota_cores() -> float | None:
    """Return a container's CPU quota in cores; None without one."""
    try:
        quota, _, period = _CPU_QUOTA.read_text(encoding="utf-8").partition(" ")
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def cpu_features() -> list[str]:
    """Return the processor's instruction sets for matrix products, by Linux's names."""
    flags = next(iter(cpuinfo("flags") or cpuinfo("Features")), "")
    return sorted(_FEATURES & set(flags.split()))


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    for field in ("model name", "Model", "Hardware"):  # x86; Raspberry Pi and other ARM boards
        if values := cpuinfo(field):
            return values[0]
    return platform.processor() or platform.machine()


def cpuinfo(field: str) -> list[str]:
    """Return a /proc/cpuinfo field for every logical core; empty without that file or field."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return re.findall(rf"^{re.escape(field)}\s*:\s*(.+?)\s*$", text, re.MULTILINE)
