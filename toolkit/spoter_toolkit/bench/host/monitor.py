"""How fast the machine was before each round, and what else ran on it; None for what is not told."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Final

_LOOPS: Final = 7
_LOOP_STEPS: Final = 40_000  # about 2 ms on the machines of 2020
_PROC: Final = Path("/proc")
_CPU: Final = Path("/sys/devices/system/cpu")
_SMI_TIMEOUT_S: Final = 10.0
_SMI_FIELDS: Final = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuClocks:
    """The first GPU's state at a moment, as nvidia-smi (NVML) gives it; None for what it does not."""

    sm_mhz: float | None
    memory_mhz: float | None
    temperature_c: float | None
    power_w: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRound:
    """The machine at the beginning of a round.

    Attributes:
        scenario: what is measured in that round.
        round: from 1.
        loop_ns: times of a fixed loop of Python, which always does the same.
        mhz: frequency of each core.
        steal_share: of the processor's time since the round before, taken by other guests of the host.
        others_cores: how many cores processes that are not of this run have used since then.
        gpu: the GPU's clocks; None where there is no nvidia-smi.
    """

    scenario: str
    round: int
    loop_ns: tuple[int, ...]
    mhz: tuple[int, ...] | None
    steal_share: float | None
    others_cores: float | None
    gpu: GpuClocks | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ticks:
    """Clock ticks since the machine started, summed over its cores, and those of this run's processes."""

    total: int
    idle: int
    steal: int
    own: dict[int, int]


class MachineWatch:
    """Looks at the machine once a round, and remembers the look before."""

    def __init__(self) -> None:
        """Begin: the first look has nothing to compare with."""
        self._before: _Ticks | None = None

    def look(self, scenario: str, number: int, pids: Iterable[int]) -> MachineRound:
        """Return the machine's state; takes some 15 ms.

        Args:
            scenario: what the coming round measures.
            number: of the round, from 1.
            pids: the workers, whose work is not that of others.
        """
        loop_ns = tuple(_loop_ns() for _ in range(_LOOPS))
        now = _ticks([os.getpid(), *pids])
        steal, others = _between(self._before, now)
        self._before = now
        return MachineRound(
            scenario=scenario,
            round=number,
            loop_ns=loop_ns,
            mhz=core_mhz(),
            steal_share=steal,
            others_cores=others,
            gpu=gpu_clocks(),
        )


def _loop_ns() -> int:
    begin_ns = time.perf_counter_ns()
    value = 1
    for _ in range(_LOOP_STEPS):
        value = value * 48_271 % 2_147_483_647
    return time.perf_counter_ns() - begin_ns


def loop_ms(rounds: Iterable[MachineRound]) -> float | None:
    """Return the fixed loop's median time over a run; None without rounds."""
    times = [ns for state in rounds for ns in state.loop_ns]
    return statistics.median(times) / 1e6 if times else None


def core_mhz() -> tuple[int, ...] | None:
    """Return every core's frequency at this moment."""
    files = sorted(_CPU.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    texts = [text for file in files if (text := _read(file))]
    if texts:
        return tuple(int(khz) // 1000 for khz in texts)
    found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _read(_PROC / "cpuinfo") or "", re.MULTILINE)
    return tuple(round(float(mhz)) for mhz in found) or None


def gpu_clocks() -> GpuClocks | None:
    """Return the first GPU's clocks, temperature and power."""
    rows = _nvidia_smi(f"--query-gpu={','.join(_SMI_FIELDS)}")
    if not rows or len(rows[0]) != len(_SMI_FIELDS):
        return None
    sm, memory, temperature, power = (_number(cell) for cell in rows[0])
    return GpuClocks(sm_mhz=sm, memory_mhz=memory, temperature_c=temperature, power_w=power)


def gpu_bytes(pid: int) -> int | None:
    """Return the GPU memory that a process holds; None where nvidia-smi does not list it.

    In a container it often does not: it knows the processes by the numbers they have outside.
    """
    found = [
        mebibytes
        for row in _nvidia_smi("--query-compute-apps=pid,used_memory")
        if len(row) == 2 and row[0] == str(pid) and (mebibytes := _number(row[1])) is not None
    ]
    return round(sum(found) * 2**20) if found else None


def _nvidia_smi(query: str) -> list[list[str]]:
    """Return the rows that nvidia-smi prints; none where it is not there or fails."""
    program = which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_SMI_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:  # "[N/A]"
        return None


def _ticks(pids: Iterable[int]) -> _Ticks | None:
    line = (_read(_PROC / "stat") or "").partition("\n")[0].split()
    if len(line) < 9:
        return None
    user, nice, system, idle, waiting, irq, softirq, steal = map(int, line[1:9])
    total = user + nice + system + idle + waiting + irq + softirq + steal
    own = {pid: ticks for pid in pids if (ticks := _process_ticks(pid)) is not None}
    return _Ticks(total=total, idle=idle + waiting, steal=steal, own=own)


def _process_ticks(pid: int) -> int | None:
    text = _read(_PROC / str(pid) / "stat")
    if text is None:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return int(fields[11]) + int(fields[12])


def _between(before: _Ticks | None, now: _Ticks | None) -> tuple[float | None, float | None]:
    """Return the share of stolen time between two looks, and the cores that others used."""
    if before is None or now is None or now.total <= before.total:
        return None, None
    passed = now.total - before.total
    steal = now.steal - before.steal
    own = sum(ticks - before.own.get(pid, 0) for pid, ticks in now.own.items())
    others = max(0, passed - (now.idle - before.idle) - steal - own)
    cores = others / passed * (os.cpu_count() or 1)
    return round(steal / passed, 4), round(cores, 3)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
