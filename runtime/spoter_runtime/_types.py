"""How long work reports while it runs; drawing is the command's business alone."""

from __future__ import annotations

from collections.abc import Callable

# called with (done, total, what)
OnProgress = Callable[[int, int, str], None]
