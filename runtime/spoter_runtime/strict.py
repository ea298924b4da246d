"""Read files that somebody else wrote: JSON and arrays of bounded size, and of the types they become."""

from __future__ import annotations

import functools
import json
import math
import operator
import os
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from numbers import Real
from pathlib import Path
from typing import (
    IO,
    Any,
    Final,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import InputError
from spoter_runtime.files import read_text

_Made = TypeVar("_Made")

MOST_SIDE: Final = 1 << 40  # of an array
MOST_DEPTH: Final = 64  # tables and lists within each other; ours have at most 8
_MOST_DIGITS: Final = 19  # of a whole number: 64 bits
_SHOWN: Final = 60  # letters of a wrong value that a message shows


def read_json(path: Path, *, most_bytes: int) -> Any:
    """Return the JSON of a regular file.

    Raises:
        OSError: no such file, not a regular one, larger than `most_bytes`, or it cannot be read.
        ValueError: not UTF-8, or as `json_from_text`.
    """
    return json_from_text(read_text(path, most_bytes=most_bytes))


def json_from_text(text: str | bytes, *, with_nan: bool = False) -> Any:
    """Parse JSON more strictly than `json.loads`: what it accepts here is the same in every language.

    Args:
        text: the JSON; bytes in UTF-8.
        with_nan: allow NaN and Infinity, which Python writes for numbers that are none.

    Raises:
        ValueError: no JSON, a name twice in an object, a number that is not finite or has more than 19
            digits, or more than `MOST_DEPTH` levels.
    """
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=float if with_nan else _finite,
            parse_constant=float if with_nan else _no_constant,
        )
    except RecursionError:
        raise ValueError(f"more than {MOST_DEPTH} levels") from None
    return check_depth(value)


def check_depth(value: Any) -> Any:
    """Return a value of tables and lists; raise a ValueError if they nest deeper than `MOST_DEPTH`."""
    level = [value]
    for _ in range(MOST_DEPTH):
        if not level:
            return value
        level = [inner for one in level for inner in _inside(one)]
    raise ValueError(f"more than {MOST_DEPTH} levels")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} is there twice")
    return made


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{shown(digits)} is no finite number")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def made_from(kind: type[_Made], value: Any, where: str = "") -> _Made:
    """Make a dataclass from plain JSON values, each of which must have the type of its field.

    Args:
        kind: a dataclass whose fields are text, numbers, truth values, tuples, tables, `None`, `Literal` or
            such dataclasses.
        value: a table with the fields' names.
        where: the path of `value` in its file, for messages.

    Raises:
        ValueError: no table, a name that is missing or unknown, or a value of another type; with the path.
    """
    table = expect(value, dict, where)
    hints, known = _hints(cast(Any, kind)), {field.name: field for field in fields(cast(Any, kind))}
    if unknown := sorted(table.keys() - known.keys()):
        raise ValueError(f"{_at(where, unknown[0])} is unknown, expected {', '.join(known)}")
    needed = [
        n for n, field in known.items() if field.default is MISSING and field.default_factory is MISSING
    ]
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"{_at(where, missing[0])} is missing")
    return kind(**{name: expect(value, hints[name], _at(where, name)) for name, value in table.items()})


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def expect(value: Any, kind: Any, where: str) -> Any:
    """Return a value if it is of a type: a class, or a hint such as ``dict[str, str]`` or ``int | None``.

    Raises:
        ValueError: it is of another; with the path.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(inner, value, where)
    if origin is Literal:
        if type(value) is str and value in inner:
            return value
        raise ValueError(f"{where}: {shown(value)}, expected one of {', '.join(inner)}")
    if origin is tuple:
        return _tuple(inner, value, where)
    if origin in (dict, Mapping):
        _plain(dict, value, where)
        return {
            _plain(str, name, where): expect(one, inner[1], _at(where, name)) for name, one in value.items()
        }
    if origin is list:
        _plain(list, value, where)
        return [expect(one, inner[0], f"{where}[{i}]") for i, one in enumerate(value)]
    if is_dataclass(kind):
        return made_from(cast(type[Any], kind), value, where)
    return _plain(kind, value, where)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    error = ValueError(f"{where}: {shown(value)} is wrong")
    for kind in kinds:
        if kind is not type(None):
            try:
                return expect(value, kind, where)
            except ValueError as found:
                error = found
    raise error


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _plain(list, value, where)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    elif len(kinds) != len(value):
        raise ValueError(f"{where}: {len(value)} values, expected {len(kinds)}")
    return tuple(
        expect(one, kind, f"{where}[{i}]") for i, (kind, one) in enumerate(zip(kinds, value, strict=True))
    )


_WORDS: Final[dict[type, str]] = {
    **{dict: "a table", list: "a list", str: "a text", int: "a whole number", float: "a number"},
    **{bool: "true or false"},
}


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if kind is list and type(value) is tuple:  # of a dataclass's own `asdict`
        return value
    if type(value) is not kind:  # not isinstance: True is no number here
        raise ValueError(f"{where or 'the file'}: {shown(value)}, expected {_WORDS.get(kind, kind)}")
    if kind is str and ("\0" in value or not is_unicode(value)):
        raise ValueError(f"{where}: {shown(value)}, expected a text without zero bytes and half letters")
    return value


def is_unicode(text: str) -> bool:
    """Tell whether a text holds whole letters only, so that it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return True


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def finite_float(value: Any) -> float | None:
    """Return a number as a float, also numpy's; None: it is no real number, or no float holds it."""
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def shown(value: Any) -> str:
    """Return a wrong value for a message: cut, and in one line."""
    try:
        text = repr(value) if not isinstance(value, (dict, list)) else json.dumps(value)
    except ValueError:  # more digits than Python writes
        text = "a whole number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


NUMBERS: Final = "biufc?"  # numpy's kinds of numbers
TEXT: Final = "U"


def read_arrays(
    file: IO[bytes], names: tuple[str, ...] | None, *, most_bytes: int, kinds: str = NUMBERS
) -> dict[str, npt.NDArray[Any]]:
    """Return arrays of a ``.npz`` archive; their sizes are checked before they are unpacked.

    Args:
        file: the archive, open for reading.
        names: of the arrays; others are not read. None means all.
        most_bytes: of all these arrays, unpacked.
        kinds: of values, by numpy's letters.

    Raises:
        ValueError: no archive, encrypted, packed in an unknown way, an array is missing, holds objects, or
            all are larger than `most_bytes`.
    """
    import zipfile  # not at the top: a start that reads no archive needs none of it
    import zlib

    try:
        with zipfile.ZipFile(file) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            if names is None:
                names = tuple(name.removesuffix(".npy") for name in infos if name.endswith(".npy"))
            if missing := [name for name in names if f"{name}.npy" not in infos]:
                raise ValueError(f"no array {', '.join(missing)} in it")
            # Only what numpy writes: each other way of packing has errors of its own.
            usual = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if strange := [name for name in names if infos[f"{name}.npy"].compress_type not in usual]:
                raise ValueError(f"array {strange[0]} is packed in an unknown way")
            size = sum(infos[f"{name}.npy"].file_size for name in names)
            if size > most_bytes:
                raise ValueError(f"{size} bytes when unpacked, expected at most {most_bytes}")
            return {name: _array(archive, f"{name}.npy", most_bytes, kinds) for name in names}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"is no archive of arrays: {error}") from error


def _array(archive: Any, name: str, most_bytes: int, kinds: str) -> npt.NDArray[Any]:
    with archive.open(name) as member:
        return read_array(member, most_bytes=most_bytes, kinds=kinds)


def read_array(file: IO[bytes], *, most_bytes: int, kinds: str = NUMBERS) -> npt.NDArray[Any]:
    """Return the array of a ``.npy`` stream; its header is checked before memory is taken for it.

    Args:
        file: the stream.
        most_bytes: of the array.
        kinds: of values, by numpy's letters.

    Raises:
        ValueError: no such file, objects or fields in it, larger than `most_bytes`, or cut off.
    """
    shape, fortran, dtype = array_header(file, kinds=kinds)
    count = math.prod(shape)
    if count * dtype.itemsize > most_bytes:
        raise ValueError(f"an array {shape} of {dtype}, expected at most {most_bytes} bytes")
    content = file.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize:
        raise ValueError("its values are cut off")
    array = np.frombuffer(content, dtype=dtype, count=count) if content else np.empty(count, dtype)
    if dtype.kind == TEXT:
        _check_letters(array)
    return array.reshape(shape, order="F" if fortran else "C")


def _check_letters(array: npt.NDArray[Any]) -> None:
    codes = np.frombuffer(array.astype(array.dtype.newbyteorder("=")).tobytes(), np.uint32)
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        raise ValueError("holds a text that is not Unicode")


def array_header(file: IO[bytes], *, kinds: str = NUMBERS) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order (True: Fortran's) and type of a ``.npy`` stream, which stands at the values then.

    Raises:
        ValueError: no such stream, or of other kinds than `kinds`.
    """
    shape, fortran, dtype = _header(file)
    if dtype.hasobject or dtype.names or dtype.subdtype or dtype.kind not in kinds:
        raise ValueError(f"holds {dtype}, expected numbers")
    if min(shape, default=0) < 0 or any(side > MOST_SIDE for side in shape):
        raise ValueError(f"an array {shape}")
    return shape, fortran, dtype


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        return read[version](file)
    except KeyError as error:
        raise ValueError(f"version {error} of the .npy format is unknown") from error
    except Exception as error:  # numpy evaluates the header as Python, which fails in many ways
        raise ValueError(f"a wrong header: {error}") from error


def file_name(value: str, where: str) -> str:
    """Return a text that may be a part of a file's name.

    Raises:
        ValueError: it is empty, too long, hidden, or would lead to another folder.
    """
    if not value or value.startswith(".") or set(value) & set("/\\\0\n\r") or len(os.fsencode(value)) > 150:
        raise ValueError(f"{where}: {shown(value)}, expected a name of at most 150 bytes without a slash")
    return value


def whole(count: Any, name: str) -> int:
    """Return how many there are of something.

    Raises:
        InputError: no whole number, negative, or more than 32 bits hold.
    """
    if not hasattr(count, "__index__") or not 0 <= operator.index(count) < 1 << 31:
        raise InputError(f"{name}: expected a whole number, 0 or more, got {shown(count)}")
    return operator.index(count)
