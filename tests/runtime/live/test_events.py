"""Every event is one JSON object that the documented schema allows, and the schema knows no other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from signers import pose, signing
from spoter_runtime import SignStream, StreamSettings
from spoter_runtime.live.events import AbstainCode, AnyEvent, FaultCode

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "reference" / "events.schema.json").read_text())
KINDS = {kind["properties"]["type"]["const"]: kind for kind in SCHEMA["oneOf"]}
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "null": type(None),
}


def check(value, schema, where="event"):
    """Return what a value has against a schema; the part of JSON Schema that ours uses."""
    if "const" in schema:
        return [] if value == schema["const"] else [f"{where}: {value!r}"]
    names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if isinstance(value, bool) or not any(isinstance(value, TYPES[name]) for name in names):
        return [f"{where}: {value!r} is no {names}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is none of {schema['enum']}"]
    if isinstance(value, int | float):
        in_range = schema.get("minimum", value) <= value <= schema.get("maximum", value)
        return [] if in_range else [f"{where}: {value} out of range"]
    if isinstance(value, dict):
        found = [f"{where}: no {name}" for name in schema["required"] if name not in value]
        found += [f"{where}: {name} is not known" for name in value if name not in schema["properties"]]
        inner = [
            (value[name], schema["properties"][name], name) for name in value if name in schema["properties"]
        ]
        return found + [text for one in inner for text in check(one[0], one[1], f"{where}.{one[2]}")]
    if isinstance(value, list):
        return [text for item in value for text in check(item, schema["items"], f"{where}[]")]
    return []


@pytest.fixture(scope="module")
def every_kind(recognizer, feed):
    """Events of all eight kinds."""
    stream = SignStream(recognizer, settings=StreamSettings(longest_ms=2000))
    found = feed(stream, *signing([(1000.0, 1700.0), (3000.0, 6000.0)], end_ms=7000), flush=False)
    stream.accept(pose(2.2), 7100.0, dropped=3)
    stream.accept(pose(2.2), 7100.0)
    return found + stream.events()


def test_every_kind_of_event_fits_the_schema(every_kind):
    assert {event.type for event in every_kind} == set(KINDS)
    for event in every_kind:
        value = json.loads(json.dumps(event.as_json(), allow_nan=False))
        assert check(value, KINDS[event.type]) == []


def test_the_schema_and_the_records_name_the_same_fields():
    assert {kind.type for kind in get_args(AnyEvent)} == set(KINDS)
    for kind in get_args(AnyEvent):
        assert {field.name for field in dataclasses.fields(kind)} | {"type"} == set(
            KINDS[kind.type]["required"]
        )
    assert KINDS["abstain"]["properties"]["code"]["enum"] == list(get_args(AbstainCode))
    assert KINDS["fault"]["properties"]["code"]["enum"] == list(get_args(FaultCode))


def test_the_check_of_the_schema_finds_a_wrong_event():
    good = {"type": "dropped", "t_ms": 1.0, "frames": 2}
    assert check(good, KINDS["dropped"]) == []
    for change in (
        {"frames": 1.5},
        {"frames": -1},
        {"frames": None},
        {"more": 1},
        {"t_ms": "1"},
        {"type": "x"},
    ):
        assert check(good | change, KINDS["dropped"]) != []
    assert check({"type": "dropped", "t_ms": np.pi}, KINDS["dropped"]) == ["event: no frames"]
