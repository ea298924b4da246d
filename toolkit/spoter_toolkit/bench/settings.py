"""The settings and the cases of one run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import ConfigError, nearest_known
from spoter_runtime.machine import usable_cores
from spoter_toolkit.backends import BACKENDS, split_backend
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED
from spoter_toolkit.data.lengths import ClipLengths
from spoter_toolkit.report.words import plural

# latency: single calls on full clips · offline: many clips of different lengths at once · server: clips that
# arrive at random times · start: a fresh process to its first answer · memory · energy: joules per clip.
Scenario = Literal["latency", "offline", "server", "start", "memory", "energy"]
SCENARIOS: Final[tuple[Scenario, ...]] = get_args(Scenario)

# The BdSL-SPOTER notebook's own benchmark, on all cores.
NOTEBOOK_BATCH: Final = 16
NOTEBOOK_FRAMES: Final = 100

START_UP_FRAMES: Final = 60  # length of the clip for a fresh process, or the contract's most if less

# The cases of the curves, on the fewest threads: one clip of each length, and clips of one length in batches.
CURVE_FRAMES: Final = (8, 16, 30, 60, 100, 164, 299)
CURVE_BATCHES: Final = (1, 2, 4, 8, 16)
CURVE_BATCH_FRAMES: Final = 60

# The warm-up of a turn, as `spoter_toolkit.bench.worker.tasks.warmed_up` takes it: blocks of calls, until the
# medians of two in a row differ by at most the tolerance. Two blocks at least, so that the threads of the
# worker before have stopped spinning. Ten calls before a case's first round are the notebook's.
WARM_UP: Final = {"min_calls": 2, "block_ns": 10_000_000, "limit_ns": 250_000_000, "tolerance": 0.05}
FIRST_WARM_UP: Final = WARM_UP | {"min_calls": 10, "limit_ns": 1_000_000_000}

OFFLINE_CLIPS: Final = 96  # clips of one pass
BOUND_MS: Final = 33.0  # the time between two frames of a camera at 30 frames per second

_MAX_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One workload: `batch` full clips of `frames` frames per call, `threads` threads inside an operator."""

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
    """The settings of one run: backends, cases, scenarios, rounds and times.

    Raises:
        ConfigError: a value out of range, or one that is named twice.
    """

    # as in `spoter_toolkit.backends.open_backend`; the first that runs is the baseline
    backends: tuple[str, ...] = BACKENDS
    batches: tuple[int, ...] = (1, 16)  # clips per call
    frames: tuple[int, ...] = (30, 60, 164)  # frames per clip
    # threads inside one operator; None means all usable cores, and for one clip per call also 1
    threads: tuple[int, ...] | None = None
    scenarios: tuple[Scenario, ...] = SCENARIOS
    notebook: bool = True  # also the notebook's own case
    curve: bool = True  # also cases along the lengths and the batches, on the fewest threads
    floor: bool = True  # also the GEMM roofline of each case: the model's matrix products alone
    rounds: int = 10  # turns of each backend at each case
    seconds_per_case: float = 0.6  # measured time per case and backend, over all rounds; warm-up comes on top
    starts: int = 8  # fresh processes per backend
    # lengths of the clips of `offline`, `server` and `energy`; None for those of the training data
    lengths: ClipLengths | None = None
    offline_batch: int = NOTEBOOK_BATCH  # clips per batch of `offline`, at most what the contract takes
    offline_seconds: float = 3.0  # measured time per padding strategy and backend, over all rounds
    rate: float | None = None  # clips that arrive per second; None for half of the first backend's capacity
    bound_ms: float = BOUND_MS  # time within which an arriving clip should be answered
    find_rate: bool = False  # also search the highest rate that keeps the bound
    server_seconds: float = 10.0  # time of arriving clips per backend, over all rounds
    pin: bool = False  # keep each worker on as many cores as it has threads
    reply_timeout_s: float = 120.0  # a worker that is silent for longer counts as hung
    # time of the whole run, after which only rounds that a claim of the headline needs begin; None: no limit
    limit_s: float | None = None
    seed: int = 0  # seed of the bootstrap, the order of the clips, and their arrival

    def __post_init__(self) -> None:
        for name in self.backends:
            split_backend(backend_of(name))
        for scenario in self.scenarios:
            if scenario not in SCENARIOS:
                raise ConfigError(f"unknown scenario {scenario!r}; {nearest_known(scenario, SCENARIOS)}")
        for what, values, most in (
            ("scenario", self.scenarios, None),
            ("backend", self.backends, None),
            ("batch", self.batches, math.inf),
            ("frames", self.frames, math.inf),
            ("threads", (1,) if self.threads is None else self.threads, 256),
            ("rounds", (self.rounds,), 1000),
            ("starts", (self.starts,), 1000),
            ("offline batch", (self.offline_batch,), math.inf),
        ):
            check_values(what, values, most)
        for what, value, limit, unit in (
            ("seconds per case", self.seconds_per_case, _MAX_SECONDS, "s"),
            ("offline seconds", self.offline_seconds, _MAX_SECONDS, "s"),
            ("server seconds", self.server_seconds, _MAX_SECONDS, "s"),
            ("reply timeout", self.reply_timeout_s, _MAX_SECONDS, "s"),
            ("limit", 1.0 if self.limit_s is None else self.limit_s, _MAX_SECONDS, "s"),
            ("rate", 1.0 if self.rate is None else self.rate, 1e6, "clips a second"),
            ("bound", self.bound_ms, 1000 * _MAX_SECONDS, "ms"),
        ):
            if not 0 < value <= limit:
                raise ConfigError(f"{what}: expected more than 0 and at most {limit:g} {unit}, got {value:g}")
        if self.rate is not None and self.rate * self.server_seconds < SAMPLES_NEEDED[50]:
            raise ConfigError(
                f"rate {self.rate:g}: fewer than the {SAMPLES_NEEDED[50]} clips of a median come in "
                f"{self.server_seconds:g} s",
                fix="a higher rate, or longer",
            )

    @property
    def min_calls_per_round(self) -> int:
        """Fewest calls to measure in a turn: enough for a median over all rounds."""
        return math.ceil(SAMPLES_NEEDED[50] / self.rounds)

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """Threads of the workers, in rising order."""
        return tuple(sorted(self.threads or {1, usable_cores()}))

    def cases(self, contract: GraphContract) -> tuple[Case, ...]:
        """Return the grid, plus the notebook's case and the curves as far as the contract allows.

        Raises:
            ConfigError: the contract does not allow a batch or a number of frames of the grid.
        """
        for what, values, limit in (
            ("batch", self.batches, contract.max_batch),
            ("frames", self.frames, contract.max_frames),
        ):
            if max(values) > limit:
                raise ConfigError(f"{what} {max(values)}: the bundle's contract takes 1..{limit}")
        fewest, most = self.thread_counts[0], self.thread_counts[-1]
        shapes = [
            (batch, frames, threads)
            for threads in self.thread_counts
            for batch in self.batches
            for frames in self.frames
            # Many clips on a single thread are measured by the batch curve.
            if batch == 1 or self.threads is not None or threads == most
        ]
        if self.curve:
            shapes += [(1, frames, fewest) for frames in CURVE_FRAMES]
            shapes += [(batch, CURVE_BATCH_FRAMES, fewest) for batch in CURVE_BATCHES]
        cases = {Case(batch=batch, frames=frames, threads=threads) for batch, frames, threads in shapes}
        if self.notebook:
            cases.add(notebook_case(usable_cores()))
        allowed = [case for case in cases if allows(contract, case)]
        return tuple(sorted(allowed, key=lambda case: (case.threads, case.batch, case.frames)))


# `spoter-kit bench --quick`: a look in about a minute, with the command's start and its report; what does not
# fit in is left out. Eight agreeing rounds are just enough for a claim.
QUICK: Final[dict[str, Any]] = {
    "limit_s": 50.0,
    "scenarios": ("start", "latency", "offline", "memory"),
    "batches": (1,),
    "frames": (60,),
    "curve": False,
    "rounds": 8,
    "seconds_per_case": 0.8,
    "starts": 2,
    "offline_seconds": 0.8,
}


def settings_for(contract: GraphContract, *, quick: bool = False, **asked: Any) -> BenchSettings:
    """Return the settings: the defaults, overridden by the quick ones, overridden by `asked` (None is unset).

    Default batches and frames are cut to the contract's limits. If `asked` sets batches or frames, the curves
    are off unless set too; if it sets rounds or the time of a case, all of them are measured.

    Raises:
        ConfigError: as `BenchSettings`.
    """
    chosen = {name: value for name, value in asked.items() if value is not None}
    if {"rounds", "seconds_per_case"} & chosen.keys():
        chosen.setdefault("limit_s", None)
    if {"batches", "frames"} & chosen.keys():
        chosen.setdefault("curve", False)
    settings = BenchSettings(**((QUICK if quick else {}) | chosen))
    cut: dict[str, Any] = {
        name: tuple(value for value in getattr(settings, name) if value <= limit) or (limit,)
        for name, limit in (("batches", contract.max_batch), ("frames", contract.max_frames))
        if name not in chosen
    }
    return replace(settings, **cut)


def backend_of(name: str) -> str:
    """Return the backend of ``"ort-cpu#2"``: a second worker of the same backend."""
    backend, mark, number = name.partition("#")
    return backend if mark and number.isascii() and number.isdigit() else name


def notebook_case(cores: int) -> Case:
    """Return the notebook's own case: 16 clips × 100 frames, here with a thread for every usable core."""
    return Case(batch=NOTEBOOK_BATCH, frames=NOTEBOOK_FRAMES, threads=cores)


def headline_of(cases: Iterable[Case]) -> Case:
    """Return the case that is said first: one clip of about a second or two, on the fewest threads."""
    return min(cases, key=lambda case: (case.batch, case.threads, abs(case.frames - START_UP_FRAMES)))


def allows(contract: GraphContract, case: Case) -> bool:
    """Return True if a contract takes the batch and the frames of a case."""
    return case.batch <= contract.max_batch and case.frames <= contract.max_frames


def check_values(what: str, values: tuple[Any, ...], most: float | None) -> None:
    """Check that values are not empty, distinct and within 1..most; `most` None checks no range.

    Raises:
        ConfigError: they are not.
    """
    if not values:
        raise ConfigError(f"{what}: expected at least one value, got none")
    if len(set(values)) < len(values):
        raise ConfigError(f"{what}: a value is named twice in {', '.join(map(str, values))}")
    for value in values if most is not None else ():
        if not 1 <= value <= most:
            allowed = "1 or more" if most == math.inf else f"1..{most}"
            raise ConfigError(f"{what}: expected {allowed}, got {value}")
