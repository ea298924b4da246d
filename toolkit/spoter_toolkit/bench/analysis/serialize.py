"""A result as plain JSON values, its summaries included."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from spoter_toolkit.bench.analysis.result import (
    NOT_MEASURED,
    START_PARTS,
    BenchResult,
    Start,
    Timing,
    joules_per_clip,
    median_ms,
)
from spoter_toolkit.bench.scenarios.offline import Offline
from spoter_toolkit.bench.scenarios.server import ServerResult
from spoter_toolkit.bench.settings import warm_up
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED

SCHEMA_VERSION: Final = 2


def json_of(result: BenchResult, *, samples: bool) -> dict[str, Any]:
    """Return what `BenchResult.as_json` promises."""
    case = result.notebook_case
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": {"name": result.bundle, "model_sha256": result.model_sha256},
        "month": result.month,
        "settings": asdict(result.settings),
        "warm_up": {"first_round": warm_up(first=True), "later_rounds": warm_up(first=False)},
        "environment": result.environment,
        "timings": [_timing(timing, samples=samples) for timing in result.timings],
        "comparisons": [asdict(c) | {"verdict": c.verdict} for c in result.comparisons()],
        "floor": [_timing(timing, samples=samples) for timing in result.floor],
        "times_the_floor": [asdict(ratio) for ratio in result.floor_ratios()],
        "drifts": [asdict(drifted) for drifted in result.drifts()],
        "lengths": asdict(result.lengths) if result.lengths else None,
        "offline": [_offline(passes, samples=samples) for passes in result.offline],
        "server": _server(result.server, samples=samples) if result.server else None,
        "energy": [_energy(passes) for passes in result.energy],
        "no_energy": result.no_energy,
        "starts": [
            {"backend": name, "frames": result.start_frames, "threads": case.threads}
            | _starts(result.starts[name])
            for name in result.backends
            if name in result.starts
        ],
        "memory_bytes": [asdict(memory) for memory in result.memory],
        "model_bytes": result.model_bytes,
        "notebook_case": {
            "case": asdict(case),
            "targets": {name: [asdict(t) for t in result.targets(name)] for name in result.backends},
        },
        "machine": [asdict(state) for state in result.machine],
        "stopped_after": result.stopped_after
        and dict(zip(("steps", "of"), result.stopped_after, strict=True)),
        "skipped": result.skipped,
        "failures": [asdict(failure) for failure in result.failures],
        "remarks": list(result.remarks),
        "not_measured": list(NOT_MEASURED),
    }


def _timing(timing: Timing, *, samples: bool) -> dict[str, Any]:
    return {
        "backend": timing.backend,
        **asdict(timing.case),
        "calls": len(timing.samples_ns),
        **_percentiles(timing.percentile_ms, len(timing.samples_ns)),
        "clips_per_s": timing.clips_per_s,
        "warmup_calls": timing.warmup_calls,
        "unsettled_rounds": timing.unsettled,
        **({"rounds_ns": timing.rounds_ns} if samples else {}),
    }


def _offline(passes: Offline, *, samples: bool) -> dict[str, Any]:
    return {
        "backend": passes.backend,
        "threads": passes.threads,
        "way": passes.way,
        "clips": passes.clips,
        "padding": passes.padding,
        "clips_per_s": passes.clips_per_s,
        **({"rounds_ns": passes.rounds_ns} if samples else {}),
    }


def _server(server: ServerResult, *, samples: bool) -> dict[str, Any]:
    return {
        "capacity_clips_per_s": server.capacity,
        "served": [
            {
                "backend": served.backend,
                "threads": served.threads,
                "rate": served.rate,
                "achieved_rate": served.achieved_rate,
                "bound_ms": served.bound_ms,
                "share_within": served.share_within,
                "clips": served.clips,
                "unanswered": served.unanswered,
                **_percentiles(served.percentile_ms, served.clips),
                **({"rounds_ns": served.rounds_ns} if samples else {}),
            }
            for served in server.served
        ],
        "highest_rate": [
            asdict(found)
            | {"trials": [(rate, _finite(ms), held, _why_null(ms)) for rate, ms, held in found.trials]}
            for found in server.highest
        ],
    }


def _percentiles(percentile_ms: Callable[[int], float | None], samples: int) -> dict[str, Any]:
    """Return every percentile, and for each that is null the reason."""
    values = {percent: percentile_ms(percent) for percent in SAMPLES_NEEDED}
    return {f"p{percent}_ms": _finite(value) for percent, value in values.items()} | {
        "why_null": {
            f"p{percent}_ms": f"{why}: {samples}, needed {SAMPLES_NEEDED[percent]}" if value is None else why
            for percent, value in values.items()
            if (why := _why_null(value))
        }
    }


def _finite(value: float | None) -> float | None:
    """Return None for a percentile that lies among clips without an answer: JSON knows no infinity."""
    return value if value is not None and math.isfinite(value) else None


def _why_null(value: float | None) -> str | None:
    """Return why JSON has no number for a percentile; None where it has one."""
    if value is None:
        return "too few samples"
    return None if math.isfinite(value) else "no answer: it lies among the clips without one"


def _energy(passes: Offline) -> dict[str, Any]:
    return {
        "backend": passes.backend,
        "threads": passes.threads,
        "clips_per_s": passes.clips_per_s,
        "joules_per_clip": joules_per_clip(passes),
        "joules": passes.joules,
    }


def _starts(starts: tuple[Start, ...]) -> dict[str, Any]:
    return {
        **{f"median_{part}_ms": median_ms(starts, part) for part in START_PARTS},
        "samples": [asdict(start) for start in starts],
    }
