"""The records of a run: raw samples of each scenario, lost workers, skipped backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal

import numpy as np

from spoter_runtime.contract import GraphContract
from spoter_toolkit.bench.host.monitor import MachineRound
from spoter_toolkit.bench.settings import BenchSettings, Case, notebook_case
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED
from spoter_toolkit.data.lengths import ClipLengths

Rounds = tuple[tuple[int, ...], ...]  # nanoseconds of each call, round by round

# longest: in the given order, all padded to the longest of the set · batch: in the given order, each batch
# padded to its longest · sorted: by length first, so that a batch holds clips of about one length.
PaddingStrategy = Literal["longest", "batch", "sorted"]
STRATEGY_IN_WORDS: Final[dict[PaddingStrategy, str]] = {
    "longest": "padded to the longest clip",
    "batch": "padded to the batch's longest",
    "sorted": "sorted by length, in batches",
}
PADDING_STRATEGIES: Final = tuple(STRATEGY_IN_WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The calls of one backend on one case."""

    backend: str
    case: Case
    rounds_ns: Rounds
    warmup_calls: tuple[int, ...] = ()  # unmeasured calls before each round
    unsettled: tuple[int, ...] = ()  # rounds, from 1, whose warm-up ended at its time limit

    @property
    def samples_ns(self) -> list[int]:
        """All measured calls in order."""
        return list(chain.from_iterable(self.rounds_ns))


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflinePasses:
    """The passes of one backend with one padding strategy; all over the same clips."""

    backend: str
    threads: int
    strategy: PaddingStrategy
    clips: int
    padding: float  # share of padding among the computed frames
    rounds_ns: Rounds  # wall time of every pass, round by round
    # energy meter → joules of each round; empty if no meter was read
    joules: tuple[dict[str, float], ...] = ()

    @property
    def passes(self) -> int:
        """Number of passes in all rounds."""
        return sum(map(len, self.rounds_ns))

    @property
    def clips_per_s(self) -> float:
        """Clips answered per second of measured time."""
        return 1e9 * self.clips * self.passes / sum(chain.from_iterable(self.rounds_ns))

    @property
    def joules_per_clip(self) -> dict[str, float]:
        """Energy meter → joules per clip, over all rounds."""
        meters = dict.fromkeys(name for joules in self.joules for name in joules)
        clips = self.clips * self.passes
        return {name: sum(joules.get(name, 0.0) for joules in self.joules) / clips for name in meters}


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The answers of one backend at one arrival rate: their latencies, and how many are missing."""

    backend: str
    threads: int
    rate: float  # clips due per second, on average
    bound_ms: float
    rounds_ns: Rounds  # latency of every answered clip from the moment it was due, round by round
    unanswered: tuple[int, ...]  # clips without an answer after twice the time, round by round
    elapsed_ns: tuple[int, ...]  # from a round's beginning to its last answer

    @property
    def clips(self) -> int:
        """Number of clips that were due, answered or not."""
        return sum(map(len, self.rounds_ns)) + sum(self.unanswered)

    @property
    def achieved_rate(self) -> float:
        """Clips answered per second."""
        return 1e9 * sum(map(len, self.rounds_ns)) / sum(self.elapsed_ns)

    @property
    def share_within(self) -> float:
        """Share of all due clips that were answered within the bound."""
        return sum(ns <= 1e6 * self.bound_ms for ns in chain.from_iterable(self.rounds_ns)) / self.clips

    def percentile_ms(self, percent: int) -> float | None:
        """Return the percentile 50, 90 or 99; None with too few clips, infinite with too few answers."""
        if self.clips < SAMPLES_NEEDED[percent]:
            return None
        latencies = [*chain.from_iterable(self.rounds_ns), *[math.inf] * sum(self.unanswered)]
        return float(np.percentile(latencies, percent, method="higher")) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class HighestRate:
    """The highest rate at which a backend keeps the latency bound, found by bisection."""

    backend: str
    # the percentile that must be within the bound: 99 if half the capacity gives enough clips for it in the
    # shortest trial, else 90
    percent: int
    rate: float | None  # None if even the lowest rate tried breaks the bound
    # (rate, percentile in ms, whether it was within the bound), in order of the trials
    trials: tuple[tuple[float, float | None, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """The records of the scenario `server`; `capacity` is backend → clips per second without a pause."""

    capacity: dict[str, float]
    served: tuple[Served, ...]
    highest: tuple[HighestRate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A fresh process from its creation to its first answer for one clip."""

    total_ns: int  # on the clock of the program that started it
    import_ns: int  # importing the engine
    load_ns: int  # reading the bundle, loading the model
    first_ns: int  # the first call

    @property
    def process_ns(self) -> int:
        """The remaining time: creating the process, starting Python, the pipe."""
        return self.total_ns - self.import_ns - self.load_ns - self.first_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peak resident memory of one worker at four moments, in bytes; None if it cannot be read."""

    backend: str
    threads: int
    at_start: int | None
    imported: int | None
    loaded: int | None
    after_runs: int | None
    # proportional set size at the end: pages shared with other processes are divided by their number
    pss: int | None = None
    # GPU memory at the end: as NVML lists it for the process, else the most that torch has reserved
    gpu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A lost worker: its step, and how it died or hung."""

    backend: str
    threads: int
    doing: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRecords:
    """All measurements of one run, and why others are missing."""

    bundle: str  # the bundle's name
    model_sha256: str  # hash of its fp32 ONNX file
    month: str  # ``2026-11``
    settings: BenchSettings
    contract: GraphContract
    environment: dict[str, Any]
    model_bytes: dict[str, int]  # backend → size of the file it loads
    timings: tuple[Timing, ...] = ()  # in the order of the cases, backend by backend
    roofline: tuple[Timing, ...] = ()  # timings of the cases' matrix products alone
    # backend → one entry per fresh process, which answers one clip of `start_frames`
    starts: dict[str, tuple[Start, ...]]
    start_frames: int
    memory: tuple[Memory, ...] = ()
    skipped: dict[str, str]  # backend → why it cannot run here
    failures: tuple[Failure, ...] = ()  # lost workers; their earlier samples are kept
    lengths: ClipLengths | None = None  # lengths of the clips of `offline`, `server` and `energy`
    offline: tuple[OfflinePasses, ...] = ()
    server: ServerRecord | None = None
    # offline passes with joules; empty if no meter can be read, for the reason `no_energy`
    energy: tuple[OfflinePasses, ...] = ()
    no_energy: str | None = None
    machine: tuple[MachineRound, ...] = ()
    # (completed steps, all steps) if the run was stopped early
    stopped_after: tuple[int, int] | None = None
    cut_after: tuple[int, int] | None = None  # the same if the time of `settings.limit_s` was over before

    @property
    def backends(self) -> list[str]:
        """The backends that ran, the baseline first."""
        groups: tuple[Sequence[Any], ...]
        groups = self.timings, self.offline, self.energy, self.served, self.memory
        ran = {one.backend for group in groups for one in group}
        return [name for name in self.settings.backends if name in self.starts or name in ran]

    @property
    def served(self) -> Sequence[Served]:
        """The records of arriving clips of each backend; empty without the scenario `server`."""
        return self.server.served if self.server else ()

    @property
    def notebook_case(self) -> Case:
        """The notebook's case on all cores of the machine that was measured."""
        return notebook_case(self.environment["usable_cores"])
