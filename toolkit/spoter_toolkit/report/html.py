"""Lay a report out as one HTML file that asks for nothing from anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from spoter_runtime._version import __version__
from spoter_runtime.errors import require

if TYPE_CHECKING:
    from markupsafe import Markup

_TEMPLATE: Final = "page.html.j2"
# Letters and signs of the Bengali block, the danda that it shares, joiners; words with what stands between.
_WORD: Final = "[\u0980-\u09ff\u0964\u0965\u200c\u200d]+"
_BENGALI: Final = re.compile(f"{_WORD}(?:[ /,.-]+{_WORD})*")
_ROWS_A_PAGE: Final = 30
_STACKED_A_PAGE: Final = 15
_FIGURE: Final = re.compile(r"[-−+]?\d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of formatted cells; the first cell of a row names it.

    Attributes:
        sentences: there are some in its cells, so they are broken into lines, and on a narrow screen each row
            becomes a list; a table of names and figures is scrolled sideways there, in its own frame.
        note: to be read below it.
        verdict_last: the last column is what a reader looks for: on a narrow screen it stays in sight.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    sentences: bool = False
    note: str = ""
    verdict_last: bool = False

    @property
    def layout(self) -> str:
        """Name of its style in the page."""
        if not self.sentences:
            return "plain"
        return "stacked" if len(self.columns) > 2 else "wrapped"

    @property
    def is_long(self) -> bool:
        """True where a printed page may be too short for it."""
        return len(self.rows) > (_STACKED_A_PAGE if self.layout == "stacked" else _ROWS_A_PAGE)

    def cells(self, row: Sequence[str]) -> list[tuple[int, str, int]]:
        """Return (column, text, width in columns) of all but the first cell of a row.

        Where sentences are, the last cell takes the room of the empty ones before it.
        """
        cells = [(column, text, 1) for column, text in enumerate(row) if column > 0]
        if self.sentences and len(cells) > 1:
            *others, last = cells
            while others and not others[-1][1]:
                others.pop()
            return [*others, (last[0], last[1], len(cells) - len(others))]
        return cells

    def is_figures(self, column: int) -> bool:
        """Tell whether a column, not the first, holds figures: they are set to the right."""
        return column > 0 and not self.sentences and any(_FIGURE.match(row[column]) for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An SVG element as text, and what it shows in words.

    Attributes:
        svg: from `spoter_toolkit.report.svg.svg_from_figure`; it goes into the page as it is.
        caption: shown below it.
    """

    svg: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a page with a heading: paragraphs, then a list, pictures, tables; empty ones are left out.

    Attributes:
        name: of the place in the page, for links: letters and hyphens, another for each section.
        new_page: where it is printed.
    """

    name: str
    title: str
    paragraphs: Sequence[str] = ()
    points: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    new_page: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report for people.

    Attributes:
        facts: what it is about, name → value, below the title.
        findings: a sentence for each main result.
        warnings: what a reader must know before believing them.
    """

    title: str
    facts: dict[str, str]
    findings: Sequence[str]
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()


def html_from_page(page: Page) -> str:
    """Return a page that needs no other file, no network and no script; every text in it is escaped.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="toolkit")
    source = files("spoter_toolkit.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["bengali"] = _with_bengali_marked
    html: str = environment.from_string(source).render(page=page, version=__version__)
    return html


def _with_bengali_marked(text: str) -> Markup:
    """Return escaped text whose Bengali says so: for the voice that reads it, and for the font."""
    from markupsafe import Markup, escape

    marked = _BENGALI.sub(lambda words: f'<span lang="bn">{words[0]}</span>', str(escape(text)))
    return Markup(marked)
