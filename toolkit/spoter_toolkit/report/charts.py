"""Charts of a page as plain data: bars, lines, a grid of verdicts, a confusion matrix, a timeline.

`page.html.j2` draws them as HTML and SVG in the page's own text and colours: a reader's fonts shape Bengali
there, the charts follow light and dark, and a phone breaks the lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from spoter_toolkit.report.words import format_sig3

Scale = Literal["linear", "log"]
State = Literal["yes", "no", "none"]

WIDTH: Final = 480  # of a line chart, in its own units
HEIGHT: Final = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 10, 40
_CELL: Final = 22  # of a confusion matrix
_LETTER: Final = 7.2  # width of a letter of its labels
_LONGEST_LABEL: Final = 24  # letters
_MOST_TICKS: Final = 6
_SECOND: Final = 44  # of a timeline
_ROW_NAME: Final = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar.

    Attributes:
        low, high: ends of the thin line over the bar; None draws none.
        shown: the value with its unit.
        note: behind it, such as a ratio.
    """

    name: str
    value: float
    shown: str
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """Bars from 0, one below the other, with their values as text.

    Attributes:
        best_first: gives the first bar a colour of its own.
        most: value of a bar of the whole width; None takes the longest bar.
    """

    kind: ClassVar = "bars"
    caption: str
    bars: Sequence[Bar]
    best_first: bool = True
    most: float | None = None

    def percent(self, value: float) -> str:
        """Return a value as a share of the whole width."""
        longest = self.most or max(bar.high if bar.high is not None else bar.value for bar in self.bars)
        return f"{100 * value / longest if longest else 0:.2f}%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a chart; `place` gives its colour, dashes and mark."""

    name: str
    points: Sequence[tuple[float, float]]
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A tick of an axis: its place in the chart's units, and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """Lines over two axes.

    Attributes:
        alt: the values in words, for people who cannot see the chart.
        x, y: names of the axes.
        x_ticks: values that get a tick; None chooses round ones.
        y_range: None takes that of the lines; a linear axis begins at 0.
        marks: at every point.
    """

    kind: ClassVar = "lines"
    caption: str
    alt: str
    lines: Sequence[Line]
    x: str
    y: str
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    x_ticks: Sequence[float] | None = None
    y_range: tuple[float, float] | None = None
    y_percent: bool = False
    marks: bool = True

    @property
    def x_range(self) -> tuple[float, float]:
        """The least and the largest x."""
        values = [x for line in self.lines for x, _ in line.points]
        return min(values), max(values)

    @property
    def shown_y_range(self) -> tuple[float, float]:
        """The ends of the y axis."""
        if self.y_range:
            return self.y_range
        values = [y for line in self.lines for _, y in line.points]
        if self.y_scale == "linear":
            return 0.0, 1.05 * max(*values, 1e-12)
        low, high = min(values), max(values)
        middle = math.sqrt(low * high)
        return min(low / 1.1, middle / 2), max(high * 1.1, middle * 2)

    def placed(self, line: Line) -> list[tuple[float, float]]:
        """Return the points of a line in the chart's units."""
        return [(self._across(x), self._down(y)) for x, y in line.points]

    @property
    def ticks(self) -> tuple[list[Tick], list[Tick]]:
        """The ticks of the x axis and of the y axis."""
        x_values = self.x_ticks or ticks_between(*self.x_range, self.x_scale)
        y_values = ticks_between(*self.shown_y_range, self.y_scale)
        return (
            [Tick(at=self._across(x), text=f"{x:g}") for x in x_values],
            [Tick(at=self._down(y), text=f"{100 * y:g} %" if self.y_percent else f"{y:g}") for y in y_values],
        )

    @property
    def frame(self) -> dict[str, int]:
        """The edges of the panel in the chart's units."""
        return {"left": _LEFT, "right": WIDTH - _RIGHT, "top": _TOP, "bottom": HEIGHT - _BOTTOM}

    def _across(self, x: float) -> float:
        share = share_of(x, self.x_range, self.x_scale)
        return round(_LEFT + 8 + share * (WIDTH - _LEFT - _RIGHT - 16), 1)

    def _down(self, y: float) -> float:
        share = share_of(y, self.shown_y_range, self.y_scale)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A verdict of a grid: its symbol says it without colour."""

    state: State
    text: str = ""

    @property
    def symbol(self) -> str:
        """``✓``, ``✗``, or ``–`` where nothing was run."""
        return {"yes": "✓", "no": "✗", "none": "–"}[self.state]

    @property
    def word(self) -> str:
        """The verdict for a reader who hears the page."""
        return {"yes": "yes", "no": "no", "none": "not run"}[self.state]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Verdicts, rows × columns."""

    kind: ClassVar = "grid"
    caption: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """A confusion matrix: a row for each true label, a column for each label that was recognised."""

    kind: ClassVar = "confusion"
    caption: str
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]

    @property
    def cells(self) -> list[tuple[int, int, int, str]]:
        """(row, column, clips, share of the row's clips) of each cell that has clips."""
        return [
            (row, column, count, f"{count / sum(counts):.2f}")
            for row, counts in enumerate(self.counts)
            for column, count in enumerate(counts)
            if count
        ]

    @property
    def margin(self) -> int:
        """Room for the labels, in the chart's units."""
        return round(16 + _LETTER * min(_LONGEST_LABEL, max(map(len, self.labels))))

    @property
    def side(self) -> int:
        """Of the whole chart, in its own units, which are pixels where there is room."""
        return self.margin + _CELL * len(self.labels) + 2

    @property
    def short_labels(self) -> list[str]:
        """The labels, cut where they are longer than their room."""
        return [
            label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"
            for label in self.labels
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A segment of a timeline, with the text in it."""

    start_s: float
    end_s: float
    text: str
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Rows of segments over one axis of time; scrolled sideways.

    Attributes:
        rows: name → segments.
    """

    kind: ClassVar = "timeline"
    caption: str
    alt: str
    rows: Sequence[tuple[str, Sequence[Span]]]

    @property
    def seconds(self) -> float:
        """Its length."""
        return max((span.end_s for _, spans in self.rows for span in spans), default=0.0)

    @property
    def side(self) -> int:
        """Width in its own units, which are pixels."""
        return round(self.x(self.seconds)) + 8

    def x(self, second: float) -> float:
        """Return the place of a second."""
        return round(_ROW_NAME + _SECOND * second, 1)


def share_of(value: float, ends: tuple[float, float], scale: Scale) -> float:
    """Return how far along an axis a value lies, 0..1; the middle where the axis has no length."""
    low, high = ends
    if scale == "log":
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low) if high > low else 0.5


def ticks_between(low: float, high: float, scale: Scale) -> list[float]:
    """Return round values from `low` to `high`: on a logarithmic axis 1, 2, 5 of each decade.

    A logarithmic axis too short for two of these gets evenly spaced ones.
    """
    if scale == "log":
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 5), (1,)):
            ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if len(ticks) <= _MOST_TICKS:
                break
        if len(ticks) > 1:
            return ticks
    if high <= low:
        return [low]
    rough = (high - low) / (_MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{n * step:.10g}") for n in range(first, math.floor(high / step + 1e-9) + 1)]


def lines_in_words(lines: Sequence[Line], unit: str) -> str:
    """Return the values of lines as text, a part for each line."""
    return "; ".join(
        f"{line.name}: " + ", ".join(f"{format_sig3(y)} {unit} at {x:g}" for x, y in line.points)
        for line in lines
    )
