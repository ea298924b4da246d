"""Show a result: the tables, and the folder with JSON, Markdown and a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spoter_runtime.files import replacing
from spoter_toolkit.bench.cases import (
    WARMUP_CALLS,
    WARMUP_CALLS_FIRST,
    WARMUP_S,
    plural,
)
from spoter_toolkit.bench.results import NOT_MEASURED, START_PARTS, BenchResult, Timing, median_ms
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED

BENCH_JSON: Final = "bench.json"
BENCH_MD: Final = "bench.md"
LATENCY_PNG: Final = "latency.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """A table of formatted cells; the first column is for names, the others for figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_report(result: BenchResult, folder: Path) -> None:
    """Write ``bench.json`` (raw samples included), ``bench.md`` and ``latency.png`` into `folder`.

    What was in the folder before is replaced when the new report is complete.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the disk is full or the place is read-only.
    """
    from spoter_toolkit.bench.picture import draw_latency

    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / BENCH_JSON).write_text(json_from_result(result), encoding="utf-8")
        (temporary / BENCH_MD).write_text(markdown_from_result(result), encoding="utf-8")
        draw_latency(result, temporary / LATENCY_PNG)


def json_from_result(result: BenchResult) -> str:
    """Return the whole result as indented JSON, each round's samples on one line."""
    text = json.dumps(result.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[[\d\s,]+\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n"


def tables(result: BenchResult) -> list[TextTable]:
    """Return the result's tables, without those that have no row."""
    made = [
        latency_table(result),
        ratio_table(result),
        notebook_table(result),
        start_table(result),
        memory_table(result),
    ]
    return [table for table in made if table.rows]


def latency_table(result: BenchResult) -> TextTable:
    """Return a row a case and backend: percentiles of a call, clips per second."""
    return TextTable(
        title="Latency of a call, and throughput",
        columns=("clips × frames", "threads", "backend", "p50 ms", "p90 ms", "p99 ms", "clips/s", "calls"),
        rows=tuple(
            (
                timing.case.shape,
                str(timing.case.threads),
                timing.backend,
                *(_percentile(timing, percent) for percent in SAMPLES_NEEDED),
                figure(timing.clips_per_s),
                str(len(timing.samples_ns)),
            )
            for timing in result.timings
        ),
    )


def ratio_table(result: BenchResult) -> TextTable:
    """Return a row a case: how many times the baseline took as long as the other backend."""
    return TextTable(
        title="Ratio of times, paired by round (above 1: the second is faster)",
        columns=("clips × frames", "threads", "backends", "ratio", "95 % interval", "rounds"),
        rows=tuple(
            (
                c.case.shape if c.case else "start-up",
                str(c.case.threads) if c.case else "",
                f"{c.baseline} ÷ {c.backend}",
                f"{c.ratio.estimate:.2f}",
                "too few rounds" if c.ratio.low is None else f"{c.ratio.low:.2f} – {c.ratio.high:.2f}",
                str(c.ratio.rounds),
            )
            for c in result.comparisons()
        ),
    )


def notebook_table(result: BenchResult) -> TextTable:
    """Return a row a backend: the notebook's own case against its four targets."""
    rows = []
    for backend in result.backends:
        targets = result.targets(backend)
        verdicts = (
            "not measured" if t.value is None else f"{figure(t.value)} {'pass' if t.passed else 'FAIL'}"
            for t in targets
        )
        rows.append((backend, *verdicts))
    names = [target.name for target in result.targets(result.backends[0])] if rows else []
    return TextTable(
        title=f"The BdSL-SPOTER notebook's own case, {result.notebook_case}, and its targets",
        columns=("backend", *names),
        rows=tuple(rows),
    )


def start_table(result: BenchResult) -> TextTable:
    """Return a row a backend: medians from a fresh process to its first answer, and the size of its model."""
    heads = ("total ms", "process", "import", "load", "first answer")
    return TextTable(
        title=f"Start-up: fresh process to the first answer, 1 × {result.start_frames}",
        columns=("backend", *heads, "starts", "slowest ms", "model MB"),
        rows=tuple(
            (
                backend,
                *(figure(median_ms(result.starts[backend], part)) for part in START_PARTS),
                str(len(result.starts[backend])),
                figure(max(start.total_ns for start in result.starts[backend]) / 1e6),
                figure(result.model_bytes[backend] / 1e6),
            )
            for backend in result.backends
        ),
    )


def memory_table(result: BenchResult) -> TextTable:
    """Return a row a worker: its peak resident memory at four moments."""
    return TextTable(
        title="Peak resident memory of the process, MB",
        columns=("backend", "threads", "bare Python", "engine imported", "model loaded", "after all cases"),
        rows=tuple(
            (
                memory.backend,
                str(memory.threads),
                *(
                    "not readable" if size is None else figure(size / 1e6)
                    for size in (memory.at_start, memory.imported, memory.loaded, memory.after_runs)
                ),
            )
            for memory in result.memory
        ),
    )


def problems(result: BenchResult) -> list[tuple[str, str, str]]:
    """Return (backend, what, why) for each backend that cannot run here and each worker that was lost."""
    skipped = [(name, "cannot run here", why) for name, why in result.skipped.items()]
    lost = [
        (f.backend, f"worker with {plural(f.threads, 'thread')} lost in {f.doing}", f.reason)
        for f in result.failures
    ]
    return skipped + lost


def figure(value: float) -> str:
    """Return a number with three significant digits, and all digits before the point."""
    digits = 2 - len(str(int(abs(value)))) + 1 if abs(value) >= 1 else 3
    return f"{value:.{max(digits, 0)}f}"


def _percentile(timing: Timing, percent: int) -> str:
    value = timing.percentile_ms(percent)
    return f"too few samples ({len(timing.samples_ns)})" if value is None else figure(value)


def markdown_from_result(result: BenchResult) -> str:
    """Return the report for people, in the words of the tables."""
    parts = [
        f"# Bench of {result.bundle} on {result.environment['cpu']}, {result.month}",
        f"Model sha256 `{result.model_sha256}`. {method_in_words(result)} All samples: `{BENCH_JSON}`.",
        *(f"**Note:** {remark}." for remark in result.remarks),
        f"![Latency against frames]({LATENCY_PNG})",
    ]
    for table in tables(result):
        parts += [f"## {table.title}", _markdown_table(table.columns, table.rows)]
    if found := problems(result):
        parts += ["## Not measured, or not to the end"]
        parts += [_markdown_table(("backend", "what", "why"), found, figures=False)]
    machine = environment_rows(result.environment)
    parts += ["## Environment", _markdown_table(("what", "value"), machine, figures=False)]
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
        f"measured: {WARMUP_CALLS_FIRST} calls before a case's first round, {WARMUP_CALLS} before each later "
        f"one, and at least {WARMUP_S * 1000:g} ms. Samples needed for a percentile: "
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
        elif value is None:
            rows.append((what, "not readable"))
        else:
            rows.append((what, f"{value / 1e9:.1f} GB" if name.endswith("_bytes") else str(value)))
    return rows


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> str:
    """Return a table; `figures` are set to the right, all but the first column."""
    rule = ["---"] + ["---:" if figures else "---"] * (len(columns) - 1)
    return "\n".join(
        "| " + " | ".join(markdown_cell(text) for text in line) + " |" for line in (columns, rule, *rows)
    )


def markdown_cell(text: str) -> str:
    """Return a text that stays within its cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
