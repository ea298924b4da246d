"""The Open Inference Protocol v2: requests to checked clips, answers to JSON and binary tensors.

N clips, T frames, L landmarks, D features of a frame, C classes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from spoter_runtime.contract import LENGTHS, LOGITS, POSES, GraphContract
from spoter_runtime.decision import Abstention, decide, softmax
from spoter_runtime.errors import SpoterError, nearest_known
from spoter_runtime.landmarks import NUM_FEATURES, NUM_LANDMARKS, Float32Array, check_clip
from spoter_runtime.runner import check_lengths
from spoter_runtime.strict import shown

HEADER_LENGTH: Final = "inference-header-content-length"  # bytes of JSON before the binary tensors
BINARY: Final = "application/octet-stream"
ALLOW_EMPTY: Final = "allow_empty"  # a request's parameter: take clips in which nothing was detected

_Kind = TypeVar("_Kind")

_INPUTS: Final = {POSES: ("FP32", np.dtype("<f4")), LENGTHS: ("INT32", np.dtype("<i4"))}
_OUTPUTS: Final = {LOGITS: "FP32", "label": "BYTES", "score": "FP32"}
_OF_CALIBRATED: Final = {"probability": "FP32", "is_sign": "BOOL", "reason": "BYTES"}
_TYPES: Final = {"FP32": "<f4", "BOOL": "?"}
_WORDS: Final[dict[type, str]] = {dict: "a table", list: "a list", str: "a text", int: "a whole number"}
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class Refused(SpoterError):
    """A request that cannot be answered.

    Attributes:
        status: of HTTP.
        headers: more of the answer's headers.
    """

    def __init__(
        self, message: object, *, status: int = 400, fix: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, fix=fix)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that was read and checked.

    Attributes:
        id: the client's, or empty.
        clips: (frames, 54, 2) each, from `check_clip`.
        outputs: name → whether as a binary tensor.
    """

    id: str
    clips: list[Float32Array]
    outputs: dict[str, bool]


def outputs_of(rule: Abstention | None) -> dict[str, str]:
    """Return name → datatype of what a model answers; more of them with a calibration."""
    return _OUTPUTS | (_OF_CALIBRATED if rule else {})


def tensors_of(contract: GraphContract, rule: Abstention | None) -> dict[str, Any]:
    """Return inputs and outputs as the protocol describes a model's; -1 is any size."""
    shapes = {POSES: [-1, -1, NUM_FEATURES], LENGTHS: [-1], LOGITS: [-1, contract.num_classes]}
    kinds = {name: kind for name, (kind, _) in _INPUTS.items()}
    return {
        group: [{"name": n, "datatype": kind, "shape": shapes.get(n, [-1])} for n, kind in one.items()]
        for group, one in (("inputs", kinds), ("outputs", outputs_of(rule)))
    }


def read_request(
    body: bytes, header_length: str | None, contract: GraphContract, rule: Abstention | None, *, most: int
) -> Request:
    """Read a request's body.

    Args:
        body: JSON, and behind it the binary tensors, if any.
        header_length: the value of the header `HEADER_LENGTH`; None without it.
        contract: the model's.
        rule: its calibration.
        most: clips that a request may have.

    Raises:
        Refused: no such request; `InputError` is a clip that Python refuses too, with the same reason.
    """
    head, binary = _parts(body, header_length)
    try:
        value = _is(dict, json.loads(head), "request")
        parameters = _is(dict, value.get("parameters", {}), "parameters")
        tensors = dict(_tensors(_all(dict, value.get("inputs"), "inputs"), binary))
        return Request(
            id=_is(str, value.get("id", ""), "id"),
            outputs=_outputs(value, parameters, outputs_of(rule)),
            clips=_clips(tensors, contract, most, allow_empty=parameters.get(ALLOW_EMPTY) is True),
        )
    except RecursionError as error:
        raise Refused("the request: lists too deep in each other") from error
    except UnicodeDecodeError as error:
        raise Refused("the request: is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise Refused(f"the request: is no JSON ({error.msg} at {error.pos})") from error
    except ValueError as error:
        if isinstance(error, SpoterError):
            raise
        raise Refused(error) from error


def _is(kind: type[_Kind], value: Any, where: str) -> _Kind:
    """Return a value if it is of a type; `strict.expect` takes five times as long, for each small field."""
    if type(value) is not kind:
        raise Refused(f"{where}: {shown(value)}, expected {_WORDS[kind]}")
    return value


def _all(kind: type[_Kind], values: Any, where: str) -> list[_Kind]:
    return [_is(kind, value, where) for value in _is(list, values, where)]


def _parts(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
        raise Refused(f"{HEADER_LENGTH}: {shown(header_length)}, expected a whole number")
    length = int(header_length)
    if length > len(body):
        raise Refused(f"{HEADER_LENGTH}: {length}, but the body has {len(body)} bytes")
    return body[:length], memoryview(body)[length:]


def _tensors(inputs: list[dict[str, Any]], binary: memoryview) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield name and array of each input; binary ones lie behind each other."""
    seen: set[str] = set()
    begin = 0
    for one in inputs:
        name = _is(str, one.get("name"), "inputs.name")
        if name not in _INPUTS or name in seen:
            known = nearest_known(name, list(_INPUTS))
            raise Refused(f"input {shown(name)}: {'is there twice' if name in seen else known}")
        seen.add(name)
        datatype, kind = _INPUTS[name]
        if one.get("datatype") != datatype:
            raise Refused(f"{name}: expected datatype {datatype}, got {shown(one.get('datatype'))}")
        shape = tuple(_all(int, one.get("shape"), f"{name}.shape"))
        if min(shape, default=0) < 0:
            raise Refused(f"{name}: shape {shown(list(shape))}, expected no negative size")
        size = _is(dict, one.get("parameters", {}), f"{name}.parameters").get("binary_data_size")
        if size is not None and "data" in one:
            raise Refused(f"{name}: has data and a binary_data_size", fix="send one of the two")
        if size is None:
            array = _array(one.get("data"), kind, name)
        else:
            end = begin + _is(int, size, f"{name}.binary_data_size")
            if not begin <= end <= len(binary) or (end - begin) % kind.itemsize:
                raise Refused(
                    f"{name}: binary_data_size {size}, of {len(binary) - begin} bytes that are left"
                )
            array, begin = np.frombuffer(binary[begin:end], kind), end
        if array.size != math.prod(shape):
            raise Refused(f"{name}: {array.size} values, its shape {shown(list(shape))} has another number")
        yield name, array.reshape(shape)
    if begin != len(binary):
        raise Refused(f"{len(binary) - begin} bytes are left behind the binary tensors")


def _array(data: Any, kind: np.dtype[Any], name: str) -> npt.NDArray[Any]:
    """Return JSON numbers as an array; null is NaN among floats: not detected."""
    try:
        array = np.asarray(_is(list, data, f"{name}.data"))
    except ValueError as error:
        raise Refused(f"{name}: its data are no numbers in rows of one length") from error
    if array.dtype.kind == "O" and kind.kind == "f":
        plain = {type(one) for one in array.flat} <= {int, float, type(None)}
    else:
        plain = array.dtype.kind in ("fiu" if kind.kind == "f" else "iu") or not array.size
    if not plain:
        raise Refused(f"{name}: its data are no numbers of type {kind.name} in rows of one length")
    try:
        with np.errstate(over="ignore"):  # becomes an infinity, which the clip's check names
            found: npt.NDArray[Any] = array.astype(kind, casting="unsafe")
    except (OverflowError, TypeError) as error:
        raise Refused(f"{name}: its data do not fit into {kind.name}") from error
    if kind.kind == "i" and (found != array).any():
        raise Refused(f"{name}: its data do not fit into {kind.name}")
    return found


def _clips(
    tensors: dict[str, npt.NDArray[Any]], contract: GraphContract, most: int, *, allow_empty: bool
) -> list[Float32Array]:
    if (poses_NTD := tensors.get(POSES)) is None:
        raise Refused(f"input {POSES!r} is missing")
    if poses_NTD.ndim != 3 or poses_NTD.shape[2] != NUM_FEATURES:
        raise Refused(f"poses: expected (batch, frames, {NUM_FEATURES}), got {poses_NTD.shape}")
    clips, frames, _ = poses_NTD.shape
    if not 1 <= clips <= most:
        raise Refused(f"poses: batch of {clips}, this server takes 1..{most}")
    lengths = [frames] * clips
    if LENGTHS in tensors:
        given = tensors[LENGTHS]
        flat = given.reshape(-1) if given.shape == (clips, 1) else given  # (N, 1): as Triton wants it
        lengths = check_lengths(flat, clips, frames).tolist()
    return [
        check_clip(
            poses_TD[:length].reshape(length, NUM_LANDMARKS, 2),
            max_frames=contract.max_frames,
            where=f"clip {i}",
            allow_empty=allow_empty,
        )
        for i, (poses_TD, length) in enumerate(zip(poses_NTD, lengths, strict=True))
    ]


def _outputs(value: dict[str, Any], parameters: dict[str, Any], known: dict[str, str]) -> dict[str, bool]:
    binary = parameters.get("binary_data_output") is True
    asked = _all(dict, value.get("outputs", []), "outputs")
    found = {}
    for one in asked:
        name = _is(str, one.get("name"), "outputs.name")
        if name not in known:
            raise Refused(f"output {shown(name)}: {nearest_known(name, list(known))}")
        if name in found:
            raise Refused(f"output {shown(name)}: is there twice")
        own = _is(dict, one.get("parameters", {}), f"{name}.parameters")
        if own.get("classification"):
            raise Refused(f"{name}: this server has no classification", fix="ask for the output 'label'")
        found[name] = own.get("binary_data", binary) is True
    return found or dict.fromkeys(known, binary)


def write_answer(
    names: dict[str, str],
    request: Request,
    logits_NC: Float32Array,
    contract: GraphContract,
    rule: Abstention | None,
) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an answer.

    Args:
        names: ``model_name``, ``model_version`` and ``id``.
        request: that is answered.
        logits_NC: the model's, of finite numbers.
        contract: the model's.
        rule: its calibration.
    """
    columns: dict[str, Any] = {LOGITS: logits_NC}
    if request.outputs.keys() - {LOGITS}:
        columns |= _answers(logits_NC, request.clips, contract, rule)
    outputs, tensors = [], []
    for name, binary in request.outputs.items():
        kind, values = outputs_of(rule)[name], columns[name]
        array = np.asarray(values, _TYPES.get(kind, object))
        one: dict[str, Any] = {"name": name, "datatype": kind, "shape": list(array.shape)}
        if binary:
            content = _texts(values) if kind == "BYTES" else array.tobytes()
            one["parameters"] = {"binary_data_size": len(content)}
            tensors.append(content)
        else:
            one["data"] = array.ravel().tolist()
        outputs.append(one)
    head = _encode(names | {"outputs": outputs}).encode()
    if not tensors:
        return head, {"content-type": "application/json"}
    return b"".join((head, *tensors)), {"content-type": BINARY, HEADER_LENGTH: str(len(head))}


def _answers(
    logits_NC: Float32Array, clips: list[Float32Array], contract: GraphContract, rule: Abstention | None
) -> dict[str, list[Any]]:
    """Return what a `Prediction` says besides the logits, a value a clip."""
    found: dict[str, list[Any]] = {name: [] for name in outputs_of(rule) if name != LOGITS}
    for logits, clip in zip(logits_NC.tolist(), clips, strict=True):
        best = logits.index(max(logits))
        found["label"].append(contract.labels[best].name)
        found["score"].append(softmax(logits)[best])
        for name, value in decide(logits, contract.labels, clip, rule)._asdict().items() if rule else ():
            found[name].append(value)
    return found


def _texts(values: Sequence[str]) -> bytes:
    """Return texts as the protocol has them in binary: four bytes of length before each."""
    encoded = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(one)) + one for one in encoded)
