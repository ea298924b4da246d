"""Lay a report out as one HTML file that needs no other file and no network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from spoter_runtime._version import __version__
from spoter_runtime.errors import require
from spoter_toolkit.report.charts import BarChart, Confusion, Grid, LineChart, Timeline
from spoter_toolkit.report.skeleton import Skeleton
from spoter_toolkit.report.table import Table

if TYPE_CHECKING:
    from markupsafe import Markup

Chart: TypeAlias = BarChart | LineChart | Grid | Confusion | Timeline | Skeleton

_TEMPLATE: Final = "page.html.j2"
# Letters and signs of the Bengali block, the danda that it shares, joiners; words and signs between them.
_WORD: Final = "[\u0980-\u09ff\u0964\u0965\u200c\u200d]+"
_BENGALI: Final = re.compile(f"{_WORD}(?:[ /,.-]+{_WORD})*")
_ROWS_A_PAGE: Final = 30
_STACKED_A_PAGE: Final = 15
_FIGURE: Final = re.compile(r"[-−+]?\d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a page with a heading: paragraphs, charts, lists and tables; empty ones are left out.

    Attributes:
        name: of the place in the page, for links: letters and hyphens, another for each section.
        layout: ``"pictures"`` sets charts side by side, ``"films"`` small ones, ``"wide"`` each alone.
        folded: summary → sentences that a click on it shows.
        tables: each folded below its title.
        links: text → a page beside this one.
    """

    name: str
    title: str
    paragraphs: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    layout: Literal["pictures", "films", "wide"] = "pictures"
    folded: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report for people: the verdict, one picture, then the rest.

    Attributes:
        verdict: the first line.
        title: the page's subject, below the verdict and in the browser's tab.
        about: a sentence behind the title, below the verdict.
        passed: draws the verdict with ✓ or ✗; None: with neither.
        lead: the chart that a reader looks for, before everything else.
        caveats: sentences that a reader must know before believing the figures; one line opens them.
        facts: name → value, at the end: versions, hashes.
    """

    verdict: str
    title: str
    about: str = ""
    passed: bool | None = None
    lead: Sequence[Chart] = ()
    caveats: Sequence[str] = ()
    sections: Sequence[Section] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def html_from_page(page: Page) -> str:
    """Return a page that needs no other file, no network and no script; every text in it is escaped.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="toolkit")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("spoter_toolkit.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bengali"] = with_bengali_marked
    environment.globals |= {
        **{"layout": layout_of, "is_long": is_long, "cells": cells_of, "is_figures": is_figures},
        **{"page": page, "version": __version__},
    }
    html: str = environment.get_template(_TEMPLATE).render()
    return html


def layout_of(table: Table) -> str:
    """Return the name of a table's style in the page."""
    if not table.sentences:
        return "plain"
    return "stacked" if len(table.columns) > 2 else "wrapped"


def is_long(table: Table) -> bool:
    """Tell whether a printed page may be too short for a table."""
    return len(table.rows) > (_STACKED_A_PAGE if layout_of(table) == "stacked" else _ROWS_A_PAGE)


def cells_of(table: Table, row: Sequence[str]) -> list[tuple[int, str, int]]:
    """Return (column, text, width in columns) of all but the first cell of a row.

    In a table with sentences the last cell takes the room of the empty ones before it.
    """
    cells = [(column, text, 1) for column, text in enumerate(row) if column > 0]
    if table.sentences and len(cells) > 1:
        *others, last = cells
        while others and not others[-1][1]:
            others.pop()
        return [*others, (last[0], last[1], len(cells) - len(others))]
    return cells


def is_figures(table: Table, column: int) -> bool:
    """Tell whether a column, not the first, holds figures: they are set to the right."""
    return column > 0 and not table.sentences and any(_FIGURE.match(row[column]) for row in table.rows)


def with_bengali_marked(text: str) -> Markup:
    """Return escaped text with its Bengali words marked as such: for screen readers, and for the font."""
    from markupsafe import Markup, escape

    marked = _BENGALI.sub(lambda words: f'<span lang="bn">{words[0]}</span>', str(escape(text)))
    return Markup(marked)
