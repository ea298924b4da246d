"""What every verb shares on the terminal: results on stdout, all else on stderr, and how much of it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.table import Table as TerminalTable
from rich.text import Text

from spoter_runtime._types import OnProgress as OnProgress
from spoter_runtime.errors import SpoterError
from spoter_toolkit.cli.completion import complete_backend, complete_bundle, complete_dataset
from spoter_toolkit.report.table import Table
from spoter_toolkit.report.words import about_time

ANSWER_IS_NO: Final = 3  # exit code: it ran, and the answer is no
INTERRUPTED: Final = 130  # exit code: Ctrl-C, as shells have it; 128 + number for other signals

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
BundleArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="BUNDLE", help="Take this BUNDLE; default: the newest.", autocompletion=complete_bundle
    ),
]
DatasetArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="DATASET",
        help="Take this DATASET; default: the newest in datasets/.",
        autocompletion=complete_dataset,
    ),
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        help="Run this backend, as in ort-cpu:int8; default: the best that works here.",
        autocompletion=complete_backend,
    ),
]
PrecisionOption = Annotated[str | None, typer.Option(help="Run the file of this precision; default: fp32.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is already there.")]

# In a pipe: until the first line of progress and the second one; each later one takes twice as long.
_FIRST_S: Final = 20.0  # of less, nobody can tell how long the rest takes
_SECOND_S: Final = 60.0
_LEAST_SHARE: Final = 0.002  # of the work: of less, the first steps tell no time that is left
_BAR: Final = 20  # columns of a bar, and on a terminal of less than 100: the words need the room
_NARROW_BAR: Final = 10
# A command stands behind these, in one piece.
_COMMAND: Final = re.compile("(Fix: |go on with: |use them with: )")


class Loudness(IntEnum):
    """How much a verb prints."""

    QUIET = 0  # errors, and an answer that is no
    NORMAL = 1  # the verdict, the figure that matters, the next command
    VERBOSE = 2  # all tables


_LOUDNESS: Final = ContextVar("loudness", default=Loudness.NORMAL)


def set_loudness(loudness: Loudness) -> None:
    """Choose how much the verbs of this process print."""
    _LOUDNESS.set(loudness)


def is_verbose() -> bool:
    """Tell whether ``-v`` was given."""
    return _LOUDNESS.get() is Loudness.VERBOSE


def is_quiet() -> bool:
    """Tell whether ``-q`` was given."""
    return _LOUDNESS.get() is Loudness.QUIET


def tell(*lines: str, whole: bool = False) -> None:
    """Print lines of a verb's result on stdout; `whole` ones are never broken: they hold commands."""
    if not is_quiet():
        insist(*lines, whole=whole)


def insist(*lines: str, whole: bool = False) -> None:
    """Print lines as `tell` does, also after ``-q``: the answer is no."""
    for line in lines:
        print(line if whole else fitted(line, sys.stdout))


def say(text: str, *, fix: str = "") -> None:
    """Print one remark for the person at the terminal, on stderr, with its fix as errors show theirs."""
    if not is_quiet():
        print(fitted(str(SpoterError(text, fix=fix)), sys.stderr), file=sys.stderr)


def say_busy() -> None:
    """Say that one thread is faster where others take the cores, and with which command."""
    if busy := busy_cores():
        say(
            f"this machine is busy ({busy}); then one thread is faster",
            fix=f"OMP_NUM_THREADS=1 {shlex.join(['spoter-kit', *sys.argv[1:]])}",
        )


def busy_cores() -> str:
    """Return the load where others take the cores and PyTorch's threads wait for each other, else nothing.

    See `training.threads`.
    """
    import os

    from spoter_runtime.machine import usable_cores

    cores = usable_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    is_busy = load >= 2 * cores > 2 and "OMP_NUM_THREADS" not in os.environ
    return f"load {load:.0f} on {cores} cores" if is_busy else ""


def say_passed_over(passed_over: Mapping[str, str]) -> None:
    """Print on stderr which backends of a bundle were not taken, and why."""
    for backend, reason in passed_over.items():
        say(f"passed over: {backend}: {reason}")


def next_step(command: str, *paths: object) -> None:
    """End a verb with the next useful command; each ``{}`` in it becomes a path, quoted for the shell.

    The line is never broken: somebody copies it.
    """
    if not is_quiet():
        filled = command.format(*(shlex.quote(str(path)) for path in paths)) if paths else command
        print(f"next: {filled}", file=sys.stderr)


def fitted(text: str, stream: TextIO) -> str:
    """Return a text broken between words where the terminal ends; in a pipe as it is.

    What follows ``Fix: `` stays in one piece, and so does a word: a path or a command is copied from there. A
    fix that does not fit behind its sentence has a line of its own.
    """
    if not stream.isatty():
        return text
    return "\n".join(map(_fitted_line, text.split("\n")))


def _fitted_line(line: str) -> str:
    prose, fix, command = (*_COMMAND.split(line, maxsplit=1), "", "")[:3]
    broken = _broken(prose)
    if fix and prose.strip() and len(broken.split("\n")[-1] + fix + command) > terminal_width():
        return f"{broken.rstrip()}\n  {fix}{command}"
    return broken + fix + command


def _broken(line: str) -> str:
    width = terminal_width()
    if len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) + (" " if line.endswith(" ") else "")


def terminal_width() -> int:
    """Return the columns of the terminal, or of what the environment says in its place."""
    return max(shutil.get_terminal_size().columns, 20)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose cells stand below each other, two spaces apart; the last one is ragged."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


@contextmanager
def ended_in_order(say_what_is_left: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is inside as Ctrl-C does, so that it can write how far it came.

    Each leaves with 128 + its number, after what is left was said; a second one ends the process at once.
    """
    import signal  # not at the top: few verbs need it

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    try:
        with signals_to(end, "SIGTERM", "SIGHUP"):
            yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        say_what_is_left()
        raise SystemExit(INTERRUPTED if isinstance(stopped, KeyboardInterrupt) else stopped.code) from None


@contextmanager
def signals_to(handler: Callable[[int, Any], None], *names: str) -> Iterator[None]:
    """Give signals to a handler, those that this system has.

    Where the shell has had one ignored, as in ``nohup spoter-kit train &``, it stays so.
    """
    import signal

    wanted = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {one: signal.getsignal(one) for one in wanted if signal.getsignal(one) is not signal.SIG_IGN}
    for one in before:
        signal.signal(one, handler)
    try:
        yield
    finally:
        for one, earlier in before.items():
            signal.signal(one, earlier)


def few_names(names: Sequence[str], most: int = 4) -> str:
    """Return names for one line: all of a few, else the first ones and how many more there are."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def emit_json(value: Any) -> None:
    """Print a verb's whole result as one JSON object on stdout."""
    ascii_only = not (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    print(json.dumps(value, indent=2, ensure_ascii=ascii_only, allow_nan=False))


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
        print(fitted(shown.note, sys.stdout))


class _Counts(ProgressColumn):
    """How many steps are done and how long the rest takes, as far as that is known."""

    def render(self, task: Task) -> Text:
        """Return the words."""
        if task.total is None:
            return Text()
        left = f"  {about_time(task.time_remaining)} left" if task.time_remaining else ""
        return Text(f"{task.completed:.0f}/{task.total:.0f}{left}")


def _draws() -> bool:
    """Tell whether a bar can move on stderr."""
    return sys.stderr.isatty() and not is_quiet() and not Console(stderr=True).is_dumb_terminal


@contextmanager
def progress_bar(*, counts: bool = True) -> Iterator[OnProgress]:
    """Yield an `on_progress(done, total, what)`: a bar on a terminal, nothing in a pipe.

    The bar comes with the first call: an error before the work begins stands alone. Without `counts` it shows
    neither how many steps there are nor how long the rest takes.
    """
    if not _draws():
        yield lambda done, total, what: None
        return
    # What is done is cut where the line ends, so that the figures behind it are whole.
    cut = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False, table_column=cut),
        BarColumn(bar_width=_BAR if console.width >= 100 else _NARROW_BAR),
        *([_Counts(table_column=Column(no_wrap=True))] if counts else []),
        console=console,
        transient=True,
        expand=True,
        refresh_per_second=4,  # more would take time from what is being measured or trained
    )
    task = bar.add_task("", total=None)

    def on_progress(done: int, total: int, what: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=total or None, description=what)

    try:
        yield on_progress
    finally:
        bar.stop()


@contextmanager
def progress_lines() -> Iterator[OnProgress]:
    """Yield an `on_progress(done, total, what)` as `progress_bar`; in a pipe it prints lines, see `Lines`."""
    if _draws() or is_quiet():
        with progress_bar() as on_progress:
            yield on_progress
    else:
        yield Lines()


@contextmanager
def progress_with_time() -> Iterator[OnProgress]:
    """Yield an `on_progress` as `progress_lines`, for work whose `what` ends with how long the rest takes."""

    def time_first(what: str) -> str:
        said, _, left = what.rpartition("  ")
        return f"{left}: {said}" if said else what

    if _draws() or is_quiet():
        with progress_bar(counts=False) as on_progress:
            yield lambda done, total, what: on_progress(done, total, time_first(what))
    else:
        lines = Lines()
        yield lambda done, total, what: lines(0, 0, time_first(what))


class Lines:
    """Progress for a pipe or a file: few lines, after 20 s, 1, 2, 4, 8, … minutes.

    The first line does not wait for the end of a step: it says how long the verb will take.
    """

    def __init__(self) -> None:
        self._begin = self._since = self._called = time.monotonic()
        self._due = _FIRST_S  # seconds after the begin
        self._is_first = True
        self._first: int | None = None  # what was done when this part of the work began, at `_since`
        self._done = self._total = 0
        self._step = ""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Print a line where it is time for one; `what` begins with the step: ``"comparing  48 shapes"``."""
        now = time.monotonic()
        passed, step = now - self._begin, what.partition("  ")[0]
        # A part's first call comes before its first step, or after it: then that began with the call before.
        since = self._called if done else now
        if self._first is None and total:  # from here on the time that is left can be told
            self._step, self._due, self._is_first = step, since - self._begin + _FIRST_S, True
        # A training's end is not known yet: its total grows.
        has_ended = total != self._total and (self._done >= self._total or not total)
        if has_ended or done < self._done:
            self._first, self._since = max(done - 1, 0) if total else None, since
            if total:  # a part that is over soon needs no line
                self._due = max(self._due, min(since - self._begin + _FIRST_S, _SECOND_S))
        is_new = bool(total) or step != self._step
        if passed >= self._due and (is_new or self._is_first) and (0 < done < total or not total):
            said = f"{done:,} of {total:,} {what}" if total else what
            say(f"{said}{self._left(now, done, total)}")
            self._is_first = False
            while self._due <= passed:
                self._due = max(_SECOND_S, 2 * self._due)
        self._step, self._called, self._done, self._total = step, now, done, total

    def _left(self, now: float, done: int, total: int) -> str:
        """Return how long the rest takes; empty where that cannot be told yet."""
        first = self._first or 0
        share = (done - first) / (total - first) if total > first else 0.0
        if share < _LEAST_SHARE or now - self._since < _FIRST_S:
            return ""
        return f"  {about_time((now - self._since) * (1 - share) / share)} left"
