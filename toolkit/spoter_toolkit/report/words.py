"""Write numbers, names and errors for people: significant digits, plurals, folder names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from spoter_runtime.errors import SpoterError


def format_sig3(value: float) -> str:
    """Return a number with three significant digits, and all digits before the point."""
    digits = 2 - len(str(int(abs(value)))) + 1 if abs(value) >= 1 else 3
    return f"{value:.{max(digits, 0)}f}"


def plural(count: int, noun: str) -> str:
    """Return ``1 thread``, ``2 threads``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def about_time(seconds: float) -> str:
    """Return ``about 40 seconds``, ``about 2 minutes``, for a forecast."""
    if seconds < 90:
        return f"about {plural(max(10, 10 * round(seconds / 10)), 'second')}"
    return f"about {plural(round(seconds / 60), 'minute')}"


def lines_of_errors(errors: Sequence[SpoterError]) -> str:
    """Return a line for each error; below it stands its fix, once for neighbours that have the same."""
    lines = []
    for error, following in zip(errors, [*errors[1:], None], strict=True):
        lines.append(f"  {error.message}")
        if error.fix and (following is None or following.fix != error.fix):
            lines.append(f"    Fix: {error.fix}")
    return "\n".join(lines)


def slug(text: str) -> str:
    """Return a name for a folder: ``Intel(R) Core(TM) i7-1165G7 @ 2.80GHz`` → ``intel-core-i7-1165g7``."""
    plain = re.sub(r"\((r|tm)\)|\b(cpu|processor)\b|@.*", " ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "unnamed"


def without_places(text: str, *paths: Path) -> str:
    """Return a text without the folders that lead to its files: they name people and machines.

    Args:
        text: of an error, say.
        paths: files or folders that it may mention, needed where their parents' names have spaces.
    """
    for folder in (*(path.absolute().parent for path in paths), Path.cwd(), Path.home()):
        text = text.replace(f"{folder}{os.sep}", "…/")
    return re.sub(r"(?<![\w.…:/])/(?:[^\s/:'\"]+/)+", "…/", text)
