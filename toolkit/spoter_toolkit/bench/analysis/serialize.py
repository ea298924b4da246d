"""Turn a result into plain JSON values, with the keys of bench.json."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from spoter_toolkit.bench.analysis.compare import SCHEMA_VERSION, Against
from spoter_toolkit.bench.analysis.result import NOT_MEASURED, BenchResult, Latency
from spoter_toolkit.bench.records import ServerRecord, Timing
from spoter_toolkit.bench.settings import FIRST_WARM_UP, WARM_UP
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED
from spoter_toolkit.report.json_text import json_text


def json_from_result(result: BenchResult) -> str:
    """Return the content of bench.json, with the raw samples of each round on one line."""
    return json_text(values_from_result(result)) + "\n"


def values_from_result(result: BenchResult) -> dict[str, Any]:
    """Return the result as plain JSON values, with every measured call in nanoseconds (``rounds_ns``)."""
    records, case = result.records, result.records.notebook_case
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": {"name": records.bundle, "model_sha256": records.model_sha256},
        "month": records.month,
        "settings": asdict(records.settings),
        "warm_up": {"first_round": FIRST_WARM_UP, "later_rounds": WARM_UP},
        "environment": records.environment,
        "timings": list(map(timing_values, records.timings, result.latencies)),
        "comparisons": [asdict(one) | {"verdict": one.verdict} for one in result.comparisons],
        "floor": list(map(timing_values, records.roofline, result.roofline)),
        "times_the_floor": [asdict(ratio) for ratio in result.roofline_ratios],
        "drifts": [asdict(drifted) for drifted in result.drifts],
        "lengths": asdict(records.lengths) if records.lengths else None,
        "offline": [
            fields(one, "backend", "threads", "clips", "padding", "clips_per_s", "rounds_ns")
            | {"way": one.strategy}
            for one in records.offline
        ],
        "server": server_values(records.server, result.served_ms) if records.server else None,
        "energy": [
            fields(one, "backend", "threads", "clips_per_s", "joules_per_clip", "joules")
            for one in records.energy
        ],
        "no_energy": records.no_energy,
        "starts": [
            {"backend": name, "frames": records.start_frames, "threads": case.threads}
            | {f"median_{part}_ms": ms for part, ms in parts_ms.items()}
            | {"samples": [asdict(start) for start in records.starts[name]]}
            for name, parts_ms in result.start_ms.items()
        ],
        "memory_bytes": [asdict(memory) for memory in records.memory],
        "model_bytes": records.model_bytes,
        "notebook_case": {
            "case": asdict(case),
            "targets": {name: [asdict(target) for target in found] for name, found in result.targets.items()},
        },
        "machine": [asdict(state) for state in records.machine],
        "stopped_after": step_values(records.stopped_after or records.cut_after),  # the remarks say by whom
        "skipped": records.skipped,
        "failures": [asdict(failure) for failure in records.failures],
        "remarks": list(result.caveats),
        "not_measured": list(NOT_MEASURED),
    }


def step_values(steps: tuple[int, int] | None) -> dict[str, int] | None:
    """Return after how many steps of all a run ended; None where it did them all."""
    return dict(zip(("steps", "of"), steps, strict=True)) if steps else None


def without_samples(values: Any) -> Any:
    """Return plain JSON values without the raw samples in them."""
    if isinstance(values, dict):
        return {name: without_samples(value) for name, value in values.items() if name != "rounds_ns"}
    return [without_samples(value) for value in values] if isinstance(values, list) else values


def timing_values(timing: Timing, latency: Latency) -> dict[str, Any]:
    """Return the calls of one backend on one case."""
    return {
        "backend": timing.backend,
        **asdict(timing.case),
        "calls": latency.calls,
        **percentile_values(latency.percentiles_ms, latency.calls),
        "clips_per_s": latency.clips_per_s,
        "warmup_calls": timing.warmup_calls,
        "unsettled_rounds": timing.unsettled,
        "rounds_ns": timing.rounds_ns,
    }


def server_values(server: ServerRecord, served_ms: dict[str, dict[int, float | None]]) -> dict[str, Any]:
    """Return the answers to arriving clips, and the search of the highest rate."""
    facts = ("backend", "threads", "rate", "achieved_rate", "bound_ms", "share_within", "clips", "unanswered")
    return {
        "capacity_clips_per_s": server.capacity,
        "served": [
            fields(one, *facts, "rounds_ns") | percentile_values(served_ms[one.backend], one.clips)
            for one in server.served
        ],
        "highest_rate": [
            asdict(one) | {"trials": [trial_values(*trial) for trial in one.trials]} for one in server.highest
        ],
    }


def trial_values(rate: float, ms: float | None, kept: bool) -> tuple[float, float | None, bool, str | None]:
    """Return one trial of the search, with the reason if its percentile is null."""
    return rate, None if why_null(ms) else ms, kept, why_null(ms)


def against_values(against: Against) -> dict[str, Any]:
    """Return the comparison with an earlier run."""
    return {
        "bound": None if against.bound is None else str(against.bound),
        "gates": [asdict(gate) for gate in against.gates],
        "differences": list(against.differences),
    }


def fields(record: object, *names: str) -> dict[str, Any]:
    """Return some fields and properties of a record."""
    return {name: getattr(record, name) for name in names}


def percentile_values(percentiles_ms: dict[int, float | None], samples: int) -> dict[str, Any]:
    """Return every percentile, and for each that is null the reason."""
    reasons = {
        f"p{percent}_ms": f"{why}: {samples}, needed {SAMPLES_NEEDED[percent]}" if value is None else why
        for percent, value in percentiles_ms.items()
        if (why := why_null(value))
    }
    values = {f"p{p}_ms": None if why_null(ms) else ms for p, ms in percentiles_ms.items()}
    return values | {"why_null": reasons}


def why_null(value: float | None) -> str | None:
    """Return why a percentile is null in JSON (too few samples, or infinite); None if it is a number."""
    if value is None:
        return "too few samples"
    return None if math.isfinite(value) else "no answer: it lies among the clips without one"
