"""Draw throughput against the number of clips per call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spoter_toolkit.bench.analysis.result import BenchResult, Latency
from spoter_toolkit.report.axes import empty_figure, finish_panel, line_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST_BATCHES: Final = 3  # two points make no curve


def batch_curves(result: BenchResult) -> dict[str, list[Latency]]:
    """Return backend → latencies along the batches, of the one length and thread count with the most of them.

    Empty where no length was measured at three batches.
    """
    batches: dict[tuple[int, int], set[int]] = {}
    for latency in result.latencies:
        batches.setdefault((latency.case.frames, latency.case.threads), set()).add(latency.case.batch)
    most = max(batches, key=lambda key: (len(batches[key]), -key[1]), default=None)
    if most is None or len(batches[most]) < _LEAST_BATCHES:
        return {}
    curves: dict[str, list[Latency]] = {}
    for latency in sorted(result.latencies, key=lambda latency: latency.case.batch):
        if (latency.case.frames, latency.case.threads) == most:
            curves.setdefault(latency.backend, []).append(latency)
    return curves


def batch_figure(curves: dict[str, list[Latency]]) -> Figure:
    """Draw clips per second against clips per call, a line for each backend of `batch_curves`."""
    figure = empty_figure(6.2, 4.2)
    panel = figure.subplots()
    for place, (backend, latencies) in enumerate(curves.items()):
        batches = [latency.case.batch for latency in latencies]
        rates = [latency.clips_per_s for latency in latencies]
        panel.plot(batches, rates, label=backend, markersize=4, linewidth=1.5, **line_style(place))
    ticks = sorted({latency.case.batch for latencies in curves.values() for latency in latencies})
    panel.set_xscale("log", base=2)
    panel.set_xticks(ticks, list(map(str, ticks)))
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    finish_panel(panel, x="clips a call", y="clips a second")
    panel.legend(frameon=False)
    return figure
