"""Hold a table for people: the same cells on the terminal, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spoter_toolkit.report.words import format_sig3


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of formatted cells; the first cell of a row names it.

    Attributes:
        note: shown below it; empty where nothing needs explaining.
        sentences: True if cells hold sentences: HTML breaks them into lines, and a narrow screen shows each
            row as a list. If False, numbers stand to the right, and a narrow screen scrolls sideways.
        verdict_last: True if the last column holds the verdict; it stays in sight on a narrow screen.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    sentences: bool = False
    verdict_last: bool = False


def table_of(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, note: str = "", **layout: bool
) -> Table:
    """Return a table of values: numbers with a fraction get three significant digits.

    Args:
        title: of the table.
        columns: names of the columns.
        rows: values, a row each.
        note: shown below it.
        layout: other fields of `Table`.
    """
    cells = [tuple(format_sig3(v) if isinstance(v, float) else str(v) for v in row) for row in rows]
    return Table(title=title, columns=columns, rows=cells, note=note, **layout)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, figures: bool = True) -> str:
    """Return a table in Markdown; figures are set to the right, in all columns but the first."""
    rule = ["---"] + ["---:" if figures else "---"] * (len(columns) - 1)
    return "\n".join("| " + " | ".join(map(markdown_cell, row)) + " |" for row in (columns, rule, *rows))


def markdown_cell(text: str) -> str:
    """Return a text that stays within its cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
