"""Draw latency against clip length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from spoter_toolkit.bench.analysis.result import BenchResult, Latency
from spoter_toolkit.report.axes import COLOURS, empty_figure, finish_panel, label_log_axis
from spoter_toolkit.report.words import plural

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES: Final = ("-o", "--s", ":^", "-.D")  # of the thread counts
_COLUMNS: Final = 3
_SIDESTEP: Final = 0.008  # of the axis, so that the bars of different lines do not hide each other


def batches_with_lengths(result: BenchResult) -> list[int]:
    """Return the batches that were measured at several lengths; all of them where none was."""
    lengths: dict[int, set[int]] = {}
    for latency in result.latencies:
        lengths.setdefault(latency.case.batch, set()).add(latency.case.frames)
    several = [batch for batch, frames in lengths.items() if len(frames) > 1]
    return sorted(several or lengths)


def latency_figure(result: BenchResult, batches: Sequence[int]) -> Figure:
    """Draw median latency against frames, a panel for each batch, a line for each backend and thread count.

    The bar at a point holds the middle half of the samples.
    """
    columns = min(len(batches), _COLUMNS)
    rows = -(-len(batches) // columns)
    figure = empty_figure(1.0 + 4.6 * columns, 1.3 + 3.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, batch in zip(panels, batches, strict=False):
        draw_panel(panel, result, batch)
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


def draw_panel(panel: Axes, result: BenchResult, batch: int) -> None:
    """Draw the lines of one batch."""
    backends = list(dict.fromkeys(latency.backend for latency in result.latencies))
    threads = sorted({latency.case.threads for latency in result.latencies}, reverse=True)
    longest = max(latency.case.frames for latency in result.latencies)
    lines: dict[tuple[str, int], list[Latency]] = {
        (name, count): [] for name in backends for count in threads
    }
    for latency in result.latencies:
        if latency.case.batch == batch:
            lines[latency.backend, latency.case.threads].append(latency)
    for place, ((backend, count), latencies) in enumerate(lines.items()):
        if latencies:
            shift = (place - (len(lines) - 1) / 2) * _SIDESTEP * longest
            latencies.sort(key=lambda latency: latency.case.frames)
            low, middle, high = np.array([latency.quartiles_ms for latency in latencies]).T
            panel.errorbar(
                [latency.case.frames + shift for latency in latencies],
                middle,
                yerr=(middle - low, high - middle),
                fmt=_STYLES[threads.index(count) % len(_STYLES)],
                color=COLOURS[backends.index(backend) % len(COLOURS)],
                label=f"{backend}, {plural(count, 'thread')}",
                markersize=4,
                linewidth=1.5,
                elinewidth=1,
                capsize=2,
            )
    panel.set_title(f"{plural(batch, 'clip')} a call", fontsize=10)
    panel.set_xlim(0, 1.06 * longest)
    # On a logarithmic scale a ratio is a distance, and a disturbed measurement does not flatten the others.
    panel.set_yscale("log")
    low_ms, high_ms = panel.get_ylim()
    middle_ms = (low_ms * high_ms) ** 0.5
    panel.set_ylim(min(low_ms, middle_ms / 2), max(high_ms, middle_ms * 2))
    label_log_axis(panel.yaxis)
    finish_panel(panel, x="frames in a clip", y="milliseconds a call")
