"""Draw how the calls of a case are distributed: percentiles of every case, and the tail of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from spoter_toolkit.bench.analysis.result import BenchResult, Latency
from spoter_toolkit.bench.settings import Case
from spoter_toolkit.report.axes import (
    add_legend,
    empty_figure,
    finish_panel,
    label_log_axis,
    line_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN: Final = 5.0
_LANE_IN: Final = 0.17  # of the picture's height, for a backend in a case
_POINTS: Final = 200  # of a tail's line, spaced by ratio: every one of the slowest calls is among them


def percentile_figure(result: BenchResult, threads: int) -> Figure:
    """Draw p50, p90 and p99 of every case on so many threads, a lane for each backend.

    A percentile without enough samples is not drawn.
    """
    latencies = [latency for latency in result.latencies if latency.case.threads == threads]
    cases = list(dict.fromkeys(latency.case for latency in latencies))
    backends = list(dict.fromkeys(latency.backend for latency in result.latencies))
    lanes = len(backends) + 1  # one is left free between cases
    figure = empty_figure(_WIDTH_IN, 1.2 + _LANE_IN * lanes * len(cases))
    panel = figure.subplots()
    for latency in latencies:
        place = backends.index(latency.backend)
        draw_lane(panel, latency, -cases.index(latency.case) * lanes - place, place)
    middle = (len(backends) - 1) / 2
    panel.set_yticks([-place * lanes - middle for place in range(len(cases))], [case.shape for case in cases])
    panel.set_ylim(-len(cases) * lanes + 1, 1)
    panel.tick_params(axis="y", length=0)
    panel.set_xscale("log")
    label_log_axis(panel.xaxis)
    finish_panel(panel, x="milliseconds a call", y="clips × frames", grid="x")
    add_legend(figure, backends)
    return figure


def tail_figure(result: BenchResult, case: Case) -> Figure:
    """Draw which share of a case's calls took as long or longer, a line for each backend, on log-log axes."""
    figure = empty_figure(_WIDTH_IN, 3.6)
    panel = figure.subplots()
    backends = list(dict.fromkeys(timing.backend for timing in result.records.timings))
    for timing in result.records.timings:
        if timing.case == case:
            slowest_first_ms = np.sort(timing.samples_ns)[::-1] / 1e6
            ranks = np.unique(np.geomspace(1, len(slowest_first_ms), _POINTS).astype(int))
            style = line_style(backends.index(timing.backend)) | {"marker": "", "linewidth": 1.6}
            panel.plot(slowest_first_ms[ranks - 1], ranks / len(slowest_first_ms), **style)
    panel.set_yscale("log")
    label_log_axis(panel.yaxis, lambda share: f"{100 * share:g} %")
    panel.set_xscale("log")
    label_log_axis(panel.xaxis)
    finish_panel(panel, x="milliseconds a call", y="calls as long or longer")
    add_legend(figure, backends)
    return figure


def draw_lane(panel: Axes, latency: Latency, lane: float, place: int) -> None:
    """Draw the percentiles of one backend on one case: p50 filled, p90 a bar, p99 open."""
    style = line_style(place)
    known = [value for value in latency.percentiles_ms.values() if value is not None]
    panel.plot(known, [lane] * len(known), **style | {"marker": "", "linewidth": 1.2})
    for percent, mark, fill, size in (
        (50, style["marker"], style["color"], 5.0),
        (90, "|", style["color"], 7.0),
        (99, style["marker"], "white", 5.0),
    ):
        if (value := latency.percentiles_ms[percent]) is not None:
            panel.plot([value], [lane], mark, color=style["color"], markerfacecolor=fill, markersize=size)
