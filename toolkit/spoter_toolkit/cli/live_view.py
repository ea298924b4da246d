"""How `live` shows events: a screen on a terminal, a line for each answer in a pipe, or JSON lines."""

from __future__ import annotations

import json as json_text
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from spoter_runtime.live.events import Abstain, AnyEvent, Dropped, Fault, Partial, Sign, SignStart, Tracking
from spoter_toolkit.cli.console import is_quiet, is_verbose, say, tell
from spoter_toolkit.input_files import error_from_os
from spoter_toolkit.report.words import plural

if TYPE_CHECKING:
    from spoter_runtime.contract import Label

_LAST: Final = 5  # signs on the screen
_BEST: Final = 3  # bars
_BAR: Final = 24  # columns
_FRAMES_A_SECOND: Final = 8


@contextmanager
def view_of(labels: Sequence[Label], *, json: bool) -> Iterator[Callable[[AnyEvent], None]]:
    """Yield what shows an event, the way that fits stdout."""
    words = {label.name: " ".join(filter(None, (label.gloss, label.bengali))) for label in labels}
    if json:
        yield _print_json
    elif sys.stdout.isatty() and not is_quiet():
        screen = Screen(words)
        with Live(console=Console(), refresh_per_second=_FRAMES_A_SECOND, get_renderable=screen.drawn):
            yield screen
    else:
        lines = Lines(words)
        yield lines
        lines.end()


def _print_json(event: AnyEvent) -> None:
    ascii_only = not (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    with _naming_stdout():
        print(json_text.dumps(event.as_json(), ensure_ascii=ascii_only, allow_nan=False), flush=True)


@contextmanager
def _naming_stdout() -> Iterator[None]:
    """Name stdout in an error of writing to it; that its reader has gone is none: it ends the session."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise error_from_os(OSError(error.errno, error.strerror, "stdout")) from error


class Lines:
    """One line for each sign on stdout; what is wrong goes to stderr."""

    def __init__(self, words: dict[str, str]) -> None:
        self._words = words
        self._signs = self._refused = 0

    def __call__(self, event: AnyEvent) -> None:
        """Print an event, if people should see it."""
        self._refused += isinstance(event, Abstain)
        if isinstance(event, Sign):
            self._signs += 1
            with _naming_stdout():
                tell(line_of_sign(event, self._words))
                sys.stdout.flush()
        elif isinstance(event, Fault) or (is_verbose() and isinstance(event, Abstain | Dropped)):
            say(line_of_remark(event))

    def end(self) -> None:
        """Say so where the source has ended without a sign."""
        if not self._signs:
            why = f"; {plural(self._refused, 'movement')} got no answer (-v: why)" if self._refused else ""
            say(f"no sign was found{why}")


class Screen:
    """The tracking, the best three labels as bars, and the last signs, drawn over and over in one place."""

    def __init__(self, words: dict[str, str]) -> None:
        self._words = words
        self._tracking = "no frame yet"
        self._state = ""
        self._best: Sequence[tuple[str, float]] = ()
        self._signs: deque[str] = deque(maxlen=_LAST)
        self._remark = ""
        self._dropped = 0

    def __call__(self, event: AnyEvent) -> None:
        """Take an event; `drawn` shows it."""
        if isinstance(event, Tracking):
            self._tracking = (
                f"{event.frames_per_s:.0f} frames/s, body {event.body:.0%}, "
                f"hands {event.left_hand:.0%} {event.right_hand:.0%}"
            )
        elif isinstance(event, SignStart):
            self._state, self._best = "signing", ()
        elif isinstance(event, Partial):
            self._best = event.best[:_BEST]
        elif isinstance(event, Sign):
            self._state, self._best = "", ()
            self._signs.append(line_of_sign(event, self._words))
        elif isinstance(event, Abstain):
            self._state, self._best, self._remark = "", (), line_of_remark(event)
        elif isinstance(event, Fault):
            self._remark = line_of_remark(event)
        elif isinstance(event, Dropped):
            self._dropped += event.frames

    def drawn(self) -> Group:
        """Return the screen."""
        dropped = f", {self._dropped} dropped" if self._dropped else ""
        bars = [
            Text(f"{label:<16.16} {score:.2f} {'█' * round(_BAR * score)}", no_wrap=True)
            for label, score in self._best
        ]
        bars += [Text()] * (_BEST - len(bars))
        signs = [
            Text(sign, style="bold" if n == len(self._signs) - 1 else "")
            for n, sign in enumerate(self._signs)
        ]
        head = Text(f"{self._tracking}{dropped}  {self._state}", style="dim")
        return Group(head, *bars, *signs, Text(self._remark, style="dim"))


def line_of_sign(sign: Sign, words: dict[str, str]) -> str:
    """Return a sign as one line: when, the label, the word, how sure."""
    # rounded down: nothing is sure to 100 %
    sure = f"score {sign.score:.2f}" if sign.probability is None else f"{int(100 * sign.probability)}%"
    return f"{sign.start_ms / 1000:7.1f} s  {' '.join(filter(None, (sign.label, words[sign.label])))}  {sure}"


def line_of_remark(event: Abstain | Fault | Dropped) -> str:
    """Return what is no sign as one line."""
    if isinstance(event, Dropped):
        return f"{event.t_ms / 1000:.1f} s: {event.frames} frames dropped"
    what = "no answer" if isinstance(event, Abstain) else event.code
    return f"{event.t_ms / 1000:.1f} s: {what}: {event.reason}"
