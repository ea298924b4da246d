"""Measure the machine's speed and the load by other programs before each round."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import psutil

from spoter_toolkit.bench.host.nvml import GpuClocks, gpu_clocks

_LOOPS: Final = 7
_LOOP_STEPS: Final = 40_000  # about 2 ms on the machines of 2020


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRound:
    """State of the machine at the beginning of a round; None for unknown values."""

    scenario: str  # scenario of the round
    round: int  # from 1
    loop_ns: tuple[int, ...]  # times of a fixed loop of Python
    mhz: tuple[int, ...] | None  # frequency of each core
    # share of the processor's time since the round before that other guests of the host took
    steal_share: float | None
    others_cores: float | None  # cores that processes outside this run have used since then
    gpu: GpuClocks | None  # the first GPU's clocks


class MachineWatch:
    """Reads the machine's state before each round; load is counted since the previous reading."""

    def __init__(self) -> None:
        self._before: tuple[Any, dict[int, float]] | None = None

    def look(self, scenario: str, number: int, pids: Iterable[int]) -> MachineRound:
        """Return the machine's state before a round of the workers `pids`; takes some 15 ms."""
        loop_ns = tuple(fixed_loop_ns() for _ in range(_LOOPS))
        steal, others = self._since_before([os.getpid(), *pids])
        return MachineRound(
            scenario=scenario,
            round=number,
            loop_ns=loop_ns,
            mhz=core_mhz(),
            steal_share=steal,
            others_cores=others,
            gpu=gpu_clocks(),
        )

    def _since_before(self, pids: Iterable[int]) -> tuple[float | None, float | None]:
        """Return the share of stolen time, and the cores used by others, since the previous reading."""
        now, own_s = psutil.cpu_times(), {pid: process_s(pid) for pid in pids}
        before, self._before = self._before, (now, own_s)
        if before is None:
            return None, None
        # The following fields, `guest` and `guest_nice`, are already counted in `user` and `nice`.
        passed = {name: getattr(now, name) - getattr(before[0], name) for name in now._fields[:8]}
        total = sum(passed.values())
        if total <= 0:
            return None, None
        own = sum(seconds - before[1].get(pid, 0.0) for pid, seconds in own_s.items())
        steal, idle = passed.get("steal", 0.0), passed["idle"] + passed.get("iowait", 0.0)
        others = max(0.0, total - idle - steal - own)
        return round(steal / total, 4), round(others / total * (os.cpu_count() or 1), 3)


def process_s(pid: int) -> float:
    """Return the processor time of a process in seconds; 0 if it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def pss_bytes(pid: int) -> int | None:
    """Return a process's proportional set size (PSS); None except on Linux."""
    try:
        return getattr(psutil.Process(pid).memory_full_info(), "pss", None)
    except psutil.Error:
        return None


def fixed_loop_ns() -> int:
    """Return the time of a loop with a fixed amount of work."""
    begin_ns = time.perf_counter_ns()
    value = 1
    for _ in range(_LOOP_STEPS):
        value = value * 48_271 % 2_147_483_647
    return time.perf_counter_ns() - begin_ns


def core_mhz() -> tuple[int, ...] | None:
    """Return the current frequency of each core; None if unknown."""
    try:
        return tuple(round(core.current) for core in psutil.cpu_freq(percpu=True)) or None
    except (OSError, NotImplementedError):  # not readable in some containers
        return None
