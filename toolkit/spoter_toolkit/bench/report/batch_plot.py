"""Draw throughput against the number of clips a call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from spoter_runtime.errors import require
from spoter_toolkit.bench.analysis.result import BenchResult, Timing
from spoter_toolkit.bench.report.latency_plot import COLOURS
from spoter_toolkit.bench.settings import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST_BATCHES: Final = 3  # two points make no curve


def batch_curves(result: BenchResult) -> dict[str, list[Timing]]:
    """Return backend → timings along the batches, of the one length and thread count with the most of them.

    Empty where no length was measured at three batches.
    """
    batches: dict[tuple[int, int], set[int]] = {}
    for timing in result.timings:
        key = timing.case.frames, timing.case.threads
        batches.setdefault(key, set()).add(timing.case.batch)
    if not batches:
        return {}
    frames, threads = max(batches, key=lambda key: (len(batches[key]), -key[1]))
    if len(batches[frames, threads]) < _LEAST_BATCHES:
        return {}
    curves: dict[str, list[Timing]] = {}
    for timing in sorted(result.timings, key=lambda timing: timing.case.batch):
        if (timing.case.frames, timing.case.threads) == (frames, threads):
            curves.setdefault(timing.backend, []).append(timing)
    return curves


def batch_figure(result: BenchResult) -> Figure:
    """Draw clips per second against clips a call, a line a backend; `batch_curves` says which.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", extra="toolkit")
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    curves = batch_curves(result)
    figure = Figure(figsize=(6.2, 4.2), dpi=130)
    figure.set_layout_engine("constrained")
    panel = figure.subplots()
    for place, (backend, timings) in enumerate(curves.items()):
        panel.plot(
            [timing.case.batch for timing in timings],
            [timing.clips_per_s for timing in timings],
            "-o",
            color=COLOURS[place % len(COLOURS)],
            label=backend,
            markersize=4,
            linewidth=1.5,
        )
    ticks = sorted({timing.case.batch for timings in curves.values() for timing in timings})
    panel.set_xscale("log", base=2)
    panel.set_xticks(ticks, list(map(str, ticks)))
    panel.minorticks_off()
    panel.set_xlabel("clips a call")
    panel.set_ylabel("clips a second")
    panel.set_ylim(bottom=0)
    panel.grid(color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    return figure


def draw_batches(result: BenchResult, path: Path) -> None:
    """Write a PNG of `batch_figure`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = batch_figure(result)
    case = next(iter(batch_curves(result).values()))[0].case
    title = f"{result.bundle}: {case.frames} frames a clip, {plural(case.threads, 'thread')}"
    figure.suptitle(title, fontsize=11, wrap=True)
    figure.savefig(path, format="png")
