"""Draw how the calls of a case are distributed: percentiles of every case, and the tail of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from spoter_runtime.errors import require
from spoter_toolkit.bench.analysis.result import BenchResult, Timing
from spoter_toolkit.bench.report.latency_plot import COLOURS, label_log_axis
from spoter_toolkit.bench.settings import Case

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour is not the only thing that tells backends apart: each has its own mark and dashes.
_MARKS: Final = ("o", "s", "^", "D", "v", "P")
_DASHES: Final = ("-", "--", ":", "-.")
_WIDTH_IN: Final = 5.0
_POINTS: Final = 200  # of a tail's line, spaced by ratio: every one of the slowest calls is among them
_LANE_IN: Final = 0.17  # of the picture's height, for a backend in a case


def percentile_figure(result: BenchResult, threads: int) -> Figure:
    """Draw p50, p90 and p99 of every case on so many threads, a lane a backend.

    A percentile without enough samples is not drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    timings = [timing for timing in result.timings if timing.case.threads == threads]
    cases = list(dict.fromkeys(timing.case for timing in timings))
    backends = _backends(result)
    lanes = len(backends) + 1  # one is left free between cases
    figure, panel = _empty(1.2 + _LANE_IN * lanes * len(cases))
    for timing in timings:
        lane = -cases.index(timing.case) * lanes - backends.index(timing.backend)
        _draw_lane(panel, timing, lane, backends.index(timing.backend))
    middle = (len(backends) - 1) / 2
    panel.set_yticks([-place * lanes - middle for place in range(len(cases))], [case.shape for case in cases])
    panel.set_ylim(-len(cases) * lanes + 1, 1)
    panel.set_ylabel("clips × frames")
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color="0.9")
    _finish(figure, panel, backends)
    return figure


def tail_figure(result: BenchResult, case: Case) -> Figure:
    """Draw what share of a case's calls took longer than so long, a line a backend; both axes logarithmic.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, panel = _empty(3.6)
    backends = _backends(result)
    for timing in result.timings:
        if timing.case == case:
            place = backends.index(timing.backend)
            slowest_first_ms = np.sort(timing.samples_ns)[::-1] / 1e6
            ranks = np.unique(np.geomspace(1, len(slowest_first_ms), _POINTS).astype(int))
            panel.plot(
                slowest_first_ms[ranks - 1],
                ranks / len(slowest_first_ms),
                color=COLOURS[place % len(COLOURS)],
                linestyle=_DASHES[place % len(_DASHES)],
                linewidth=1.6,
            )
    panel.set_yscale("log")
    panel.set_ylabel("share of calls that took as long or longer")
    label_log_axis(panel.yaxis, lambda share: f"{100 * share:g} %")
    panel.grid(color="0.9")
    _finish(figure, panel, backends)
    return figure


def _backends(result: BenchResult) -> list[str]:
    return list(dict.fromkeys(timing.backend for timing in result.timings))


def _empty(height_in: float) -> tuple[Figure, Axes]:
    require("matplotlib", extra="toolkit")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, height_in))
    figure.set_layout_engine("constrained")
    return figure, figure.subplots()


def _draw_lane(panel: Axes, timing: Timing, lane: float, place: int) -> None:
    colour = COLOURS[place % len(COLOURS)]
    p50, p90, p99 = (timing.percentile_ms(percent) for percent in (50, 90, 99))
    known = [value for value in (p50, p90, p99) if value is not None]
    panel.plot(
        known, [lane] * len(known), color=colour, linestyle=_DASHES[place % len(_DASHES)], linewidth=1.2
    )
    for value, mark, fill, size in (
        (p50, _MARKS[place % len(_MARKS)], colour, 5.0),
        (p90, "|", colour, 7.0),
        (p99, _MARKS[place % len(_MARKS)], "white", 5.0),
    ):
        if value is not None:
            panel.plot([value], [lane], mark, color=colour, markerfacecolor=fill, markersize=size)


def _finish(figure: Figure, panel: Axes, backends: list[str]) -> None:
    """Set the axis of milliseconds, and name the backends below."""
    from matplotlib.lines import Line2D

    panel.set_xscale("log")
    panel.set_xlabel("milliseconds a call")
    label_log_axis(panel.xaxis)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    named = [
        Line2D(
            [],
            [],
            color=COLOURS[place % len(COLOURS)],
            linestyle=_DASHES[place % len(_DASHES)],
            marker=_MARKS[place % len(_MARKS)],
            label=backend,
        )
        for place, backend in enumerate(backends)
    ]
    figure.legend(handles=named, loc="outside lower center", ncols=min(len(named), 3), frameon=False)
