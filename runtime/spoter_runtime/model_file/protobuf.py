"""Read the messages of an ONNX file as strictly as no other reader can take them differently."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

_WIRE_TYPES: Final = {"i": (0,), "f": (5,), "s": (2,), "I": (0, 2), "F": (5, 2), "D": (1, 2), "S": (2,)}


@dataclass(frozen=True, slots=True)
class Schema:
    """A message of onnx.proto: which fields may be in it, and of which wire type.

    A reader of protobuf ignores a field that it does not know, or that has another wire type than its own, so
    two readers could see different files. Here such a field is an error.
    """

    name: str
    keys: frozenset[int]
    single: frozenset[int]


def _schema(name: str, **numbers: str) -> Schema:
    """Make a schema of the field numbers by kind: whole number, float, bytes; lists of them in capitals."""
    kinds = [(int(number), kind) for kind, text in numbers.items() for number in text.split()]
    return Schema(
        name,
        frozenset(number << 3 | wire for number, kind in kinds for wire in _WIRE_TYPES[kind]),
        frozenset(number for number, kind in kinds if kind.islower()),
    )


# Field numbers of onnx.proto, which never change; those that spoter-kit never writes are left out, but for
# the ones that deserve a message of their own.
MODEL: Final = _schema("the model", i="1 5", s="2 3 4 6 7", S="8 14 20 25")
GRAPH: Final = _schema("the graph", s="2 10", S="1 5 11 12 13 15 16")
NODE: Final = _schema("a node", s="3 4 6 7 8", S="1 2 5 9")
ATTRIBUTE: Final = _schema("an attribute", f="2", i="3 20", s="1 4 5 13", F="7", I="8", S="9")
TENSOR: Final = _schema("a tensor", i="2 14", I="1 5 7 11", F="4", D="10", s="8 9 12", S="6 13 16")
VALUE: Final = _schema("an input", s="1 2 3", S="4")
TYPE: Final = _schema("a type", s="1 6")
TENSOR_TYPE: Final = _schema("a type", i="1", s="2")
ENTRY: Final = _schema("an entry", s="1 2")
OPSET: Final = _schema("an operator set", s="1", i="2")

_SMALL_BYTES: Final = 4096
_MOST_KEY_BYTES: Final = 5

Fields = defaultdict[int, list[Any]]  # of a protobuf message: number → numbers, bytes or memoryviews


def message_fields(message: memoryview | bytes, schema: Schema) -> Fields:
    """Return the fields of a protobuf message.

    Raises:
        ValueError: it is none, it is cut off, or a field is not of the schema.
    """
    found: Fields = defaultdict(list)
    position, end, keys = 0, len(message), schema.keys
    if end < _SMALL_BYTES:
        message = bytes(message)  # read 1.5 times as fast as a view
    while position < end:
        key, start = message[position], position
        position += 1
        if key > 0x7F:
            key, position = _varint(message, start)
        number, wire_type = key >> 3, key & 7
        if key not in keys or position - start > _MOST_KEY_BYTES:
            what = f"a field {number} of wire type {wire_type}"
            raise ValueError(f"{schema.name} has {what}, which spoter-kit does not write")
        if wire_type == 0:
            value, position = _varint(message, position)
            found[number].append(value)
            continue
        if wire_type == 2:
            size, position = _varint(message, position)
        else:
            size = 8 if wire_type == 1 else 4
        if position + size > end:
            raise ValueError("truncated")
        found[number].append(message[position : position + size])
        position += size
    for number, values in found.items():
        if len(values) > 1 and number in schema.single:
            raise ValueError(f"{schema.name} has field {number} twice")
    return found


def _varint(message: memoryview | bytes, position: int) -> tuple[int, int]:
    if position < len(message) and (value := message[position]) < 0x80:
        return value, position + 1
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(message):
            raise ValueError("truncated")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position
    raise ValueError("no protobuf message: a number of more than 64 bits")


def varints_of(values: list[Any]) -> list[int]:
    """Return a repeated field of whole numbers, which may be packed."""
    found = []
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        position = 0
        while position < len(value):
            number, position = _varint(value, position)
            found.append(number)
    return found


def text_of_field(values: list[Any]) -> str:
    """Return a string field; empty if there is none.

    Raises:
        ValueError: no UTF-8.
    """
    return str(values[-1], "utf-8") if values else ""


def number_of_field(values: list[Any]) -> int:
    """Return a field of a whole number; 0 if there is none."""
    return values[-1] if values else 0
