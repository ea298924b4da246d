"""Write measured values as JSON that a person can read and `git diff` can compare line by line."""

from __future__ import annotations

import json
from typing import Any, Final

_WIDTH: Final = 140  # columns of a record that stays on one line: a point of parity's shape grid takes 135
_NESTING: Final = (dict, list, tuple)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_text(value: Any, indent: str = "") -> str:
    """Return a value as indented JSON, with each array of numbers and each short flat record on one line.

    The samples of two rounds, ``[[1, 2], [3]]``, take one line a round instead of one line a number.

    Args:
        value: plain JSON values; names in objects are text or whole numbers.
        indent: of every line but the first.

    Raises:
        ValueError: the value holds a NaN or an infinity, which JSON does not have.
    """
    if not isinstance(value, _NESTING):
        return _ENCODER.encode(value)
    items = value.values() if isinstance(value, dict) else value
    if not any(isinstance(item, _NESTING) for item in items):
        line = _ENCODER.encode(value)
        is_numbers = items is value and not any(isinstance(item, str) for item in items)
        if is_numbers or len(indent) + len(line) <= _WIDTH:
            return line
    deeper = f"{indent}  "
    texts = [json_text(item, deeper) for item in items]
    if items is not value:
        texts = [f"{_ENCODER.encode(str(name))}: {text}" for name, text in zip(value, texts, strict=True)]
    opening, closing = "[]" if items is value else "{}"
    return opening + f"\n{deeper}" + f",\n{deeper}".join(texts) + f"\n{indent}" + closing
