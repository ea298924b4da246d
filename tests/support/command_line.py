"""What the command line would say against a command, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile
from typing import Any


def wrong_with(command: Any, words: Sequence[str]) -> str | None:
    """Return what the command line would say against the words; None where it would take them."""
    while isinstance(getattr(command, "commands", None), dict):
        own = {option for parameter in command.params for option in parameter.opts}
        if words and set(words) <= own:
            return None  # as in spoter-kit --version
        name, *words = [*dropwhile(own.__contains__, words)] or [""]
        if name not in command.commands:
            return f"no verb {name!r}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, "--help")}
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in options]
    return f"{command.name} has no {', '.join(unknown)}" if unknown else None
