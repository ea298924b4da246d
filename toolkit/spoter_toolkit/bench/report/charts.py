"""The charts of a bench's page: who is faster and by how much, then one small chart for each scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from spoter_runtime.statistics import times
from spoter_toolkit.bench.analysis.result import START_UP, BenchResult, Comparison, Latency
from spoter_toolkit.bench.records import STRATEGY_IN_WORDS
from spoter_toolkit.bench.report.batch_plot import batch_curves
from spoter_toolkit.bench.report.summary import headline_case
from spoter_toolkit.bench.settings import Case
from spoter_toolkit.report.charts import Bar, BarChart, Line, LineChart, Scale, lines_in_words
from spoter_toolkit.report.words import format_sig3, plural

_POINTS: Final = 60  # of a tail's line, spaced by ratio: every one of the slowest calls is among them


def headline_chart(result: BenchResult) -> BarChart | None:
    """Return the median time of a call by backend, the fastest first; None where no latency was measured."""
    if not result.latencies:
        return None
    case = headline_case(result)
    measured = sorted(
        (one for one in result.latencies if one.case == case), key=lambda one: one.quartiles_ms[1]
    )
    ratios = ratio_notes(result, [pair for pair in result.comparisons if pair.case == case])
    bars = [
        Bar(
            name=one.backend,
            value=one.quartiles_ms[1],
            low=one.quartiles_ms[0],
            high=one.quartiles_ms[2],
            shown="too few calls" if one.median_ms is None else f"{format_sig3(one.median_ms)} ms",
            note=ratios.get(one.backend, ""),
        )
        for one in measured
    ]
    clips = (
        f"{plural(case.batch, 'clip')} of {plural(case.frames, 'frame')}, {plural(case.threads, 'thread')}"
    )
    compared = f" Ratios are to {result.records.backends[0]}, with 95 % intervals." if ratios else ""
    caption = (
        f"Median time of one call: {clips}. Shorter is better.{compared} "
        "The thin line holds the middle half of the calls."
    )
    return BarChart(caption=caption, bars=bars)


def ratio_notes(result: BenchResult, pairs: Sequence[Comparison]) -> dict[str, str]:
    """Return backend → how many times as fast as the baseline it is; empty without a comparison."""
    if not pairs:
        return {}
    return {result.records.backends[0]: times(1)} | {pair.backend: pair.verdict for pair in pairs}


def length_charts(result: BenchResult) -> list[LineChart]:
    """Return latency against frames, a chart for each batch and thread count with several lengths."""
    groups: dict[tuple[int, int], list[Latency]] = {}
    for one in sorted(result.latencies, key=lambda one: one.case.frames):
        groups.setdefault((one.case.batch, one.case.threads), []).append(one)
    return [
        _lines(
            result,
            measured,
            x=lambda one: one.case.frames,
            y=lambda one: one.quartiles_ms[1],
            axes=("frames in a clip", "milliseconds a call", "ms"),
            caption=f"Longer clips take longer: {plural(batch, 'clip')} a call, {plural(threads, 'thread')}.",
            y_scale="log",
        )
        for (batch, threads), measured in sorted(groups.items())
        if len({one.case.frames for one in measured}) > 1
    ]


def throughput_charts(result: BenchResult) -> list[LineChart | BarChart]:
    """Return clips a second against clips a call, and of many clips at once."""
    charts: list[LineChart | BarChart] = []
    if curves := batch_curves(result):
        measured = [one for latencies in curves.values() for one in latencies]
        chart = _lines(
            result,
            measured,
            x=lambda one: one.case.batch,
            y=lambda one: one.clips_per_s,
            axes=("clips a call", "clips a second", "clips a second"),
            caption=f"Clips a second against clips a call: {measured[0].case.frames} frames a clip.",
            x_scale="log",
        )
        charts.append(chart)
    if offline := result.records.offline:
        best = min(offline, key=lambda passes: passes.padding)
        rates = {one.backend: one.clips_per_s for one in offline if one.strategy == best.strategy}
        caption = f"{best.clips} clips at once, {STRATEGY_IN_WORDS[best.strategy]}. Longer is better."
        charts.append(_bars(rates, "clips/s", caption, most_first=True))
    return charts


def start_chart(result: BenchResult) -> BarChart | None:
    """Return the time from a fresh process to its first answer; None where it was not measured."""
    if not result.start_ms:
        return None
    totals = {backend: parts["total"] for backend, parts in result.start_ms.items()}
    notes = ratio_notes(
        result, [pair for pair in result.comparisons if pair.what == START_UP and pair.ratio.low]
    )
    return _bars(totals, "ms", "From a fresh process to its first answer. Shorter is better.", notes)


def memory_chart(result: BenchResult) -> BarChart | None:
    """Return the peak memory by backend, on the most threads; None where it was not measured."""
    most = max((memory.threads for memory in result.records.memory), default=0)
    peaks = {
        one.backend: one.after_runs / 1e6
        for one in result.records.memory
        if one.threads == most and one.after_runs is not None
    }
    caption = f"Peak memory of the process, {plural(most, 'thread')}. Shorter is better."
    return _bars(peaks, "MB", caption) if peaks else None


def tail_chart(result: BenchResult, case: Case) -> LineChart:
    """Return which share of a case's calls took as long or longer, a line for each backend."""
    backends = _places(result)
    lines = []
    for timing in result.records.timings:
        if timing.case == case:
            slowest_first_ms = np.sort(timing.samples_ns)[::-1] / 1e6
            count = len(slowest_first_ms)
            ranks = np.unique(np.geomspace(1, count, _POINTS).astype(int))
            points = [(float(slowest_first_ms[rank - 1]), rank / count) for rank in ranks]
            lines.append(Line(name=timing.backend, points=points[::-1], place=backends[timing.backend]))
    slowest = "; ".join(f"{line.name}: slowest call {format_sig3(line.points[-1][0])} ms" for line in lines)
    return LineChart(
        caption="The slowest calls: the further right a line goes, the longer a caller may wait.",
        alt=f"Share of calls that took as long or longer. {slowest}.",
        lines=lines,
        x="milliseconds a call",
        y="calls as long or longer",
        x_scale="log",
        y_scale="log",
        y_range=(min(y for line in lines for _, y in line.points), 1.0),
        y_percent=True,
        marks=False,
    )


def _places(result: BenchResult) -> dict[str, int]:
    """Return backend → the place that gives it its colour and mark, the same in all charts of a page."""
    named = (one.backend for one in result.latencies)
    return {backend: place for place, backend in enumerate(dict.fromkeys(named))}


def _lines(
    result: BenchResult,
    measured: Sequence[Latency],
    *,
    x: Callable[[Latency], float],
    y: Callable[[Latency], float],
    axes: tuple[str, str, str],
    caption: str,
    x_scale: Scale = "linear",
    y_scale: Scale = "linear",
) -> LineChart:
    places = _places(result)
    points: dict[str, list[tuple[float, float]]] = {}
    for one in measured:
        points.setdefault(one.backend, []).append((x(one), y(one)))
    lines = [Line(name=name, points=those, place=places[name]) for name, those in points.items()]
    x_name, y_name, unit = axes
    return LineChart(
        caption=caption,
        alt=f"{caption} {lines_in_words(lines, unit)}.",
        lines=lines,
        x=x_name,
        y=y_name,
        x_scale=x_scale,
        y_scale=y_scale,
        x_ticks=sorted({x(one) for one in measured}),
    )


def _bars(
    values: Mapping[str, float],
    unit: str,
    caption: str,
    notes: Mapping[str, str] | None = None,
    *,
    most_first: bool = False,
) -> BarChart:
    bars = [
        Bar(name=name, value=value, shown=f"{format_sig3(value)} {unit}", note=(notes or {}).get(name, ""))
        for name, value in sorted(values.items(), key=lambda item: item[1], reverse=most_first)
    ]
    return BarChart(caption=caption, bars=bars)
