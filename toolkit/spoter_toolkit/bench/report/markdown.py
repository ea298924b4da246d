"""Write a result as Markdown, in the words of the tables."""

from __future__ import annotations

from typing import Final

from spoter_runtime.statistics import CLAIM_P, SAME_PROGRAM
from spoter_toolkit.bench.analysis.result import NOT_MEASURED, BenchResult
from spoter_toolkit.bench.report.batch_plot import batch_curves
from spoter_toolkit.bench.report.tables import environment_table, problem_table, tables
from spoter_toolkit.bench.settings import FIRST_WARM_UP, WARM_UP
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED
from spoter_toolkit.report.table import markdown_table
from spoter_toolkit.report.words import plural

LATENCY_PNG: Final = "latency.png"
BATCHES_PNG: Final = "batches.png"


def markdown_from_result(result: BenchResult) -> str:
    """Return the report for people; it shows the pictures that lie beside it."""
    records = result.records
    parts = [
        f"# Bench of {records.bundle} on {records.environment['cpu']}, {records.month}",
        f"Model sha256 `{records.model_sha256}`. {method_in_words(result)} All samples: `bench.json`.",
        *(f"**Note:** {caveat}." for caveat in result.caveats),
    ]
    parts += [f"![Latency against frames]({LATENCY_PNG})"] if result.latencies else []
    parts += [f"![Throughput against clips a call]({BATCHES_PNG})"] if batch_curves(result) else []
    for table in tables(result):
        parts += [f"## {table.title}", markdown_table(table.columns, table.rows)]
        parts += [table.note] if table.note else []
    problems, machine = problem_table(result), environment_table(records.environment)
    if problems.rows:
        parts += ["## Not measured, or not to the end"]
        parts += [markdown_table(problems.columns, problems.rows, figures=False)]
    parts += ["## Environment", markdown_table(machine.columns, machine.rows, figures=False)]
    parts += ["## These figures say nothing about", "\n".join(f"- {what}" for what in NOT_MEASURED)]
    return "\n\n".join(parts) + "\n"


def method_in_words(result: BenchResult) -> str:
    """Return the method of measuring, in sentences."""
    settings = result.records.settings
    return (
        "Times are of `Runner.infer`, its checks of the input included, on full clips of generated "
        "landmarks. Each backend and thread count has a process of its own. "
        f"{plural(settings.rounds, 'round')}, the backends in turn, {settings.seconds_per_case:g} s per case "
        f"and backend in all, at least {plural(settings.min_calls_per_round, 'call')} a round. Warm-up, not "
        f"measured: blocks of {WARM_UP['block_ns'] / 1e6:g} ms, until the medians of two in a row differ by "
        f"{WARM_UP['tolerance']:.0%} at most, and {FIRST_WARM_UP['min_calls']} calls before a case's first "
        f"round, {WARM_UP['min_calls']} before each later one; given up after "
        f"{FIRST_WARM_UP['limit_ns'] / 1e9:g} s and {WARM_UP['limit_ns'] / 1e9:g} s. A difference is claimed "
        "where the whole interval is more than "
        f"{SAME_PROGRAM:.0%} away from 1, and the signed-rank test of the rounds gives p of at most "
        f"{CLAIM_P:g}. Samples needed for a percentile: "
        + ", ".join(f"{needed} for p{percent}" for percent, needed in SAMPLES_NEEDED.items())
        + "."
    )
