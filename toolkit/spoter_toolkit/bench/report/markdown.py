"""Show a result: the tables, and the folder with JSON, Markdown and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from spoter_runtime.files import replacing
from spoter_toolkit.bench.analysis.result import NOT_MEASURED, BenchResult
from spoter_toolkit.bench.analysis.verdict import CLAIM_P, SAME_PROGRAM
from spoter_toolkit.bench.json_text import json_text
from spoter_toolkit.bench.report.batch_plot import batch_curves
from spoter_toolkit.bench.report.tables import TextTable as TextTable
from spoter_toolkit.bench.report.tables import figure as figure
from spoter_toolkit.bench.report.tables import problems as problems
from spoter_toolkit.bench.report.tables import tables as tables
from spoter_toolkit.bench.settings import (
    WARMUP_BLOCK_S,
    WARMUP_CALLS,
    WARMUP_CALLS_FIRST,
    WARMUP_LIMIT_FIRST_S,
    WARMUP_LIMIT_S,
    WARMUP_TOLERANCE,
    plural,
)
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED

BENCH_JSON: Final = "bench.json"
BENCH_MD: Final = "bench.md"
LATENCY_PNG: Final = "latency.png"
BATCHES_PNG: Final = "batches.png"

# How a fact's name ends, and how its unit is written.
_UNITS: Final = {"mhz": "MHz", "c": "°C", "w": "W", "bytes": "GB"}


def write_report(result: BenchResult, folder: Path) -> None:
    """Write ``bench.json`` (raw samples included), ``bench.md`` and the pictures into `folder`.

    ``latency.png`` where cases were measured, ``batches.png`` where they make a curve. What was in the folder
    before is replaced when the new report is complete.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the disk is full or the place is read-only.
    """
    from spoter_toolkit.bench.report.batch_plot import draw_batches
    from spoter_toolkit.bench.report.latency_plot import draw_latency

    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / BENCH_JSON).write_text(json_from_result(result), encoding="utf-8")
        (temporary / BENCH_MD).write_text(markdown_from_result(result), encoding="utf-8")
        if result.timings:
            draw_latency(result, temporary / LATENCY_PNG)
        if batch_curves(result):
            draw_batches(result, temporary / BATCHES_PNG)


def json_from_result(result: BenchResult) -> str:
    """Return the whole result as indented JSON, each round's samples on one line."""
    return json_text(result.as_json()) + "\n"


def markdown_from_result(result: BenchResult) -> str:
    """Return the report for people, in the words of the tables."""
    parts = [
        f"# Bench of {result.bundle} on {result.environment['cpu']}, {result.month}",
        f"Model sha256 `{result.model_sha256}`. {method_in_words(result)} All samples: `{BENCH_JSON}`.",
        *(f"**Note:** {remark}." for remark in result.remarks),
    ]
    if result.timings:
        parts.append(f"![Latency against frames]({LATENCY_PNG})")
    if batch_curves(result):
        parts.append(f"![Throughput against clips a call]({BATCHES_PNG})")
    for table in tables(result):
        parts += [f"## {table.title}", markdown_table(table.columns, table.rows)]
        parts += [table.note] if table.note else []
    if found := problems(result):
        parts += ["## Not measured, or not to the end"]
        parts += [markdown_table(("backend", "what", "why"), found, figures=False)]
    machine = environment_rows(result.environment)
    parts += ["## Environment", markdown_table(("what", "value"), machine, figures=False)]
    parts += ["## These figures say nothing about", "\n".join(f"- {what}" for what in NOT_MEASURED)]
    return "\n\n".join(parts) + "\n"


def method_in_words(result: BenchResult) -> str:
    """Return how it was measured, in sentences."""
    settings = result.settings
    return (
        "Times are of `Runner.infer`, its checks of the input included, on full clips of generated "
        "landmarks. Each backend and thread count has a process of its own. "
        f"{plural(settings.rounds, 'round')}, the backends in turn, {settings.seconds_per_case:g} s per case "
        f"and backend in all, at least {plural(settings.min_calls_per_round, 'call')} a round. Warm-up, not "
        f"measured: blocks of {WARMUP_BLOCK_S * 1000:g} ms, until the medians of two in a row differ by "
        f"{WARMUP_TOLERANCE:.0%} at most, and {WARMUP_CALLS_FIRST} calls before a case's first round, "
        f"{WARMUP_CALLS} before each later one; given up after {WARMUP_LIMIT_FIRST_S:g} s and "
        f"{WARMUP_LIMIT_S:g} s. A difference is claimed where the whole interval is more than "
        f"{SAME_PROGRAM:.0%} away from 1, and the signed-rank test of the rounds gives p of at most "
        f"{CLAIM_P:g}. Samples needed for a percentile: "
        + ", ".join(f"{needed} for p{percent}" for percent, needed in SAMPLES_NEEDED.items())
        + "."
    )


def environment_rows(environment: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of the machine, (what, value)."""
    rows = []
    for name, value in environment.items():
        what = name.removesuffix("_bytes").replace("_", " ")
        if name == "packages":
            rows += [(package, version or "not installed") for package, version in value.items()]
        elif name == "worker_threads":
            for threads, variables in value.items():
                settings = " ".join(f"{variable}={n}" for variable, n in variables.items())
                rows.append((f"workers with {plural(int(threads), 'thread')}", settings))
        elif name == "worker_cores":
            for worker, cores in value.items():
                backend, _, threads = worker.rpartition(", ")
                rows.append((f"cores of {backend}, {plural(int(threads), 'thread')}", _listed(cores)))
        elif isinstance(value, list):
            rows.append((what, _listed(value)))
        elif isinstance(value, dict):
            rows.append((what, _listed([_named(key, part) for key, part in value.items()])))
        elif value is None:
            rows.append((what, "not readable"))
        else:
            rows.append((what, f"{value / 1e9:.1f} GB" if name.endswith("_bytes") else str(value)))
    return rows


def _named(name: str, value: object) -> str:
    """Return one of several facts under a heading: ``"sm 1980.0 MHz"``, ``"memory 150.1 GB"``."""
    for unit, shown in _UNITS.items():
        if name.endswith(f"_{unit}"):
            what = name.removesuffix(f"_{unit}").replace("_", " ")
            number = f"{value / 1e9:.1f}" if unit == "bytes" and isinstance(value, int) else value
            return f"{what} {'not readable' if value is None else f'{number} {shown}'}"
    return str(value) if name == "name" else f"{name.replace('_', ' ')} {value}"


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> str:
    """Return a table; `figures` are set to the right, all but the first column."""
    rule = ["---"] + ["---:" if figures else "---"] * (len(columns) - 1)
    return "\n".join(
        "| " + " | ".join(markdown_cell(text) for text in line) + " |" for line in (columns, rule, *rows)
    )


def markdown_cell(text: str) -> str:
    """Return a text that stays within its cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
