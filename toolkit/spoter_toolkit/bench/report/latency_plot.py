"""Draw latency against clip length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from spoter_runtime.errors import require
from spoter_toolkit.bench.analysis.result import BenchResult, Timing
from spoter_toolkit.bench.settings import plural

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart by people with any colour vision, and in print.
COLOURS: Final = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES: Final = ("-o", "--s", ":^", "-.D")
_COLUMNS: Final = 3
_DPI: Final = 130
_EVEN_TICKS: Final = 4  # at most, between the ends of a short axis
_SIDESTEP: Final = 0.008  # of the axis, so that the bars of different lines do not hide each other


def draw_latency(result: BenchResult, path: Path) -> None:
    """Write a PNG of `latency_figure`, the batches of `batches_with_lengths`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = latency_figure(result, batches_with_lengths(result))
    title = f"{result.bundle}: median latency; bars hold the middle half of the calls"
    figure.suptitle(title, fontsize=11, wrap=True)
    figure.savefig(path, format="png")


def batches_with_lengths(result: BenchResult) -> list[int]:
    """Return the batches that were measured at several lengths; all of them where none was."""
    lengths: dict[int, set[int]] = {}
    for timing in result.timings:
        lengths.setdefault(timing.case.batch, set()).add(timing.case.frames)
    several = [batch for batch, frames in lengths.items() if len(frames) > 1]
    return sorted(several or lengths)


def latency_figure(result: BenchResult, batches: Sequence[int]) -> Figure:
    """Draw median latency against frames, a panel a batch, a line a backend and thread count.

    The bar at a point holds the middle half of the samples.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", extra="toolkit")
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    columns = min(len(batches), _COLUMNS)
    rows = -(-len(batches) // columns)
    figure = Figure(figsize=(1.0 + 4.6 * columns, 1.3 + 3.4 * rows), dpi=_DPI)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, batch in zip(panels, batches, strict=False):
        _draw_panel(panel, result, batch)
    for panel in panels[len(batches) :]:
        panel.set_visible(False)
    lines: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            lines[label] = handle
    figure.legend(
        list(lines.values()), list(lines), loc="outside lower center", ncols=2 * columns, frameon=False
    )
    return figure


def label_log_axis(axis: Axis, written: Callable[[float], str] = "{:g}".format) -> None:
    """Set the ticks of a logarithmic axis whose limits stand: at 1, 2, 5 of each decade.

    Where the axis is so short that fewer than two of them are on it, they are evenly spaced round numbers.

    Args:
        axis: of a panel.
        written: a tick's value as a text.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    steps = LogLocator(subs=(1, 2, 5))
    shown = [tick for tick in steps.tick_values(low, high) if low <= tick <= high]
    axis.set_major_locator(steps if len(shown) > 1 else MaxNLocator(_EVEN_TICKS, min_n_ticks=2))
    axis.set_major_formatter(lambda value, _: written(value))
    axis.set_minor_locator(NullLocator())


def _draw_panel(panel: Axes, result: BenchResult, batch: int) -> None:
    backends = list(dict.fromkeys(timing.backend for timing in result.timings))
    threads = sorted({timing.case.threads for timing in result.timings}, reverse=True)
    longest = max(timing.case.frames for timing in result.timings)
    lines = [(backend, count) for backend in backends for count in threads]
    for place, (backend, count) in enumerate(lines):
        timings = [
            t for t in result.timings if (t.backend, t.case.batch, t.case.threads) == (backend, batch, count)
        ]
        if timings:
            _draw_line(
                panel,
                sorted(timings, key=lambda timing: timing.case.frames),
                shift=(place - (len(lines) - 1) / 2) * _SIDESTEP * longest,
                style=_STYLES[threads.index(count) % len(_STYLES)],
                colour=COLOURS[backends.index(backend) % len(COLOURS)],
                label=f"{backend}, {plural(count, 'thread')}",
            )
    panel.set_title(f"{plural(batch, 'clip')} a call", fontsize=10)
    panel.set_xlabel("frames in a clip")
    panel.set_ylabel("milliseconds a call")
    panel.set_xlim(0, 1.06 * longest)
    # On a logarithmic scale a ratio is a distance, and a disturbed measurement does not flatten the others.
    panel.set_yscale("log")
    low, high = panel.get_ylim()
    panel.set_ylim(min(low, (low * high) ** 0.5 / 2), max(high, (low * high) ** 0.5 * 2))
    label_log_axis(panel.yaxis)
    panel.grid(color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_line(
    panel: Axes, timings: list[Timing], *, shift: float, style: str, colour: str, label: str
) -> None:
    low, middle, high = np.array(
        [np.percentile(timing.samples_ns, (25, 50, 75)) / 1e6 for timing in timings]
    ).T
    panel.errorbar(
        [timing.case.frames + shift for timing in timings],
        middle,
        yerr=(middle - low, high - middle),
        fmt=style,
        color=colour,
        label=label,
        markersize=4,
        linewidth=1.5,
        elinewidth=1,
        capsize=2,
    )
