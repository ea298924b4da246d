"""Read the energy meters of this machine: RAPL of the processor, NVML of a GPU; standard library alone."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RAPL: Final = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a meter shows.

    Attributes:
        joules: counted so far, from any beginning.
        wraps_at: the count at which it begins again at 0; None if it does not.
    """

    joules: float
    wraps_at: float | None


def read_meters(rapl: Path = RAPL) -> dict[str, Reading]:
    """Return what every readable meter shows, by name: ``"package-0"``, ``"gpu-0"``.

    The zones inside a processor's package are left out: the package has counted them.
    """
    return _read_rapl(rapl) | _read_nvml()


def used_joules(before: dict[str, Reading], after: dict[str, Reading]) -> dict[str, float]:
    """Return what each meter has counted between two readings; a counter that began again is continued."""
    used = {}
    for name in before.keys() & after.keys():
        joules = after[name].joules - before[name].joules
        if joules < 0:
            joules += after[name].wraps_at or 0.0
        used[name] = joules
    return dict(sorted(used.items()))


def why_not_readable(rapl: Path = RAPL) -> str | None:
    """Say why no meter can be read here; None where one can."""
    if read_meters(rapl):
        return None
    zones = _zones(rapl)
    if not zones:
        processor = f"{rapl.name}: this system shows no RAPL zone, as in most virtual machines"
    else:
        names = " ".join(str(zone / "energy_uj") for zone in zones)
        processor = f"RAPL is there and may not be read. Fix: sudo chmod a+r {names}"
    return f"{processor}; NVML: {_why_no_nvml()}"


def _zones(rapl: Path) -> list[Path]:
    """Return the zones of whole processors: ``intel-rapl:0``, not ``intel-rapl:0:0``; AMD's too."""
    return sorted(zone for zone in rapl.glob("intel-rapl:*") if zone.name.count(":") == 1)


def _read_rapl(rapl: Path) -> dict[str, Reading]:
    readings = {}
    for zone in _zones(rapl):
        try:
            joules = int((zone / "energy_uj").read_text()) / 1e6
            wraps_at = int((zone / "max_energy_range_uj").read_text()) / 1e6
            readings[(zone / "name").read_text().strip()] = Reading(joules=joules, wraps_at=wraps_at)
        except (OSError, ValueError):  # one that may not be read is as good as none
            continue
    return readings


def _read_nvml() -> dict[str, Reading]:
    if importlib.util.find_spec("pynvml") is None:
        return {}
    import pynvml

    readings = {}
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            device: Any = pynvml.nvmlDeviceGetHandleByIndex(index)
            joules = pynvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1e3
            readings[f"gpu-{index}"] = Reading(joules=joules, wraps_at=None)
    except pynvml.NVMLError:  # no driver, or a GPU too old to count
        return {}
    return readings


def _why_no_nvml() -> str:
    if importlib.util.find_spec("pynvml") is None:
        return "the package nvidia-ml-py is not installed"
    return "no NVIDIA driver, or a GPU that does not count its energy"
