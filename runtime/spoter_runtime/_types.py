"""The type of the progress callback."""

from __future__ import annotations

from collections.abc import Callable

# called with (done, total, what)
OnProgress = Callable[[int, int, str], None]
