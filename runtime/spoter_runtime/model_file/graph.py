"""Read the metadata, the inputs and the float nodes of an ONNX file, without the onnx package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from spoter_runtime.model_file.protobuf import (
    ENTRY,
    GRAPH,
    MODEL,
    NODE,
    OPSET,
    TENSOR,
    TENSOR_TYPE,
    TYPE,
    VALUE,
    Fields,
    message_fields,
    number_of_field,
    text_of_field,
)

# Field numbers of onnx.proto, which never change.
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_METADATA = 7, 8, 14
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE = 1, 2, 3, 4
_TENSOR_DATA_TYPE, _TENSOR_NAME = 2, 8

_FLOATS: Final = frozenset({1, 10, 11, 16})  # FLOAT, FLOAT16, DOUBLE, BFLOAT16 of TensorProto.DataType

_SHAPES: Final = frozenset({"Shape", "Size"})  # they read a tensor's shape, not its values

# Operators whose outputs are never floats: masks and counts may be computed anywhere.
_ENDS_OF_FLOATS: Final = _SHAPES | {
    "And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual",
    "NonZero", "Not", "Or", "Xor",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxGraph:
    """The parts of an ONNX file that a GPU session or an engine's builder needs before loading.

    Attributes:
        metadata: the file's metadata, key → value.
        names: names of all nodes.
        float_names: names of the nodes that compute on float inputs or weights; the others compute shapes and
            masks.
        opset: version of the standard operators; 0 if it is not stated.
        input_types: input → number of its type in TensorProto.DataType.
    """

    metadata: dict[str, str]
    names: frozenset[str]
    float_names: frozenset[str]
    opset: int = 0
    input_types: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxParts:
    """The fields of an ONNX file that its checks and its description need, parsed once."""

    model: Fields
    graph: Fields
    nodes: list[Fields]
    tensors: list[Fields]


def onnx_parts(content: bytes | memoryview) -> OnnxParts:
    """Parse the bytes of an ONNX file, without a copy of its weights.

    Raises:
        ValueError: they are not an ONNX file.
    """
    model = message_fields(memoryview(content), MODEL)
    if len(model[_MODEL_GRAPH]) != 1:
        raise ValueError("it is no ONNX file")
    graph = message_fields(model[_MODEL_GRAPH][0], GRAPH)
    return OnnxParts(
        model=model,
        graph=graph,
        nodes=[message_fields(node, NODE) for node in graph[_GRAPH_NODE]],
        tensors=[message_fields(tensor, TENSOR) for tensor in graph[_GRAPH_INITIALIZER]],
    )


def read_onnx(content: bytes | OnnxParts) -> OnnxGraph:
    """Describe an ONNX file, from its bytes or its parts.

    Raises:
        ValueError: it is not an ONNX file.
    """
    parts = content if isinstance(content, OnnxParts) else onnx_parts(content)
    model, graph, nodes = parts.model, parts.graph, parts.nodes
    entries = [message_fields(entry, ENTRY) for entry in model[_MODEL_METADATA]]
    return OnnxGraph(
        metadata={text_of_field(entry[1]): text_of_field(entry[2]) for entry in entries},
        names=frozenset(text_of_field(node[_NODE_NAME]) for node in nodes),
        float_names=_float_names(nodes, _float_tensors(parts)),
        opset=next(
            (
                number_of_field(e[2])
                for e in (message_fields(opset, OPSET) for opset in model[_MODEL_OPSETS])
                if not text_of_field(e[1])
            ),
            0,
        ),
        input_types=_input_types(graph),
    )


def _float_names(nodes: list[Fields], floats: set[str]) -> frozenset[str]:
    """Return the names of the nodes that depend on the tensors `floats`; nodes are in execution order."""
    names = set()
    for node in nodes:
        op_type = text_of_field(node[_NODE_OP_TYPE])
        if op_type in _SHAPES or not any(text_of_field([name]) in floats for name in node[_NODE_INPUT]):
            continue
        names.add(text_of_field(node[_NODE_NAME]))
        if op_type not in _ENDS_OF_FLOATS:
            floats |= {text_of_field([name]) for name in node[_NODE_OUTPUT]}
    return frozenset(names)


def _float_tensors(parts: OnnxParts) -> set[str]:
    """Return the names of inputs and initializers of a float type."""
    tensors = parts.tensors
    floats = {
        text_of_field(tensor[_TENSOR_NAME])
        for tensor in tensors
        if number_of_field(tensor[_TENSOR_DATA_TYPE]) in _FLOATS
    }
    return floats | {name for name, dtype in _input_types(parts.graph).items() if dtype in _FLOATS}


def _input_types(graph: Fields) -> dict[str, int]:
    """Return input → number of its type."""
    found = {}
    for value in (message_fields(value, VALUE) for value in graph[_GRAPH_INPUT]):
        type_proto = message_fields(value[2][0] if value[2] else b"", TYPE)
        tensor_type = message_fields(type_proto[1][0] if type_proto[1] else b"", TENSOR_TYPE)
        found[text_of_field(value[1])] = number_of_field(tensor_type[1])
    return found
