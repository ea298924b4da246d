"""Draw the axes that all pictures of a bench share: palette, marks, ticks, legend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spoter_runtime.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart by people with any colour vision, and in print. Colour is not the only
# difference between backends: each has its own mark and dashes.
COLOURS: Final = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS: Final = ("o", "s", "^", "D", "v", "P")
DASHES: Final = ("-", "--", ":", "-.")
_EVEN_TICKS: Final = 4  # at most, between the ends of a short axis


def empty_figure(width_in: float, height_in: float) -> Figure:
    """Return a figure without panels.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", extra="toolkit")
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(width_in, height_in), dpi=130)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    return figure


def line_style(place: int) -> dict[str, Any]:
    """Return Matplotlib line options (color, linestyle, marker) for the backend at index `place`."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": DASHES[place % len(DASHES)],
        "marker": MARKS[place % len(MARKS)],
    }


def finish_panel(panel: Axes, *, x: str, y: str, grid: str = "both") -> None:
    """Name the axes of a panel, and draw its grid behind the data."""
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(axis=grid, color="0.9")  # type: ignore[arg-type]  # a Literal in the stubs
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def label_log_axis(axis: Axis, written: Callable[[float], str] = "{:g}".format) -> None:
    """Set the ticks of a logarithmic axis whose limits stand: at 1, 2, 5 of each decade.

    Where the axis is so short that it has fewer than two of these, they are evenly spaced round numbers.

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


def save_png(figure: Figure, title: str, path: Path) -> None:
    """Write a figure with a title as a PNG."""
    figure.suptitle(title, fontsize=11, wrap=True)
    figure.savefig(path, format="png")
