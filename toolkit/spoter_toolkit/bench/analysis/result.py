"""Analyse the records of a run once: percentiles, ratios, drifts, targets, caveats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from spoter_runtime.statistics import Claim, Ratio
from spoter_toolkit.backends import CPU_BACKENDS, split_backend
from spoter_toolkit.bench.analysis.caveats import caveats_of
from spoter_toolkit.bench.analysis.claim_words import claim_in_words
from spoter_toolkit.bench.analysis.compare import Against, Bound, EarlierRun, compare_runs
from spoter_toolkit.bench.analysis.drift import Drifted, find_drift
from spoter_toolkit.bench.records import STRATEGY_IN_WORDS, BenchRecords, Rounds, Timing
from spoter_toolkit.bench.settings import Case, backend_of
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED, paired_ratio, percentile_ms
from spoter_toolkit.report.words import plural

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


# (what, threads, case) as in `Comparison` → backend → rounds, for all interleaved measurements.
Series = dict[tuple[str, int | None, Case | None], dict[str, Rounds]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The latency distribution of one backend on one case."""

    backend: str
    case: Case
    calls: int
    percentiles_ms: dict[int, float | None]  # 50, 90, 99 → milliseconds; None with too few samples
    quartiles_ms: tuple[float, float, float]  # 25th, 50th and 75th percentile, of any number of samples
    slowest_ms: float
    clips_per_s: float

    @property
    def median_ms(self) -> float | None:
        """The median; None with too few calls."""
        return self.percentiles_ms[50]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Time of `baseline` ÷ time of `backend`: above 1 where `backend` is the faster one."""

    what: str  # the measurement: a case's shape, `START_UP`, ``"offline, …"``, ``"server"``
    threads: int | None  # threads of the workers; None for the start-up
    case: Case | None  # None if the measurement is not a case
    baseline: str
    backend: str
    ratio: Ratio

    @property
    def claim(self) -> Claim:
        """The claim: faster, slower, or why no difference is claimed."""
        return self.ratio.claim

    @property
    def verdict(self) -> str:
        """The claim in words, with its interval; see `spoter_toolkit.bench.analysis.claim_words`."""
        return claim_in_words(self.ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineRatio:
    """Time of `backend` ÷ time of the case's matrix products alone."""

    case: Case
    backend: str
    floor_ms: float  # time of the roofline; the field's name in bench.json
    ratio: Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One of the notebook's four targets for one backend."""

    name: str
    value: float | None  # in the unit of `name`; None, like `passed`, if not measured
    passed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """A run's records and their analysis, each figure computed once."""

    records: BenchRecords
    latencies: tuple[Latency, ...]  # of `records.timings`, in their order
    roofline: tuple[Latency, ...]  # of `records.roofline`, in their order
    # backend → percentiles of the latency of arriving clips; infinite with too few answers
    served_ms: dict[str, dict[int, float | None]]
    start_ms: dict[str, dict[str, float]]  # backend → part of `START_PARTS` → median over its starts
    comparisons: tuple[Comparison, ...]  # every other backend with the baseline, in each common measurement
    roofline_ratios: tuple[RooflineRatio, ...]  # every CPU backend ÷ its roofline, paired by round
    drifts: tuple[Drifted, ...]  # series with a drift, the machine's first
    targets: dict[str, tuple[Target, ...]]  # backend → the notebook's four targets on its own case
    caveats: tuple[str, ...]  # circumstances that make the figures less reliable
    against: Against | None = None  # the comparison with an earlier run, if any


def analyse(
    records: BenchRecords, *, earlier: EarlierRun | None = None, bound: Bound | None = None
) -> BenchResult:
    """Return the analysis of a run's records, compared with an `earlier` run and judged by the `bound`.

    Raises:
        DataError: the earlier run has no backend and case in common with this one.
    """
    series = series_of(records)
    drifts = find_drifts(records, series)
    latencies = tuple(map(latency_of, records.timings))
    return BenchResult(
        records=records,
        latencies=latencies,
        roofline=tuple(map(latency_of, records.roofline)),
        served_ms={one.backend: {p: one.percentile_ms(p) for p in SAMPLES_NEEDED} for one in records.served},
        start_ms={
            backend: {
                part: float(median(getattr(s, f"{part}_ns") for s in starts)) / 1e6 for part in START_PARTS
            }
            for backend, starts in records.starts.items()
        },
        comparisons=compare_backends(records, series),
        roofline_ratios=compare_with_roofline(records),
        drifts=drifts,
        targets={backend: judge_targets(records, latencies, backend) for backend in records.backends},
        caveats=caveats_of(records, drifts),
        against=compare_runs(records, earlier, bound) if earlier else None,
    )


def latency_of(timing: Timing) -> Latency:
    """Return percentiles, quartiles, maximum and throughput of one backend on one case."""
    samples_ns = timing.samples_ns
    low, middle, high = np.percentile(samples_ns, (25, 50, 75)) / 1e6
    return Latency(
        backend=timing.backend,
        case=timing.case,
        calls=len(samples_ns),
        percentiles_ms={percent: percentile_ms(samples_ns, percent) for percent in SAMPLES_NEEDED},
        quartiles_ms=(float(low), float(middle), float(high)),
        slowest_ms=max(samples_ns) / 1e6,
        clips_per_s=1e9 * timing.case.batch * len(samples_ns) / sum(samples_ns),
    )


def series_of(records: BenchRecords) -> Series:
    """Return the rounds of all interleaved measurements."""
    series: Series = {}
    for timing in records.timings:
        key = timing.case.shape, timing.case.threads, timing.case
        series.setdefault(key, {})[timing.backend] = timing.rounds_ns
    for passes in records.offline:
        what = f"offline, {STRATEGY_IN_WORDS[passes.strategy]}"
        series.setdefault((what, passes.threads, None), {})[passes.backend] = passes.rounds_ns
    for served in records.served:
        # A low rate may leave a round without a clip; an overloaded server answers only some clips.
        if all(served.rounds_ns) and not any(served.unanswered):
            series.setdefault(("server", served.threads, None), {})[served.backend] = served.rounds_ns
    for backend, starts in records.starts.items():
        rounds = tuple((start.total_ns,) for start in starts)
        series.setdefault((START_UP, None, None), {})[backend] = rounds
    return series


def compare_backends(records: BenchRecords, series: Series) -> tuple[Comparison, ...]:
    """Return the comparison of every other backend with the baseline in each common measurement."""
    seed = records.settings.seed
    return tuple(
        Comparison(what=what, threads=threads, case=case, baseline=baseline, backend=backend, ratio=ratio)
        for baseline in records.backends[:1]
        for backend in records.backends[1:]
        for (what, threads, case), rounds in series.items()
        if baseline in rounds and backend in rounds
        if (ratio := paired_ratio(rounds[baseline], rounds[backend], seed=seed))
    )


def compare_with_roofline(records: BenchRecords) -> tuple[RooflineRatio, ...]:
    """Return time ÷ roofline of each CPU backend and case, paired by round."""
    rooflines = {timing.case: timing for timing in records.roofline}
    ratios = []
    for timing in records.timings:
        roofline = rooflines.get(timing.case)
        if roofline and split_backend(backend_of(timing.backend))[0] in CPU_BACKENDS:
            ratio = paired_ratio(timing.rounds_ns, roofline.rounds_ns, seed=records.settings.seed)
            ms = median(roofline.samples_ns) / 1e6
            if ratio:
                ratios.append(
                    RooflineRatio(case=timing.case, backend=timing.backend, floor_ms=ms, ratio=ratio)
                )
    return tuple(ratios)


def find_drifts(records: BenchRecords, series: Series) -> tuple[Drifted, ...]:
    """Return every series of rounds with a drift: the machine's first, then the roofline's."""
    machine = tuple(state.loop_ns for state in records.machine)
    looked_at: list[tuple[str | None, str, Rounds]] = [(None, "a fixed loop before each round", machine)]
    looked_at += [(timing.backend, str(timing.case), timing.rounds_ns) for timing in records.roofline]
    for (what, threads, case), by_backend in series.items():
        if threads is not None:  # there are too few starts
            name = str(case or f"{what} on {plural(threads, 'thread')}")
            looked_at += [(backend, name, rounds) for backend, rounds in by_backend.items()]
    return tuple(
        Drifted(backend=backend, what=what, drift=drift)
        for backend, what, rounds in looked_at
        if (drift := find_drift(rounds))
    )


def judge_targets(records: BenchRecords, latencies: Sequence[Latency], backend: str) -> tuple[Target, ...]:
    """Return the notebook's four targets for a backend, judged on the notebook's case on all cores."""
    case = records.notebook_case
    latency = next((one for one in latencies if (one.backend, one.case) == (backend, case)), None)
    peaks = [m.after_runs for m in records.memory if (m.backend, m.threads) == (backend, case.threads)]
    peak, model = next(iter(peaks), None), records.model_bytes.get(backend)
    clips_per_s = latency.clips_per_s if latency else None
    targets = [
        Target(
            name=f"{what} < {limit:g} {unit}", value=value, passed=None if value is None else value < limit
        )
        for what, limit, unit, value in (
            ("p50 of a batch", MAX_BATCH_MS, "ms", latency.median_ms if latency else None),
            ("peak memory", MAX_MEMORY_MB, "MB", None if peak is None else peak / 1e6),
            ("model file", MAX_MODEL_MB, "MB", None if model is None else model / 1e6),
        )
    ]
    enough = None if clips_per_s is None else clips_per_s > MIN_CLIPS_PER_S
    return (*targets, Target(name=f"clips/s > {MIN_CLIPS_PER_S:g}", value=clips_per_s, passed=enough))
