"""The page of `learning.py`: from its rows to tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_page(rows: list[dict[str, Any]], *, folder: Path) -> None:
    """Write the page."""
    raise NotImplementedError
