"""What a run has found, as data; the summaries are computed from the raw samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import chain
from statistics import median
from typing import Any, Final

from spoter_toolkit.bench.cases import (
    WARMUP_CALLS,
    WARMUP_CALLS_FIRST,
    WARMUP_S,
    BenchSettings,
    Case,
    notebook_case,
)
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED, Ratio, paired_ratio, percentile_ms

SCHEMA_VERSION: Final = 1

# The notebook's targets for its own case.
MAX_BATCH_MS: Final = 100.0
MAX_MEMORY_MB: Final = 4000.0
MAX_MODEL_MB: Final = 50.0
MIN_CLIPS_PER_S: Final = 10.0

START_PARTS: Final = ("total", "process", "import", "load", "first")

NOT_MEASURED: Final = (
    "padded or ragged batches: every clip of a batch has all its frames",
    "several callers at once, and clips that arrive at random times",
    "a start from a disk that has not been read before (only the first start of a backend may be one)",
    "GPUs and other accelerators",
    "energy",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One backend on one case. `rounds_ns` has the nanoseconds of every measured call, round by round."""

    backend: str
    case: Case
    rounds_ns: tuple[tuple[int, ...], ...]

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
    """Peak resident memory of one worker at four moments, in bytes; None where it cannot be read."""

    backend: str
    threads: int
    at_start: int | None
    imported: int | None
    loaded: int | None
    after_runs: int | None


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
        case: what both did; None for the start-up.
    """

    case: Case | None
    baseline: str
    backend: str
    ratio: Ratio


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
        starts: backend → one entry per fresh process.
        start_frames: frames of the one clip that a fresh process answers.
        skipped: backend → why it cannot run here.
        failures: workers that were lost on the way; what they had measured is kept.
        remarks: what a reader must know to judge the figures.
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

    @property
    def backends(self) -> list[str]:
        """The backends that ran, the baseline first."""
        return [name for name in self.settings.backends if name in self.starts]

    @property
    def notebook_case(self) -> Case:
        """The notebook's case on all cores of the machine that was measured."""
        return notebook_case(self.environment["usable_cores"])

    def timing(self, backend: str, case: Case) -> Timing | None:
        """Return one backend's timing of a case, None where it has none."""
        return next((t for t in self.timings if (t.backend, t.case) == (backend, case)), None)

    def comparisons(self) -> list[Comparison]:
        """Compare every other backend with the baseline: on each case, and by start-up."""
        baseline, *others = self.backends
        found = []
        for backend in others:
            for timing in self.timings:
                own = self.timing(backend, timing.case)
                if timing.backend == baseline and own is not None:
                    ratio = paired_ratio(timing.rounds_ns, own.rounds_ns, seed=self.settings.seed)
                    found.append(self._comparison(timing.case, baseline, backend, ratio))
            ratio = paired_ratio(
                *([(start.total_ns,) for start in self.starts[name]] for name in (baseline, backend)),
                seed=self.settings.seed,
            )
            found.append(self._comparison(None, baseline, backend, ratio))
        return [comparison for comparison in found if comparison is not None]

    @staticmethod
    def _comparison(case: Case | None, baseline: str, backend: str, ratio: Ratio | None) -> Comparison | None:
        if ratio is None:
            return None
        return Comparison(case=case, baseline=baseline, backend=backend, ratio=ratio)

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
        return {
            "schema_version": SCHEMA_VERSION,
            "bundle": {"name": self.bundle, "model_sha256": self.model_sha256},
            "month": self.month,
            "settings": asdict(self.settings),
            "warm_up": {
                "calls_first_round": WARMUP_CALLS_FIRST,
                "calls_later_rounds": WARMUP_CALLS,
                "at_least_s": WARMUP_S,
            },
            "environment": self.environment,
            "timings": [_timing_json(timing, samples=samples) for timing in self.timings],
            "comparisons": [asdict(comparison) for comparison in self.comparisons()],
            "starts": [
                {"backend": name, "frames": self.start_frames, "threads": self.notebook_case.threads}
                | _starts_json(self.starts[name])
                for name in self.backends
            ],
            "memory_bytes": [asdict(memory) for memory in self.memory],
            "model_bytes": self.model_bytes,
            "notebook_case": {
                "case": asdict(self.notebook_case),
                "targets": {name: [asdict(t) for t in self.targets(name)] for name in self.backends},
            },
            "skipped": self.skipped,
            "failures": [asdict(failure) for failure in self.failures],
            "remarks": list(self.remarks),
            "not_measured": list(NOT_MEASURED),
        }


def _at_most(name: str, value: float | None, limit: float) -> Target:
    return Target(name=name, value=value, passed=None if value is None else value < limit)


def _timing_json(timing: Timing, *, samples: bool) -> dict[str, Any]:
    return {
        "backend": timing.backend,
        **asdict(timing.case),
        "calls": len(timing.samples_ns),
        **{f"p{percent}_ms": timing.percentile_ms(percent) for percent in SAMPLES_NEEDED},
        "clips_per_s": timing.clips_per_s,
        **({"rounds_ns": timing.rounds_ns} if samples else {}),
    }


def _starts_json(starts: tuple[Start, ...]) -> dict[str, Any]:
    return {
        **{f"median_{part}_ms": median_ms(starts, part) for part in START_PARTS},
        "samples": [asdict(start) for start in starts],
    }


def median_ms(starts: tuple[Start, ...], part: str) -> float:
    """Return the median over the starts of one of `START_PARTS`, in milliseconds."""
    return float(median(getattr(start, f"{part}_ns") for start in starts)) / 1e6
