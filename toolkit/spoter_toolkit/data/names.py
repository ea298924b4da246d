"""Names of labels, signers and clips: their order, a list of them, a check for typos, and its fix."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from spoter_runtime.errors import DataError, nearest


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts W2 before W10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def listed(names: Iterable[str]) -> str:
    """Return names separated by commas: at most the first twenty, then the number of others."""
    names = list(names)
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])} and {len(names) - 20} more"


def retyped(wrong: object, right: object) -> str:
    """Return the fix for a wrong name: the command that was typed, with the right name.

    Where no command was typed, or it has the wrong name not exactly once, the fix is the right name alone.
    """
    program, *words = sys.argv
    parts = [re.split("([,=])", word) for word in words]  # --labels=tea,helo
    found = [(i, j) for i, word in enumerate(parts) for j, part in enumerate(word) if _is(part, str(wrong))]
    if Path(program).name != "spoter-kit" or len(found) != 1:
        return f"take {right}"
    [(i, j)] = found
    parts[i][j] = str(right)
    return shlex.join(["spoter-kit", *("".join(word) for word in parts)])


def _is(typed: str, name: str) -> bool:
    return bool(typed) and name in (typed, str(Path(typed)))  # datasets/one/ is datasets/one


def check_known(asked: Collection[str], known: Collection[str], *, what: str, where: object) -> None:
    """Check that every name exists.

    Raises:
        DataError: a name is unknown; the message has the first, and the most similar known names.
    """
    for name in asked:
        if name not in known:
            other_case = [there for there in known if there.casefold() == name.casefold()]
            near = other_case or nearest(name, known, count=3, cutoff=0.5)
            there = near or sorted(known, key=natural_order)[:12]
            raise DataError(
                f"{where}: no {what} {name!r} there; {'did you mean' if near else 'there are'} "
                f"{', '.join(there)}{'?' if near else ' …' if len(known) > len(there) else ''}",
                fix=retyped(name, there[0]),
            )
