"""Read the energy meters of this machine: RAPL of the processor, NVML of a GPU."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spoter_runtime.errors import BackendError
from spoter_toolkit.bench.host.nvml import gpu_joules

RAPL: Final = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The reading of an energy meter."""

    joules: float  # counter value, with an arbitrary start
    wraps_at: float | None  # value at which the counter wraps to 0; None if it does not


def read_meters(rapl: Path = RAPL) -> dict[str, Reading]:
    """Return name → reading of every readable meter: ``"package-0"``, ``"gpu-0"``.

    Zones inside a processor's package are left out, because the package includes them.
    """
    readings = {}
    for zone in rapl_zones(rapl):
        try:
            joules = int((zone / "energy_uj").read_text()) / 1e6
            wraps_at = int((zone / "max_energy_range_uj").read_text()) / 1e6
            readings[(zone / "name").read_text().strip()] = Reading(joules=joules, wraps_at=wraps_at)
        except (OSError, ValueError):  # not readable for this user
            continue
    gpus = {f"gpu-{index}": joules for index, joules in enumerate(gpu_joules())}
    return readings | {name: Reading(joules=joules, wraps_at=None) for name, joules in gpus.items()}


def used_joules(before: dict[str, Reading], after: dict[str, Reading]) -> dict[str, float]:
    """Return meter → joules between two readings; handles counters that wrapped."""
    used = {}
    for name in sorted(before.keys() & after.keys()):
        joules = after[name].joules - before[name].joules
        used[name] = joules if joules >= 0 else joules + (after[name].wraps_at or 0.0)
    return used


def why_not_readable(rapl: Path = RAPL) -> str | None:
    """Return why no meter can be read here; None if one can."""
    if read_meters(rapl):
        return None
    if zones := rapl_zones(rapl):
        names = " ".join(str(zone / "energy_uj") for zone in zones)
        processor = str(BackendError("RAPL is there and may not be read", fix=f"sudo chmod a+r {names}"))
    else:
        processor = f"{rapl.name}: this system shows no RAPL zone, as in most virtual machines"
    if importlib.util.find_spec("pynvml") is None:
        return f"{processor}; NVML: the package nvidia-ml-py is not installed"
    return f"{processor}; NVML: no NVIDIA driver, or a GPU that does not count its energy"


def rapl_zones(rapl: Path) -> list[Path]:
    """Return the zones of whole processors: ``intel-rapl:0``, not ``intel-rapl:0:0``; AMD's too."""
    return sorted(zone for zone in rapl.glob("intel-rapl:*") if zone.name.count(":") == 1)
