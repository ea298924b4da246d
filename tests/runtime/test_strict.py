"""Files from outside: what is read, and what is refused before it costs anything."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from spoter_runtime.strict import file_name, json_from_text, made_from, read_array, read_arrays, read_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ("NaN", "NaN is no JSON"),
        ("-Infinity", "-Infinity is no JSON"),
        ("1e999", "'1e999' is no finite number"),
        ("9" * 5000, "a number of 5000 digits"),
        ("[" * 100 + "]" * 100, "more than 64 levels"),
        ("[" * 100_000 + "]" * 100_000, "more than 64 levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "more than 64 levels"),
    ],
)
def test_json_that_no_two_readers_agree_on_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        json_from_text(text)


def test_json_is_read_as_usual():
    assert json_from_text('{"a": [1, -2.5, true, null, "আ"]}') == {"a": [1, -2.5, True, None, "আ"]}
    assert json_from_text("[" * 60 + "]" * 60) != []


def test_a_file_is_measured_before_it_is_read(tmp_path):
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="1099511627776 bytes, expected at most 100"):
        read_json(path, most_bytes=100)
    with pytest.raises(OSError, match="not a file"):
        read_json(tmp_path, most_bytes=100)
    path.write_text("[1]")
    assert read_json(path, most_bytes=100) == [1]


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: str
    sizes: tuple[int, int, int] = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: tuple[Inner, ...]
    share: float
    on: bool = False
    kind: Literal["a", "b"] = "a"
    least: int | None = None
    words: dict[str, str] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)


GOOD: dict[str, Any] = {"inner": [{"name": "x"}], "share": 1}


def test_a_table_becomes_a_dataclass():
    assert made_from(Outer, GOOD) == Outer(inner=(Inner(name="x"),), share=1.0)
    made = made_from(Outer, GOOD | {"least": 4, "rest": {"a": [1]}, "words": {"a": "b"}, "kind": "b"})
    assert (made.least, made.rest, made.words, made.kind) == (4, {"a": [1]}, {"a": "b"}, "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": "1"}, "share: '1', expected a number"),
        ({"share": True}, "share: True, expected a number"),
        ({"on": 1}, "on: 1, expected true or false"),
        ({"kind": "c"}, "kind: 'c', expected one of a, b"),
        ({"kind": []}, "kind: [], expected one of a, b"),
        ({"least": 1.5}, "least: 1.5, expected a whole number"),
        ({"inner": {}}, "inner: {}, expected a list"),
        ({"inner": [1]}, "inner[0]: 1, expected a table"),
        ({"inner": [{}]}, "inner[0].name is missing"),
        ({"inner": [{"name": "x", "nmae": "y"}]}, "inner[0].nmae is unknown, expected name, sizes"),
        ({"inner": [{"name": "x", "sizes": [1, 2]}]}, "inner[0].sizes: 2 values, expected 3"),
        (
            {"inner": [{"name": "x", "sizes": [1, 2, None]}]},
            "inner[0].sizes[2]: None, expected a whole number",
        ),
        ({"words": {"a": 1}}, "words.a: 1, expected a text"),
        ({"words": {"a": "b\0"}}, "words.a: 'b\\x00', expected a text without zero bytes"),
        ({"words": {"a": "\ud800"}}, "expected a text without zero bytes and half letters"),
        ({"words": "x" * 500}, f"words: '{'x' * 59}…, expected a table"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        made_from(Outer, GOOD | change)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\nb", "a\0", "ক" * 51])
def test_a_name_that_leads_elsewhere_is_no_file_name(name):
    with pytest.raises(ValueError, match="expected a name of at most 150 bytes without a slash"):
        file_name(name, "name")


def test_a_name_in_bengali_is_a_file_name():
    assert file_name("বাংলা-60", "name") == "বাংলা-60"


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive(compression=zipfile.ZIP_DEFLATED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, content in members.items():
            made.writestr(f"{name}.npy", content)
    return file.getvalue()


@pytest.mark.parametrize("array", [np.eye(3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(5)])
def test_an_array_is_read_as_numpy_does(array):
    read = read_array(io.BytesIO(saved(array)), most_bytes=100)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


def header(text):
    line = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic|header|end of"),
        (saved(np.eye(3))[:-1], "are cut off"),
        (saved(np.eye(30)), "an array (30, 30) of float64, expected at most 100 bytes"),
        (saved(np.array(["a"])), "holds <U1, expected numbers"),
        (saved(np.zeros(2, [("a", "f4")])), "expected numbers"),
        (
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 4000000000)}"),
            "expected at most",
        ),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "an array (-1,)"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "holds object"),
        (header("{'descr': 5, 'fortran_order': False, 'shape': (1,)}"), "descr|header"),
        (header("[" * 100), "header|parse"),
        (b"\x93NUMPY\x09\x00", "version (9, 0) of the .npy format is unknown"),
    ],
)
def test_an_array_that_is_none_is_refused(content, message):
    message = message if "|" in message else re.escape(message)
    with pytest.raises(ValueError, match=message):
        read_array(io.BytesIO(content), most_bytes=100)


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked():
    bomb = archive(poses=saved(np.zeros(1_000_000)))
    assert len(bomb) < 20_000
    with pytest.raises(ValueError, match="8000128 bytes when unpacked, expected at most 1000000"):
        read_arrays(io.BytesIO(bomb), ("poses",), most_bytes=1_000_000)


def flipped(content, flag):
    """Return an archive whose only member claims to be encrypted, or packed in another way."""
    changed = bytearray(content)
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[changed.index(magic) + offset + (2 if flag == "method" else 0)] = (
            97 if flag == "method" else 1
        )
    return bytes(changed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no archive of arrays"),
        (archive(other=saved(np.eye(2))), "no array poses in it"),
        (archive(poses=b"text"), "magic"),
        (flipped(archive(poses=saved(np.eye(2))), "encrypted"), "is no archive of arrays: .*encrypted"),
        (
            flipped(archive(poses=saved(np.eye(2))), "method"),
            "is packed in an unknown way",
        ),
        (archive(poses=saved(np.eye(2)))[:-30], "is no archive of arrays"),
    ],
)
def test_an_archive_that_is_none_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        read_arrays(io.BytesIO(content), ("poses",), most_bytes=10_000)


def test_an_archive_with_a_wrong_checksum_is_refused():
    content = bytearray(archive(zipfile.ZIP_STORED, poses=saved(np.eye(2))))
    content[content.index(b"NUMPY") + 130] ^= 1
    with pytest.raises(ValueError, match="Bad CRC"):
        read_arrays(io.BytesIO(bytes(content)), ("poses",), most_bytes=10_000)


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_numpy_does_not_write_is_a_value_error(packing):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        array = io.BytesIO()
        np.save(array, np.arange(1000))
        archive.writestr("a.npy", array.getvalue())
    content = bytearray(file.getvalue())
    content[60:80] = bytes(20)
    with pytest.raises(ValueError, match="array a is packed in an unknown way"):
        read_arrays(io.BytesIO(content), ("a",), most_bytes=10_000)
