"""What is measured: the cases, and the settings of one run."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Final

from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import BackendError, ConfigError
from spoter_toolkit.backends import BACKENDS, split_backend
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED

# The BdSL-SPOTER notebook's own benchmark, on all cores.
NOTEBOOK_BATCH: Final = 16
NOTEBOOK_FRAMES: Final = 100

START_UP_FRAMES: Final = 60  # of the clip that a fresh process answers first, where the contract takes them

WARMUP_CALLS_FIRST: Final = 10  # the notebook's warm-up; before a case's first round
WARMUP_CALLS: Final = 2  # before every later round
WARMUP_S: Final = 0.02  # and at least this long: another worker's threads spin for a while after its turn

_MAX_THREADS: Final = 256
_MAX_ROUNDS: Final = 1000
_MAX_SECONDS: Final = 3600.0


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
        threads: threads inside one operator; None means 1 and all usable cores.
        rounds: how often the backends take their turn at each case.
        seconds_per_case: measured time per case and backend, over all rounds; warm-up comes on top.
        starts: fresh processes per backend for the start-up times.
        reply_timeout_s: a worker that is silent for longer is taken to hang.
        seed: of the bootstrap.

    Raises:
        ConfigError: a value out of range, or one that is named twice.
    """

    backends: tuple[str, ...] = BACKENDS
    batches: tuple[int, ...] = (1, 16)
    frames: tuple[int, ...] = (30, 60, 164)
    threads: tuple[int, ...] | None = None
    rounds: int = 10
    seconds_per_case: float = 2.5
    starts: int = 6
    reply_timeout_s: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.backends:
            try:
                split_backend(name)
            except BackendError as error:
                raise ConfigError(str(error)) from error
        _check_list("backend", self.backends)
        _check_counts("batch", self.batches, limit=None)
        _check_counts("frames", self.frames, limit=None)
        if self.threads is not None:
            _check_counts("threads", self.threads, limit=_MAX_THREADS)
        _check_counts("rounds", (self.rounds,), limit=_MAX_ROUNDS)
        _check_counts("starts", (self.starts,), limit=_MAX_ROUNDS)
        for what, seconds in (
            ("seconds per case", self.seconds_per_case),
            ("reply timeout", self.reply_timeout_s),
        ):
            if not 0 < seconds <= _MAX_SECONDS:
                raise ConfigError(
                    f"{what}: expected more than 0 and at most {_MAX_SECONDS:g} s, got {seconds:g}"
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
        """Return the grid, and the notebook's case wherever the contract allows it.

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
            for threads in self.threads or sorted({1, cores})
            for batch in self.batches
            for frames in self.frames
        ]
        notebook = notebook_case(cores)
        if notebook not in grid and allows(contract, notebook):
            grid.append(notebook)
        return tuple(grid)


# `spoter-kit bench --quick`: a look in half a minute. Six rounds still give the ratios an interval.
QUICK: Final[dict[str, Any]] = {
    "batches": (1,),
    "frames": (60,),
    "rounds": 6,
    "seconds_per_case": 1.0,
    "starts": 2,
}


def notebook_case(cores: int) -> Case:
    """Return the notebook's own case: 16 clips × 100 frames, here with a thread for every usable core."""
    return Case(batch=NOTEBOOK_BATCH, frames=NOTEBOOK_FRAMES, threads=cores)


def allows(contract: GraphContract, case: Case) -> bool:
    """Tell whether a contract takes this batch and these frames."""
    return case.batch <= contract.max_batch and case.frames <= contract.max_frames


def usable_cores() -> int:
    """Return how many logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
