"""Change the fields of a protobuf message: numbers, wire types, lengths, nesting, order."""

from __future__ import annotations

from random import Random
from typing import Any

Field = tuple[int, int, Any]  # number, wire type, and a whole number or bytes

_WHOLE = (0, 1, 2, 127, 128, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 2**64, 2**70)
_TEXTS = (b"", b"a", b"Loop", b"If", b"Scan", b"ConstantOfShape", b"com.microsoft", b"../x", b"\xff", b"\x00")
_SIZES = {1: 8, 5: 4}


def fields_of(message: bytes) -> list[Field]:
    """Return the fields of a message in their order.

    Raises:
        ValueError, IndexError: it is none.
    """
    found, at = [], 0
    while at < len(message):
        key, at = _read_varint(message, at)
        wire = key & 7
        if wire == 0:
            value, at = _read_varint(message, at)
            found.append((key >> 3, wire, value))
            continue
        size, at = _read_varint(message, at) if wire == 2 else (_SIZES[wire], at)
        if at + size > len(message):
            raise ValueError("cut off")
        found.append((key >> 3, wire, message[at : at + size]))
        at += size
    return found


def message_of(fields: list[Field]) -> bytes:
    """Return a message of these fields."""
    parts = []
    for number, wire, value in fields:
        parts.append(varint(number << 3 | wire))
        if wire == 0:
            parts.append(varint(value))
        else:
            parts += [varint(len(value)) if wire == 2 else b"", value]
    return b"".join(parts)


def varint(value: int, more: int = 0) -> bytes:
    """Return a whole number as protobuf writes it, in `more` bytes than it needs."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    for _ in range(more):
        found[-1] |= 0x80
        found.append(0)
    return bytes(found)


def mutated_message(message: bytes, dice: Random, depth: int = 0) -> bytes:
    """Return a message with one to three of its fields changed, or fields of the messages within."""
    try:
        fields = fields_of(message)
    except (ValueError, IndexError, KeyError):
        fields = []
    if not fields:
        return dice.choice(_TEXTS)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        place = dice.randrange(len(fields))
        number, wire, value = fields[place]
        if wire == 2 and depth < 6 and dice.randrange(4):
            fields[place] = number, wire, mutated_message(value, dice, depth + 1)
        else:
            _change(fields, place, dice)
        if not fields:
            break
    content = message_of(fields)
    if dice.randrange(30) == 0:  # a length or a number that takes more bytes than it needs, or lies
        at = dice.randrange(len(content) + 1)
        content = content[:at] + varint(dice.choice(_WHOLE), dice.randrange(3)) + content[at:]
    return content


def _change(fields: list[Field], place: int, dice: Random) -> None:
    number, wire, value = fields[place]
    other = fields[dice.randrange(len(fields))]
    choice = dice.randrange(9)
    if choice == 0:
        del fields[place]
    elif choice == 1:
        fields += [fields[place]] * dice.choice((1, 1, 2, 300))
    elif choice == 2:
        fields.append(fields.pop(place))
    elif choice == 3:
        fields[place] = dice.choice((0, number + 1, 15, 99, 2**29 - 1, 2**40)), wire, value
    elif choice == 4:
        fields[place] = (
            number,
            *dice.choice(((0, 7), (1, bytes(8)), (2, b"\x01\x02"), (5, bytes(4)), (3, b""))),
        )
    elif choice == 5:
        fields[place] = number, other[1], other[2]
    elif choice == 6:
        fields[place] = number, 2, _nested(message_of([fields[place]]), dice)
    elif wire == 0:
        fields[place] = number, wire, dice.choice(_WHOLE)
    elif wire == 2:
        cut = dice.randrange(len(value) + 1)
        fields[place] = (
            number,
            wire,
            dice.choice((*_TEXTS, value[:cut], value + value[cut:], varint(2**62) * 3)),
        )
    else:
        fields[place] = number, wire, dice.choice((b"\xff" * len(value), bytes(len(value))))


def _nested(message: bytes, dice: Random) -> bytes:
    """Return a message in messages: as graphs lie in attributes of nodes of graphs."""
    for number in dice.choice(((1, 5, 6), (7, 1), (5, 6, 1, 5))) * dice.choice((1, 1, 20, 300)):
        message = message_of([(number, 2, message)])
    return message


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
