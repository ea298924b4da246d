"""A result's tables for people: formatted cells, the same on the terminal, in Markdown and in HTML."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spoter_toolkit.bench.analysis.result import START_PARTS, BenchResult, Timing, joules_per_clip, median_ms
from spoter_toolkit.bench.analysis.verdict import explained
from spoter_toolkit.bench.scenarios.offline import WAYS_IN_WORDS
from spoter_toolkit.bench.settings import plural
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED, Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """A table of formatted cells; the first column is for names, the others for figures.

    Attributes:
        note: to be read below it; empty where nothing needs explaining.
        verdict_last: the last column is the one that a reader looks for.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    verdict_last: bool = False


def tables(result: BenchResult) -> list[TextTable]:
    """Return the result's tables, without those that have no row."""
    made = [
        latency_table(result),
        ratio_table(result),
        floor_table(result),
        offline_table(result),
        server_table(result),
        rate_table(result),
        notebook_table(result),
        start_table(result),
        memory_table(result),
        energy_table(result),
        drift_table(result),
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
    """Return a row a case: how many times the baseline took as long as the other backend, and in words."""
    comparisons = result.comparisons()
    return TextTable(
        title="Ratio of times, paired by round (above 1: the second is faster)",
        columns=("case", "threads", "backends", "ratio", "95 % interval", "rounds", "the second is"),
        rows=tuple(
            (
                c.what,
                "" if c.threads is None else str(c.threads),
                f"{c.baseline} ÷ {c.backend}",
                f"{c.ratio.estimate:.2f}",
                interval(c.ratio),
                str(c.ratio.rounds),
                c.verdict,
            )
            for c in comparisons
        ),
        note=explained(c.verdict for c in comparisons),
        verdict_last=True,
    )


def floor_table(result: BenchResult) -> TextTable:
    """Return a row a case and backend: how many times the time of its matrix products alone it takes."""
    return TextTable(
        title="Against the limit: the model's matrix products alone, in fp32, measured in turn with it",
        columns=("clips × frames", "threads", "backend", "floor p50 ms", "times the floor", "95 % interval"),
        rows=tuple(
            (
                found.case.shape,
                str(found.case.threads),
                found.backend,
                figure(found.floor_ms),
                f"{found.ratio.estimate:.2f}",
                interval(found.ratio),
            )
            for found in result.floor_ratios()
        ),
    )


def offline_table(result: BenchResult) -> TextTable:
    """Return a row a way of padding and backend: clips per second over clips of different lengths."""
    return TextTable(
        title=f"Many clips at once, padding included; lengths: {result.lengths}",
        columns=("way", "threads", "backend", "padding", "clips/s", "passes"),
        rows=tuple(
            (
                WAYS_IN_WORDS[passes.way],
                str(passes.threads),
                passes.backend,
                f"{passes.padding:.0%}",
                figure(passes.clips_per_s),
                str(len(passes.samples_ns)),
            )
            for passes in result.offline
        ),
    )


def server_table(result: BenchResult) -> TextTable:
    """Return a row a backend: latency of single clips that arrive at random, from when they were due."""
    served = result.server.served if result.server else ()
    bound = f"within {result.settings.bound_ms:g} ms"
    return TextTable(
        title=f"Single clips at random times, latency from when each was due; lengths: {result.lengths}",
        columns=("backend", "threads", "due/s", "answered/s", "p50 ms", "p90 ms", "p99 ms", bound, "clips"),
        rows=tuple(
            (
                one.backend,
                str(one.threads),
                figure(one.rate),
                figure(one.achieved_rate),
                *(_latency(one.percentile_ms(p), one.clips, sum(one.unanswered)) for p in SAMPLES_NEEDED),
                f"{one.share_within:.1%}",
                str(one.clips),
            )
            for one in served
        ),
    )


def rate_table(result: BenchResult) -> TextTable:
    """Return a row a backend: the highest rate at which it keeps the bound."""
    highest = result.server.highest if result.server else ()
    capacity = result.server.capacity if result.server else {}
    return TextTable(
        title=f"Highest rate of arriving clips that keeps the latency within {result.settings.bound_ms:g} ms",
        columns=("backend", "percentile", "clips/s", "without a pause, clips/s"),
        rows=tuple(
            (
                found.backend,
                f"p{found.percent}",
                "none" if found.rate is None else figure(found.rate),
                figure(capacity[found.backend]),
            )
            for found in highest
        ),
    )


def energy_table(result: BenchResult) -> TextTable:
    """Return a row a backend and energy meter: joules a clip, all that the meter counts included."""
    return TextTable(
        title="Energy a clip, sorted by length in batches; all that the meter counts, idle power included",
        columns=("backend", "threads", "meter", "J a clip", "clips/s"),
        rows=tuple(
            (passes.backend, str(passes.threads), meter, figure(joules), figure(passes.clips_per_s))
            for passes in result.energy
            for meter, joules in joules_per_clip(passes).items()
        ),
    )


def drift_table(result: BenchResult) -> TextTable:
    """Return a row for every series of rounds that changed its speed."""
    return TextTable(
        title="Drift: series whose speed changed between the rounds",
        columns=("backend", "what", "change"),
        rows=tuple((one.backend or "the machine", one.what, str(one.drift)) for one in result.drifts()),
    )


def notebook_table(result: BenchResult) -> TextTable:
    """Return a row a backend: the notebook's own case against its four targets; none where it was not run."""
    rows = []
    ran = any(timing.case == result.notebook_case for timing in result.timings)
    for backend in result.backends if ran else ():
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
            if backend in result.starts
        ),
    )


def memory_table(result: BenchResult) -> TextTable:
    """Return a row a worker: its peak resident memory at four moments, its share at the end, a GPU's."""
    moments = ("bare Python", "engine imported", "model loaded", "after all cases")
    return TextTable(
        title="Memory of the process, MB: peak resident at four moments; PSS and GPU memory at the end",
        columns=("backend", "threads", *moments, "PSS", "GPU"),
        rows=tuple(
            (
                memory.backend,
                str(memory.threads),
                *(
                    "not readable" if size is None else figure(size / 1e6)
                    for size in (
                        memory.at_start,
                        memory.imported,
                        memory.loaded,
                        memory.after_runs,
                        memory.pss,
                    )
                ),
                "none seen" if memory.gpu is None else figure(memory.gpu / 1e6),
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


def interval(ratio: Ratio) -> str:
    """Return a ratio's interval, or that there are too few rounds for one."""
    if ratio.low is None or ratio.high is None:
        return "too few rounds"
    return f"{ratio.low:.2f} – {ratio.high:.2f}"


def _percentile(timing: Timing, percent: int) -> str:
    return _latency(timing.percentile_ms(percent), len(timing.samples_ns))


def _latency(value: float | None, samples: int, unanswered: int = 0) -> str:
    if value is None:
        return f"too few samples ({samples})"
    return figure(value) if math.isfinite(value) else f"no answer ({unanswered} of {samples} had none)"
