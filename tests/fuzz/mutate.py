"""Change a good file into a malformed one: values, names, bytes, lengths."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from random import Random
from typing import Any

import numpy as np

# Text that stands for itself in the JSON, because Python would not write it.
RAW = {
    "@nan": "NaN",
    "@infinity": "-Infinity",
    "@digits": "9" * 5000,
    "@exponent": "1e999",
    "@deep": "[" * 100_000 + "]" * 100_000,
    "@tables": '{"a":' * 5000 + "1" + "}" * 5000,
    "@twice": '{"a": 1, "a": 2}',
    "@half": '"\\ud800"',
    "@zero": '"a\\u0000b"',
}
# Forty-one odd values, for every place in a file.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 255, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 0.5, -0.5, 1e-308, 1e308),
    *("", " ", "a", "1", "true", "../x", "/etc/passwd", "a/b", "a\nb", "a" * 300, "a" * 100_000, "ক" * 60),
    *([], [[]], [None], [0] * 1000, {}, {"": 0}, {"a": {"b": []}}),
    *(*list(RAW)[:6],),
)
assert len(ODD) == 41


def text_of(value: Any) -> str:
    """Return a value as JSON; texts that name an entry of `RAW` stand for that."""
    text = json.dumps(value, ensure_ascii=False)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


def places_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in JSON, the whole first."""
    found = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        found += places_of(one, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return JSON with another value at a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def mutated_json(value: Any, dice: Random, places: list[tuple[Any, ...]] | None = None) -> Any:
    """Return JSON in which one to three places are odd, gone, or called otherwise.

    `places` are those of the value, where they are known: finding them takes longer than all else.
    """
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        path = dice.choice(places or places_of(value))
        places = None
        at = value
        for key in path:
            at = at[key]
        kind = dice.randrange(8)
        if kind == 0 and isinstance(at, dict) and at:
            at = dict(at)
            del at[dice.choice(sorted(at))]
            value = replaced(value, path, at)
        elif kind == 1 and isinstance(at, dict):
            value = replaced(value, path, at | {dice.choice(("x", "", "a" * 200, "__class__")): 1})
        elif kind == 2 and isinstance(at, list):
            value = replaced(value, path, (at * 3)[: dice.randrange(1 + 3 * len(at))])
        else:
            value = replaced(value, path, dice.choice((*ODD, *RAW)))
    return value


def mutated_bytes(content: bytes, dice: Random) -> bytes:
    """Return bytes with flipped bits, cut off, doubled, or with something odd in them."""
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 5))):
        place = dice.randrange(len(changed) + 1)
        kind = dice.randrange(7)
        if kind <= 1 and changed:
            changed[place % len(changed)] ^= 1 << dice.randrange(8)
        elif kind == 2 and changed:
            changed[place % len(changed)] = dice.choice((0, 1, 127, 128, 255))
        elif kind == 3:
            del changed[place:]
        elif kind == 4:
            changed[place:place] = dice.choice(
                (b"\0", b"\xff" * 8, b"9" * 5000, b"\n" * 50, b"\xd8\x00", b'"', b"[" * 500, b"PK\x01\x02")
            )
        elif kind == 5:
            end = place + dice.randrange(64)
            changed[place:place] = changed[place:end]
        else:
            end = place + dice.randrange(64)
            del changed[place:end]
    return bytes(changed)


def mutated_npy(content: bytes, dice: Random) -> bytes:
    """Return a .npy file whose header, or any byte, was changed."""
    old, new = dice.choice(
        (
            (b"(", b"(999999999, "),
            (b"(", b"(-1, "),
            (b"<f4", b"|O "),
            (b"<f4", b"<U9"),
            (b"<f4", b"<f8"),
            (b"<f4", b"<c8"),
            (b"<f4", b"|S0"),
            (b"<f4", b"<M8"),
            (b"False", b"True "),
            (b"descr", b"descs"),
            (b"{", b"[" * 90),
            (b"'", b'"""'),
            (b"\x01\x00", b"\x03\x00"),
        )
    )
    return content.replace(old, new, 1) if dice.randrange(2) else mutated_bytes(content, dice)


def mutated_npz(arrays: dict[str, Any], dice: Random) -> bytes:
    """Return an archive in which an array is odd, or whose bytes were changed."""
    arrays = dict(arrays)
    name = dice.choice(sorted(arrays))
    array = np.asarray(arrays[name])
    kind = dice.randrange(8)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name] = np.ones(array.shape, dice.choice(("f8", "i4", "u8", "U4", "S3", "c8", "?", "M8[s]")))
    elif kind == 2:
        arrays[name] = dice.choice((array[:0], array[:-1], array[None], array.ravel(), np.array(5)))
    elif kind == 3 and array.dtype.kind in "fiu" and array.size:
        odd = array.copy()
        odd.flat[dice.randrange(array.size)] = dice.choice((0, 1, 100, 127))
        arrays[name] = odd
    elif kind == 4:
        arrays[name] = np.zeros(3_000_000, array.dtype if array.dtype.kind != "U" else "f4")
    file = BytesIO()
    compression = dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(file, "w", compression) as archive:
        for member, value in arrays.items():
            part = BytesIO()
            np.save(part, value)
            content = part.getvalue()
            archive.writestr(f"{member}.npy", mutated_npy(content, dice) if kind == 5 else content)
    return mutated_bytes(file.getvalue(), dice) if kind >= 6 else file.getvalue()
