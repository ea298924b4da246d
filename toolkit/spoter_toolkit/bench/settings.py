"""What is measured: the cases, and the settings of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import ConfigError, nearest_known
from spoter_runtime.machine import usable_cores
from spoter_toolkit.backends import BACKENDS, split_backend
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED
from spoter_toolkit.data.lengths import ClipLengths

# latency: single calls on full clips · offline: many clips of different lengths at once · server: clips that
# arrive at random times · start: a cold process to its first answer · memory · energy: joules a clip.
Scenario = Literal["latency", "offline", "server", "start", "memory", "energy"]
SCENARIOS: Final[tuple[Scenario, ...]] = get_args(Scenario)

# The BdSL-SPOTER notebook's own benchmark, on all cores.
NOTEBOOK_BATCH: Final = 16
NOTEBOOK_FRAMES: Final = 100

START_UP_FRAMES: Final = 60  # of the clip that a fresh process answers first, where the contract takes them

# The cases of the curves, at the fewest threads: one clip of each length, and clips of one length in batches.
CURVE_FRAMES: Final = (8, 16, 30, 60, 100, 164, 299)
CURVE_BATCHES: Final = (1, 2, 4, 8, 16)
CURVE_BATCH_FRAMES: Final = 60

WARMUP_CALLS_FIRST: Final = 10  # the notebook's warm-up; before a case's first round
WARMUP_CALLS: Final = 2  # before every later round
# Blocks of calls, until the medians of two in a row differ by so little. Two blocks at least, so that the
# threads of the worker before have stopped spinning.
WARMUP_BLOCK_S: Final = 0.01
WARMUP_TOLERANCE: Final = 0.05
WARMUP_LIMIT_FIRST_S: Final = 1.0
WARMUP_LIMIT_S: Final = 0.25

OFFLINE_CLIPS: Final = 96  # of one pass
BOUND_MS: Final = 33.0  # one frame of a camera at 30 a second: the answer is there before the next one

_MAX_THREADS: Final = 256
_MAX_ROUNDS: Final = 1000
_MAX_SECONDS: Final = 3600.0
_MAX_RATE: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One shape of work: `batch` full clips of `frames` frames, `threads` threads in an operator."""

    batch: int
    frames: int
    threads: int

    @property
    def shape(self) -> str:
        """``16 × 100``: clips × frames."""
        return f"{self.batch} × {self.frames}"

    def __str__(self) -> str:
        return f"{self.shape} on {plural(self.threads, 'thread')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What to measure and for how long.

    Attributes:
        backends: names as `spoter_toolkit.backends.open_backend` takes them; the first that runs is what the
            others are compared with.
        batches: clips per call.
        frames: frames per clip.
        threads: threads inside one operator; None means all usable cores, and for one clip a call also 1.
        scenarios: what to measure.
        notebook: also the notebook's own case.
        curve: also cases along the lengths and the batches, at the fewest threads.
        floor: also the model's matrix products alone, as the limit of each case.
        rounds: how often the backends take their turn at each case.
        seconds_per_case: measured time per case and backend, over all rounds; warm-up comes on top.
        starts: fresh processes per backend for the start-up times.
        lengths: of the clips of `offline` and `server`; None for those of the bundle's training data, or
            generated ones.
        offline_batch: clips per batch of `offline`, at most what the contract takes.
        offline_seconds: measured time per way and backend of `offline`, over all rounds.
        rate: clips that arrive per second; None for half of what the first backend can do.
        bound_ms: within this time an answer is wanted.
        find_rate: also look for the highest rate that keeps the bound.
        server_seconds: clips arrive for so long, per backend and over all rounds.
        pin: keep each worker on as many cores as it has threads.
        reply_timeout_s: a worker that is silent for longer is taken to hang.
        seed: of the bootstrap, of the order of the clips, and of their arrival.

    Raises:
        ConfigError: a value out of range, or one that is named twice.
    """

    backends: tuple[str, ...] = BACKENDS
    batches: tuple[int, ...] = (1, 16)
    frames: tuple[int, ...] = (30, 60, 164)
    threads: tuple[int, ...] | None = None
    scenarios: tuple[Scenario, ...] = SCENARIOS
    notebook: bool = True
    curve: bool = True
    floor: bool = True
    rounds: int = 10
    seconds_per_case: float = 0.6
    starts: int = 8
    lengths: ClipLengths | None = None
    offline_batch: int = NOTEBOOK_BATCH
    offline_seconds: float = 3.0
    rate: float | None = None
    bound_ms: float = BOUND_MS
    find_rate: bool = False
    server_seconds: float = 10.0
    pin: bool = False
    reply_timeout_s: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.backends:
            split_backend(backend_of(name))
        for scenario in self.scenarios:
            if scenario not in SCENARIOS:
                raise ConfigError(f"unknown scenario {scenario!r}; {nearest_known(scenario, SCENARIOS)}")
        _check_list("scenario", self.scenarios)
        _check_list("backend", self.backends)
        _check_counts("batch", self.batches, limit=None)
        _check_counts("frames", self.frames, limit=None)
        if self.threads is not None:
            _check_counts("threads", self.threads, limit=_MAX_THREADS)
        _check_counts("rounds", (self.rounds,), limit=_MAX_ROUNDS)
        _check_counts("starts", (self.starts,), limit=_MAX_ROUNDS)
        _check_counts("offline batch", (self.offline_batch,), limit=None)
        for what, value, most, unit in (
            ("seconds per case", self.seconds_per_case, _MAX_SECONDS, "s"),
            ("offline seconds", self.offline_seconds, _MAX_SECONDS, "s"),
            ("server seconds", self.server_seconds, _MAX_SECONDS, "s"),
            ("reply timeout", self.reply_timeout_s, _MAX_SECONDS, "s"),
            ("rate", 1.0 if self.rate is None else self.rate, _MAX_RATE, "clips a second"),
            ("bound", self.bound_ms, 1000 * _MAX_SECONDS, "ms"),
        ):
            if not 0 < value <= most:
                raise ConfigError(f"{what}: expected more than 0 and at most {most:g} {unit}, got {value:g}")
        if self.rate is not None and self.rate * self.server_seconds < SAMPLES_NEEDED[50]:
            raise ConfigError(
                f"rate {self.rate:g}: fewer than the {SAMPLES_NEEDED[50]} clips of a median come in "
                f"{self.server_seconds:g} s",
                fix="a higher rate, or longer",
            )

    @property
    def seconds_per_round(self) -> float:
        """Measured time of one turn at one case."""
        return self.seconds_per_case / self.rounds

    @property
    def min_calls_per_round(self) -> int:
        """So many calls are measured in a turn, however slow they are: enough for the median at the end."""
        return math.ceil(SAMPLES_NEEDED[50] / self.rounds)

    def cases(self, contract: GraphContract) -> tuple[Case, ...]:
        """Return the grid, and the notebook's case and the curves as far as the contract allows them.

        Raises:
            ConfigError: the contract does not allow a batch or a number of frames.
        """
        for what, values, limit in (
            ("batch", self.batches, contract.max_batch),
            ("frames", self.frames, contract.max_frames),
        ):
            if max(values) > limit:
                raise ConfigError(f"{what} {max(values)}: the bundle's contract takes 1..{limit}")
        cores = usable_cores()
        grid = [
            Case(batch=batch, frames=frames, threads=threads)
            for threads in self.thread_counts
            for batch in self.batches
            for frames in self.frames
            # Many clips on one thread of several are what the curve along the batches shows.
            if batch == 1 or self.threads is not None or threads == self.thread_counts[-1]
        ]
        others = [notebook_case(cores)] if self.notebook else []
        others += self._curve() if self.curve else ()
        grid += [case for case in others if allows(contract, case)]
        return tuple(sorted(set(grid), key=lambda case: (case.threads, case.batch, case.frames)))

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """Threads of the workers, in rising order."""
        return tuple(sorted(self.threads or {1, usable_cores()}))

    def _curve(self) -> list[Case]:
        threads = self.thread_counts[0]
        lengths = [Case(batch=1, frames=frames, threads=threads) for frames in CURVE_FRAMES]
        batches = [Case(batch=batch, frames=CURVE_BATCH_FRAMES, threads=threads) for batch in CURVE_BATCHES]
        return lengths + batches


# `spoter-kit bench --quick`: a look in half a minute. Eight rounds that agree are just enough for a verdict.
QUICK: Final[dict[str, Any]] = {
    "scenarios": ("start", "latency", "offline", "memory"),
    "batches": (1,),
    "frames": (60,),
    "curve": False,
    "rounds": 8,
    "seconds_per_case": 0.8,
    "starts": 2,
    "offline_seconds": 0.8,
}


def backend_of(name: str) -> str:
    """Return the backend of ``"ort-cpu#2"``: a second worker of it, for what equal ones differ by."""
    backend, mark, number = name.partition("#")
    return backend if mark and number.isascii() and number.isdigit() else name


def warm_up(first: bool) -> dict[str, float | int]:
    """Return the warm-up of a turn, as `spoter_toolkit.bench.worker.tasks.warmed_up` takes it."""
    return {
        "min_calls": WARMUP_CALLS_FIRST if first else WARMUP_CALLS,
        "block_ns": round(1e9 * WARMUP_BLOCK_S),
        "limit_ns": round(1e9 * (WARMUP_LIMIT_FIRST_S if first else WARMUP_LIMIT_S)),
        "tolerance": WARMUP_TOLERANCE,
    }


def notebook_case(cores: int) -> Case:
    """Return the notebook's own case: 16 clips × 100 frames, here with a thread for every usable core."""
    return Case(batch=NOTEBOOK_BATCH, frames=NOTEBOOK_FRAMES, threads=cores)


def allows(contract: GraphContract, case: Case) -> bool:
    """Tell whether a contract takes this batch and these frames."""
    return case.batch <= contract.max_batch and case.frames <= contract.max_frames


def plural(count: int, noun: str) -> str:
    """Return ``1 thread``, ``2 threads``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _check_list(what: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise ConfigError(f"{what}: expected at least one value, got none")
    if len(set(values)) < len(values):
        raise ConfigError(f"{what}: a value is named twice in {', '.join(map(str, values))}")


def _check_counts(what: str, values: tuple[int, ...], *, limit: int | None) -> None:
    _check_list(what, values)
    for value in values:
        if value < 1 or (limit is not None and value > limit):
            allowed = "1 or more" if limit is None else f"1..{limit}"
            raise ConfigError(f"{what}: expected {allowed}, got {value}")
