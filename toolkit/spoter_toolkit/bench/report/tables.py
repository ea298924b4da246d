"""Lay a result out as tables for people: the same on the terminal, in Markdown and in HTML."""

from __future__ import annotations

import math
from typing import Any, Final

from spoter_runtime.statistics import Ratio, times
from spoter_toolkit.bench.analysis.claim_words import explained
from spoter_toolkit.bench.analysis.compare import Against
from spoter_toolkit.bench.analysis.result import BenchResult, Target
from spoter_toolkit.bench.records import STRATEGY_IN_WORDS
from spoter_toolkit.report.table import Table, table_of
from spoter_toolkit.report.words import format_sig3, plural

_UNITS: Final = {"_mhz": "MHz", "_c": "°C", "_w": "W", "_bytes": "GB"}  # how a fact's name ends → its unit


def tables(result: BenchResult) -> list[Table]:
    """Return the result's tables, without those that have no row."""
    makers = (
        latency_table,
        ratio_table,
        roofline_table,
        offline_table,
        server_table,
        rate_table,
        notebook_table,
        start_table,
        memory_table,
        energy_table,
        drift_table,
    )
    return [table for table in (make(result) for make in makers) if table.rows]


def latency_table(result: BenchResult) -> Table:
    """Return a table, a row for each case and backend: percentiles of a call, clips per second."""
    rows = []
    for one in result.latencies:
        percentiles = percentile_cells(one.percentiles_ms, one.calls)
        rows.append((one.case.shape, one.case.threads, one.backend, *percentiles, one.clips_per_s, one.calls))
    columns = ("clips × frames", "threads", "backend", "p50 ms", "p90 ms", "p99 ms", "clips/s", "calls")
    return table_of("Latency of a call, and throughput", columns, rows)


def ratio_table(result: BenchResult) -> Table:
    """Return a table, a row for each comparison: how many times as fast as the baseline, and the claim."""
    rows = []
    for one in result.comparisons:
        threads = "" if one.threads is None else one.threads
        pair = f"{one.backend} against {one.baseline}"
        rows.append((one.what, threads, pair, *ratio_cells(one.ratio), one.ratio.rounds, one.claim))
    return table_of(
        "Times as fast, paired by round",
        ("case", "threads", "backends", "as fast", "95 % interval", "rounds", "the first is"),
        rows,
        note=explained(one.claim for one in result.comparisons),
        verdict_last=True,
    )


def roofline_table(result: BenchResult) -> Table:
    """Return a table, a row for each case and backend: its time ÷ that of its matrix products alone."""
    return table_of(
        "Against the limit: the model's matrix products alone, in fp32, measured in turn with it",
        ("clips × frames", "threads", "backend", "roofline p50 ms", "times the roofline", "95 % interval"),
        (
            (one.case.shape, one.case.threads, one.backend, one.floor_ms, *ratio_cells(one.ratio))
            for one in result.roofline_ratios
        ),
    )


def offline_table(result: BenchResult) -> Table:
    """Return a row for each padding strategy and backend: clips per second over clips of many lengths."""
    rows = []
    for one in result.records.offline:
        words, padding = STRATEGY_IN_WORDS[one.strategy], f"{one.padding:.0%}"
        rows.append((words, one.threads, one.backend, padding, one.clips_per_s, one.passes))
    title = f"Many clips at once, padding included; lengths: {result.records.lengths}"
    return table_of(title, ("way", "threads", "backend", "padding", "clips/s", "passes"), rows)


def server_table(result: BenchResult) -> Table:
    """Return a row for each backend: latency of single arriving clips, from when they were due."""
    rows = []
    for one in result.records.served:
        percentiles = percentile_cells(result.served_ms[one.backend], one.clips, sum(one.unanswered))
        rates = (one.rate, one.achieved_rate)
        rows.append((one.backend, one.threads, *rates, *percentiles, f"{one.share_within:.1%}", one.clips))
    bound = f"within {result.records.settings.bound_ms:g} ms"
    return table_of(
        f"Single clips at random times, latency from when each was due; lengths: {result.records.lengths}",
        ("backend", "threads", "due/s", "answered/s", "p50 ms", "p90 ms", "p99 ms", bound, "clips"),
        rows,
    )


def rate_table(result: BenchResult) -> Table:
    """Return a row for each backend: the highest rate at which it keeps the bound."""
    rows = []
    if server := result.records.server:
        for found in server.highest:
            rate = "none" if found.rate is None else found.rate
            rows.append((found.backend, f"p{found.percent}", rate, server.capacity[found.backend]))
    return table_of(
        "Highest rate of arriving clips that keeps the latency within "
        f"{result.records.settings.bound_ms:g} ms",
        ("backend", "percentile", "clips/s", "without a pause, clips/s"),
        rows,
    )


def notebook_table(result: BenchResult) -> Table:
    """Return a row for each backend: the notebook's case, if it was measured, against its targets."""
    case = result.records.notebook_case
    judged = result.targets if any(one.case == case for one in result.latencies) else {}
    names = [target.name for targets in list(judged.values())[:1] for target in targets]
    rows = [(backend, *map(target_cell, targets)) for backend, targets in judged.items()]
    title = f"The BdSL-SPOTER notebook's own case, {case}, and its targets"
    return table_of(title, ("backend", *names), rows)


def start_table(result: BenchResult) -> Table:
    """Return a row for each backend: medians from a fresh process to its first answer, its model's size."""
    records, rows = result.records, []
    for backend, parts_ms in result.start_ms.items():
        starts, model_mb = records.starts[backend], records.model_bytes[backend] / 1e6
        slowest_ms = max(start.total_ns for start in starts) / 1e6
        rows.append((backend, *parts_ms.values(), len(starts), slowest_ms, model_mb))
    parts = ("total ms", "process", "import", "load", "first answer")
    return table_of(
        f"Start-up: fresh process to the first answer, 1 × {records.start_frames}",
        ("backend", *parts, "starts", "slowest ms", "model MB"),
        rows,
    )


def memory_table(result: BenchResult) -> Table:
    """Return a row for each worker: its peak memory at four moments, PSS and GPU memory at the end."""
    rows = []
    for one in result.records.memory:
        sizes = (one.at_start, one.imported, one.loaded, one.after_runs, one.pss)
        gpu = "none seen" if one.gpu is None else one.gpu / 1e6
        shown = ("not readable" if size is None else size / 1e6 for size in sizes)
        rows.append((one.backend, one.threads, *shown, gpu))
    moments = ("bare Python", "engine imported", "model loaded", "after all cases")
    return table_of(
        "Memory of the process, MB: peak resident at four moments; PSS and GPU memory at the end",
        ("backend", "threads", *moments, "PSS", "GPU"),
        rows,
    )


def energy_table(result: BenchResult) -> Table:
    """Return a row for each backend and energy meter: joules per clip, idle power included."""
    return table_of(
        "Energy a clip, sorted by length in batches; all that the meter counts, idle power included",
        ("backend", "threads", "meter", "J a clip", "clips/s"),
        (
            (one.backend, one.threads, meter, joules, one.clips_per_s)
            for one in result.records.energy
            for meter, joules in one.joules_per_clip.items()
        ),
    )


def drift_table(result: BenchResult) -> Table:
    """Return a row for every series of rounds that changed its speed."""
    return table_of(
        "Drift: series whose speed changed between the rounds",
        ("backend", "what", "change"),
        ((one.backend or "the machine", one.what, one.drift) for one in result.drifts),
    )


def against_table(against: Against) -> Table:
    """Return a row for each backend and case that an earlier run has too."""
    metric = against.bound.metric if against.bound else "p50"
    bound = [str(against.bound)] if against.bound else []
    return table_of(
        "against the earlier run",
        ("backend", "case", f"{metric}, this ÷ earlier", "95 % interval", *bound),
        (
            (gate.backend, gate.case, *ratio_cells(gate.ratio), *([gate.verdict] if gate.verdict else []))
            for gate in against.gates
        ),
        note=against.note,
    )


def problem_table(result: BenchResult) -> Table:
    """Return a row for each backend that cannot run here and each worker that was lost."""
    skipped = [(name, "cannot run here", why) for name, why in result.records.skipped.items()]
    lost = [
        (f.backend, f"worker with {plural(f.threads, 'thread')} lost in {f.doing}", f.reason)
        for f in result.records.failures
    ]
    return table_of(
        "Cannot run here, or was lost", ("backend", "what", "why"), [*skipped, *lost], sentences=True
    )


def environment_table(environment: dict[str, Any]) -> Table:
    """Return a row for each fact of the machine and the workers."""
    rows: list[tuple[str, str]] = []
    for name, value in environment.items():
        what = name.replace("_", " ")
        if name == "packages":
            rows += [(package, version or "not installed") for package, version in value.items()]
        elif name == "worker_threads":
            for threads, variables in value.items():
                settings = " ".join(f"{variable}={n}" for variable, n in variables.items())
                rows.append((f"workers with {plural(int(threads), 'thread')}", settings))
        elif name == "worker_cores":
            for worker, cores in value.items():
                backend, _, threads = worker.rpartition(", ")
                workers = f"cores of {backend}, {plural(int(threads), 'thread')}"
                rows.append((workers, ", ".join(map(str, cores))))
        elif isinstance(value, list):
            rows.append((what, ", ".join(map(str, value))))
        elif isinstance(value, dict):
            facts = [str(v) if key == "name" else " ".join(named_fact(key, v)) for key, v in value.items()]
            rows.append((what, ", ".join(facts)))
        else:
            rows.append(named_fact(name, value))
    return table_of("Machine and packages", ("what", "value"), rows, sentences=True)


def named_fact(name: str, value: Any) -> tuple[str, str]:
    """Return a fact's name and value with the unit that ends its name: ``("memory", "150.1 GB")``."""
    ending = next((ending for ending in _UNITS if name.endswith(ending)), "")
    what = name.removesuffix(ending).replace("_", " ")
    if value is None:
        return what, "not readable"
    shown = f"{value / 1e9:.1f}" if ending == "_bytes" else str(value)
    return what, f"{shown} {_UNITS[ending]}" if ending else shown


def ratio_cells(ratio: Ratio) -> tuple[str, str]:
    """Return a ratio and its interval, or that there are too few rounds for one."""
    known = ratio.low is not None and ratio.high is not None
    return times(ratio.estimate), f"{ratio.low:.2f} – {ratio.high:.2f}" if known else "too few rounds"


def percentile_cells(percentiles_ms: dict[int, float | None], samples: int, unanswered: int = 0) -> list[str]:
    """Return a cell for each percentile: its milliseconds, or why there are none."""
    few, none = f"too few samples ({samples})", f"no answer ({unanswered} of {samples} had none)"
    values = percentiles_ms.values()
    return [few if v is None else format_sig3(v) if math.isfinite(v) else none for v in values]


def target_cell(target: Target) -> str:
    """Return a target's value, and whether it is reached."""
    if target.value is None:
        return "not measured"
    return f"{format_sig3(target.value)} {'pass' if target.passed else 'FAIL'}"
