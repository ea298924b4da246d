"""What every verb shares on the terminal: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as TerminalTable
from rich.text import Text

from spoter_runtime._types import OnProgress as OnProgress
from spoter_runtime.errors import SpoterError
from spoter_toolkit.report.table import Table

ANSWER_IS_NO: Final = 3  # exit code: it ran, and the answer is no
INTERRUPTED: Final = 130  # exit code: Ctrl-C, as shells have it

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]
BundleArgument = Annotated[Path | None, typer.Argument(help="BUNDLE; default: the newest.")]
BackendOption = Annotated[
    str | None, typer.Option(help="Backend, as in ort-cpu:int8; default: the best that works here.")
]
PrecisionOption = Annotated[str | None, typer.Option(help="Precision of the file to run; default: fp32.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is already there.")]

_IN_A_ROW: Final = ContextVar("in_a_row", default=False)


def say(text: str, *, fix: str = "") -> None:
    """Print one remark for the person at the terminal, on stderr, with its fix as errors show theirs."""
    print(SpoterError(text, fix=fix), file=sys.stderr)


def say_passed_over(passed_over: Mapping[str, str]) -> None:
    """Print on stderr which backends of a bundle were not taken, and why."""
    for backend, reason in passed_over.items():
        say(f"passed over: {backend}: {reason}")


def next_step(command: str, *paths: object) -> None:
    """End a verb with the next useful command; each ``{}`` in it becomes a path, quoted for the shell."""
    if not in_a_row():
        say("\nnext: " + command.format(*(shlex.quote(str(path)) for path in paths)))


@contextmanager
def verbs_in_a_row() -> Iterator[None]:
    """Let no verb in this context name the next command or move ``runs/last``: another verb runs them."""
    token = _IN_A_ROW.set(True)
    try:
        yield
    finally:
        _IN_A_ROW.reset(token)


def in_a_row() -> bool:
    """Tell whether another verb, the demo, runs this one."""
    return _IN_A_ROW.get()


def emit_json(value: Any) -> None:
    """Print a verb's whole result as one JSON object on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def emit_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, note: str = ""
) -> None:
    """Print a table on stdout, and a note below it; numbers belong in already formatted strings."""
    show_table(Table(title=title, columns=columns, rows=[list(map(str, row)) for row in rows], note=note))


def show_table(shown: Table) -> None:
    """Print a table on stdout, and its note below it."""
    table = TerminalTable()
    for i, column in enumerate(shown.columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in shown.rows:
        table.add_row(*map(Text, row))  # a label may look like markup
    # In a pipe or a file a table keeps its width: wrapped columns cannot be read by anyone.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if shown.title:
        console.print(shown.title, style="bold", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    if shown.note:
        print(shown.note)


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """Yield an `on_progress(done, total, what)`: a bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=4,  # more would take time from what is being measured or trained
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)
