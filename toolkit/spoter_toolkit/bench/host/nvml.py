"""Read the GPUs' clocks, memory and energy through NVML, if its package and a driver are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuClocks:
    """State of the first GPU; None for values that NVML does not report."""

    sm_mhz: float | None
    memory_mhz: float | None
    temperature_c: float | None
    power_w: float | None


def asked(question: Callable[[Any], Any]) -> Any:
    """Return `question(pynvml)`; None if NVML is missing or reports an error."""
    if importlib.util.find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        return question(pynvml)
    except pynvml.NVMLError:  # no driver, or a GPU that does not know
        return None


def gpu_clocks() -> GpuClocks | None:
    """Return the first GPU's clocks, temperature and power."""
    gpu = asked(lambda nvml: nvml.nvmlDeviceGetHandleByIndex(0))
    if gpu is None:
        return None
    celsius = asked(lambda nvml: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
    power_mw = asked(lambda nvml: nvml.nvmlDeviceGetPowerUsage(gpu))
    return GpuClocks(
        sm_mhz=asked(lambda nvml: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))),
        memory_mhz=asked(lambda nvml: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM))),
        temperature_c=None if celsius is None else float(celsius),
        power_w=None if power_mw is None else power_mw / 1e3,
    )


def gpu_bytes(pid: int) -> int | None:
    """Return the memory of a process on all GPUs; None if NVML does not list the process.

    NVML uses process ids of the host, so inside a container it often does not.
    """

    def held(nvml: Any) -> list[int]:
        processes = (p for gpu in gpus(nvml) for p in nvml.nvmlDeviceGetComputeRunningProcesses(gpu))
        return [p.usedGpuMemory for p in processes if p.pid == pid and p.usedGpuMemory is not None]

    found = asked(held)
    return sum(found) if found else None


def gpu_joules() -> list[float]:
    """Return each GPU's energy counter in joules; empty if NVML reports none."""
    joules = asked(lambda nvml: [nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3 for gpu in gpus(nvml)])
    return joules or []


def gpus(nvml: Any) -> list[Any]:
    """Return NVML's handle of each GPU; `nvml` is the module pynvml after its start."""
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
