"""What this machine is, as far as speed depends on it; nothing that names a person."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """Return how many logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
