"""Names of labels, signers and clips: their order, a list of them for people, and a check for typos."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from spoter_runtime.errors import DataError, nearest


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts W2 before W10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def listed(names: Iterable[str]) -> str:
    """Return names separated by commas: at most the first twenty, then the number of others."""
    names = list(names)
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])} and {len(names) - 20} more"


def check_known(asked: Collection[str], known: Collection[str], *, what: str, where: object) -> None:
    """Check that every name exists.

    Raises:
        DataError: a name is unknown; the message has the first, and the most similar known names.
    """
    for name in asked:
        if name not in known:
            near = nearest(name, known, count=3, cutoff=0.5)
            there = near or sorted(known, key=natural_order)[:12]
            raise DataError(
                f"{where}: no {what} {name!r} there; {'did you mean' if near else 'there are'} "
                f"{', '.join(there)}{' …' if not near and len(known) > len(there) else ''}",
                fix=f"take {near[0]}" if near else "take one of these names",
            )
