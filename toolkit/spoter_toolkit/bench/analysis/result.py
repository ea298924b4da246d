"""What a run has found, as data; the summaries are computed from the raw samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import median
from typing import Any, Final

from spoter_toolkit.backends import CPU_BACKENDS, split_backend
from spoter_toolkit.bench.analysis.drift import Drift, find_drift
from spoter_toolkit.bench.analysis.verdict import verdict
from spoter_toolkit.bench.host.monitor import MachineRound
from spoter_toolkit.bench.scenarios.offline import WAYS_IN_WORDS, Offline
from spoter_toolkit.bench.scenarios.server import ServerResult
from spoter_toolkit.bench.settings import BenchSettings, Case, backend_of, notebook_case, plural
from spoter_toolkit.bench.statistics import Ratio, paired_ratio, percentile_ms
from spoter_toolkit.data.lengths import ClipLengths

# The notebook's targets for its own case.
MAX_BATCH_MS: Final = 100.0
MAX_MEMORY_MB: Final = 4000.0
MAX_MODEL_MB: Final = 50.0
MIN_CLIPS_PER_S: Final = 10.0

START_UP: Final = "start-up"
START_PARTS: Final = ("total", "process", "import", "load", "first")

NOT_MEASURED: Final = (
    "several callers of one model at once",
    "a start from a disk that has not been read before (only the first start of a backend may be one)",
)

Rounds = tuple[tuple[int, ...], ...]  # nanoseconds of each call, round by round


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One backend on one case.

    Attributes:
        rounds_ns: the nanoseconds of every measured call, round by round.
        warmup_calls: calls before them that were not measured.
        unsettled: rounds, from 1, before which the speed did not stand still within the warm-up's limit.
    """

    backend: str
    case: Case
    rounds_ns: Rounds
    warmup_calls: tuple[int, ...] = ()
    unsettled: tuple[int, ...] = ()

    def with_round(self, samples_ns: Sequence[int], warm: dict[str, Any]) -> Timing:
        """Return the timing with another round, and the warm-up before it as the worker tells it."""
        number = len(self.rounds_ns) + 1
        return replace(
            self,
            rounds_ns=(*self.rounds_ns, tuple(samples_ns)),
            warmup_calls=(*self.warmup_calls, warm["calls"]),
            unsettled=self.unsettled if warm["settled"] else (*self.unsettled, number),
        )

    @property
    def samples_ns(self) -> list[int]:
        """All measured calls, in the order they were made."""
        return list(chain.from_iterable(self.rounds_ns))

    def percentile_ms(self, percent: int) -> float | None:
        """Return p50, p90 or p99 of a call in milliseconds, None with too few samples for it."""
        return percentile_ms(self.samples_ns, percent)

    @property
    def clips_per_s(self) -> float:
        """Clips answered in the measured time."""
        samples_ns = self.samples_ns
        return 1e9 * self.case.batch * len(samples_ns) / sum(samples_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A fresh process from its creation to its first answer for one clip.

    Attributes:
        total_ns: seen from outside, on the clock of the program that started it.
        import_ns: importing the engine.
        load_ns: reading the bundle, loading the model.
        first_ns: the first call.
    """

    total_ns: int
    import_ns: int
    load_ns: int
    first_ns: int

    @property
    def process_ns(self) -> int:
        """The rest: making the process, starting Python, the pipe."""
        return self.total_ns - self.import_ns - self.load_ns - self.first_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peak resident memory of one worker at four moments, in bytes; None where it cannot be read.

    Attributes:
        pss: at the end, what it holds, pages that it shares with others divided by their number.
        gpu: GPU memory at the end: as NVML lists it for the process, else what torch has reserved at most.
    """

    backend: str
    threads: int
    at_start: int | None
    imported: int | None
    loaded: int | None
    after_runs: int | None
    pss: int | None = None
    gpu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A worker that died or hung, what it was doing, and how it ended."""

    backend: str
    threads: int
    doing: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Time of `baseline` ÷ time of `backend`: above 1 where `backend` is the faster one.

    Attributes:
        what: what both did: a case's shape, `START_UP`, ``"offline, …"``, ``"server"``.
        threads: of the workers; None for the start-up.
        case: for a case, else None.
    """

    what: str
    threads: int | None
    case: Case | None
    baseline: str
    backend: str
    ratio: Ratio

    @property
    def verdict(self) -> str:
        """What it says about `backend`, in words; see `spoter_toolkit.bench.analysis.verdict`."""
        return verdict(self.ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorRatio:
    """Time of `backend` ÷ time of the case's matrix products alone."""

    case: Case
    backend: str
    floor_ms: float
    ratio: Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """A series of rounds that changed its speed; `backend` is None for the machine itself."""

    backend: str | None
    what: str
    drift: Drift

    def __str__(self) -> str:
        return f"{self.backend or 'the machine'}, {self.what}: {self.drift}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One of the notebook's four targets for one backend.

    Attributes:
        value: in the unit that `name` states; None where it was not measured, as is `passed`.
    """

    name: str
    value: float | None
    passed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Everything one run has measured, and what it could not.

    Attributes:
        bundle: the bundle's name.
        model_sha256: of its fp32 ONNX file.
        month: ``2026-11``.
        model_bytes: backend → size of the file it loads.
        timings: in the order of the cases, backend by backend.
        floor: the matrix products of the cases alone.
        starts: backend → one entry per fresh process.
        start_frames: frames of the one clip that a fresh process answers.
        skipped: backend → why it cannot run here.
        failures: workers that were lost on the way; what they had measured is kept.
        remarks: what a reader must know to judge the figures.
        lengths: of the clips of `offline`, `server` and `energy`; None where none of them was asked for.
        offline: in the order of the ways, backend by backend.
        server: None where it was not asked for.
        energy: offline passes with what the meters counted; empty where none can be read.
        no_energy: why no meter can be read; None where one was, or energy was not asked for.
        machine: how fast the machine was before each round.
        stopped_after: steps that were done of all, where the run was stopped early.
    """

    bundle: str
    model_sha256: str
    month: str
    settings: BenchSettings
    environment: dict[str, Any]
    model_bytes: dict[str, int]
    timings: tuple[Timing, ...]
    starts: dict[str, tuple[Start, ...]]
    start_frames: int
    memory: tuple[Memory, ...]
    skipped: dict[str, str]
    failures: tuple[Failure, ...]
    remarks: tuple[str, ...]
    floor: tuple[Timing, ...] = ()
    lengths: ClipLengths | None = None
    offline: tuple[Offline, ...] = ()
    server: ServerResult | None = None
    energy: tuple[Offline, ...] = ()
    no_energy: str | None = None
    machine: tuple[MachineRound, ...] = ()
    stopped_after: tuple[int, int] | None = None

    @property
    def backends(self) -> list[str]:
        """The backends that ran, the baseline first."""
        served = self.server.served if self.server else ()
        ran = {
            *(timing.backend for timing in self.timings),
            *(passes.backend for passes in (*self.offline, *self.energy)),
            *(one.backend for one in served),
            *(memory.backend for memory in self.memory),
        }
        return [name for name in self.settings.backends if name in self.starts or name in ran]

    @property
    def notebook_case(self) -> Case:
        """The notebook's case on all cores of the machine that was measured."""
        return notebook_case(self.environment["usable_cores"])

    def timing(self, backend: str, case: Case) -> Timing | None:
        """Return one backend's timing of a case, None where it has none."""
        return next((t for t in self.timings if (t.backend, t.case) == (backend, case)), None)

    def comparisons(self) -> list[Comparison]:
        """Compare every other backend with the baseline in all that both did."""
        return [
            Comparison(what=what, threads=threads, case=case, baseline=baseline, backend=backend, ratio=ratio)
            for baseline, backend in ((self.backends[0], other) for other in self.backends[1:])
            for what, threads, case, rounds in self._series()
            if baseline in rounds and backend in rounds
            if (ratio := paired_ratio(rounds[baseline], rounds[backend], seed=self.settings.seed))
        ]

    def floor_ratios(self) -> list[FloorRatio]:
        """Return how many times its floor each backend of the processor takes, paired by round."""
        floors = {timing.case: timing for timing in self.floor}
        found = []
        for timing in self.timings:
            floor = floors.get(timing.case)
            if floor and split_backend(backend_of(timing.backend))[0] in CPU_BACKENDS:
                ratio = paired_ratio(timing.rounds_ns, floor.rounds_ns, seed=self.settings.seed)
                if ratio:
                    floor_ms = median(floor.samples_ns) / 1e6
                    found.append(
                        FloorRatio(case=timing.case, backend=timing.backend, floor_ms=floor_ms, ratio=ratio)
                    )
        return found

    def drifts(self) -> list[Drifted]:
        """Return every series of rounds that changed its speed: the machine's first."""
        series: list[tuple[str | None, str, Sequence[Sequence[int]]]] = [
            (None, "a fixed loop before each round", [state.loop_ns for state in self.machine])
        ]
        series += [(floor.backend, str(floor.case), floor.rounds_ns) for floor in self.floor]
        for what, threads, case, rounds in self._series():
            if threads is not None:  # starts are too few
                name = str(case or f"{what} on {plural(threads, 'thread')}")
                series += [(backend, name, own) for backend, own in rounds.items()]
        return [
            Drifted(backend=backend, what=what, drift=drift)
            for backend, what, rounds in series
            if (drift := find_drift(rounds))
        ]

    def _series(self) -> list[tuple[str, int | None, Case | None, dict[str, Rounds]]]:
        """Return (what, threads, case, backend → rounds) for everything that backends did side by side."""
        series: dict[tuple[str, int | None, Case | None], dict[str, Rounds]] = {}
        for timing in self.timings:
            key = timing.case.shape, timing.case.threads, timing.case
            series.setdefault(key, {})[timing.backend] = timing.rounds_ns
        for passes in self.offline:
            what = f"offline, {WAYS_IN_WORDS[passes.way]}"
            series.setdefault((what, passes.threads, None), {})[passes.backend] = passes.rounds_ns
        for served in self.server.served if self.server else ():
            # A low rate may leave a round without a clip; of an overloaded server only the lucky clips count.
            if all(served.rounds_ns) and not any(served.unanswered):
                series.setdefault(("server", served.threads, None), {})[served.backend] = served.rounds_ns
        if self.starts:
            series[START_UP, None, None] = {
                name: tuple((start.total_ns,) for start in starts) for name, starts in self.starts.items()
            }
        return [(*key, rounds) for key, rounds in series.items()]

    def targets(self, backend: str) -> list[Target]:
        """Judge the notebook's four targets on its own case, on all cores of this machine."""
        case = self.notebook_case
        timing = self.timing(backend, case)
        peaks = [m.after_runs for m in self.memory if (m.backend, m.threads) == (backend, case.threads)]
        batch_ms = timing.percentile_ms(50) if timing else None
        memory_mb = peaks[0] / 1e6 if peaks and peaks[0] is not None else None
        model_mb = self.model_bytes[backend] / 1e6 if backend in self.model_bytes else None
        clips_per_s = timing.clips_per_s if timing else None
        return [
            _at_most(f"p50 of a batch < {MAX_BATCH_MS:g} ms", batch_ms, MAX_BATCH_MS),
            _at_most(f"peak memory < {MAX_MEMORY_MB:g} MB", memory_mb, MAX_MEMORY_MB),
            _at_most(f"model file < {MAX_MODEL_MB:g} MB", model_mb, MAX_MODEL_MB),
            Target(
                name=f"clips/s > {MIN_CLIPS_PER_S:g}",
                value=clips_per_s,
                passed=None if clips_per_s is None else clips_per_s > MIN_CLIPS_PER_S,
            ),
        ]

    def as_json(self, *, samples: bool = True) -> dict[str, Any]:
        """Return the result as plain JSON values, summaries included.

        Args:
            samples: also every measured call, as whole nanoseconds (``rounds_ns``).
        """
        from spoter_toolkit.bench.analysis.serialize import json_of  # which reads this file's classes

        return json_of(self, samples=samples)


def _at_most(name: str, value: float | None, limit: float) -> Target:
    return Target(name=name, value=value, passed=None if value is None else value < limit)


def median_ms(starts: tuple[Start, ...], part: str) -> float:
    """Return the median over the starts of one of `START_PARTS`, in milliseconds."""
    return float(median(getattr(start, f"{part}_ns") for start in starts)) / 1e6


def joules_per_clip(passes: Offline) -> dict[str, float]:
    """Return what each meter counted per clip, over all rounds."""
    clips = passes.clips * len(passes.samples_ns)
    meters = dict.fromkeys(name for joules in passes.joules for name in joules)
    return {name: sum(joules.get(name, 0.0) for joules in passes.joules) / clips for name in meters}
