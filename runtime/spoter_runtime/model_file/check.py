"""Refuse an ONNX file that spoter-kit does not write: ONNX Runtime would run whatever is in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from spoter_runtime._version import __version__
from spoter_runtime.errors import BackendError, BundleError, upgrade_fix
from spoter_runtime.model_file.graph import OnnxGraph, OnnxParts, onnx_parts, read_onnx
from spoter_runtime.model_file.protobuf import ATTRIBUTE, TENSOR, message_fields, text_of_field, varints_of
from spoter_runtime.strict import shown

# Field numbers of onnx.proto, which never change.
_MODEL_TRAINING, _MODEL_FUNCTIONS = 20, 25
_GRAPH_INITIALIZER, _GRAPH_SPARSE = 5, 15
_NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR = 5
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14

# The operators of our exporter, of its passes, of ONNX Runtime's optimiser, and of the landmarker. No Loop,
# If or Scan: a file from a stranger could run for ever. A test exports every kind of file and compares.
_STANDARD: Final = """
    Abs Add And ArgMax Attention Cast CastLike Clip Concat Constant Conv DepthToSpace Div
    DynamicQuantizeLinear Equal Erf Expand Flatten Floor Gather GatherElements Gelu Gemm
    GlobalAveragePool Greater GreaterOrEqual Identity IsNaN LayerNormalization Less LessOrEqual MatMul
    MatMulInteger Max MaxPool Min Mul Neg Not Or Pad Pow Range ReduceL2 ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum Relu Reshape Resize Round Shape Sigmoid Sign Slice Softmax Split Sqrt Squeeze
    Sub Tanh Transpose Unsqueeze Where
"""
_MICROSOFT: Final = """
    BiasGelu BiasSoftmax DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu
    MatMulIntegerToFloat QuickGelu SkipLayerNormalization
"""
OPERATORS: Final = {"": frozenset(_STANDARD.split()), "com.microsoft": frozenset(_MICROSOFT.split())}
_FIX: Final = "take a bundle that spoter-kit exported"


def check_onnx_file(content: bytes, where: str = "the ONNX model") -> None:
    """Check an ONNX file before ONNX Runtime is given it; takes about 2 ms and no copy of the weights.

    Args:
        content: the bytes that ONNX Runtime is given.
        where: what errors call them.

    Raises:
        BundleError: it is no ONNX file, or holds what spoter-kit never writes: functions, graphs within
            nodes, weights in other files, a tensor that is larger than its values, or an unknown field.
        BackendError: an operator that spoter-kit of this version never writes, such as a loop.
    """
    with _refused(where):
        check_onnx(memoryview(content), where)


def describe_onnx_file(content: bytes, where: str = "the ONNX model") -> OnnxGraph:
    """Check an ONNX file, and return what a GPU session needs to know of it; raises as `check_onnx_file`."""
    with _refused(where):
        return read_onnx(check_onnx(memoryview(content), where))


@contextmanager
def _refused(where: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise BundleError(f"{where}: refused: a name that is no text", fix=_FIX) from error
    except (ValueError, IndexError) as error:
        raise BundleError(f"{where}: refused: {error}", fix=_FIX) from error


def check_onnx(content: memoryview, where: str) -> OnnxParts:
    """Check the bytes of an ONNX file, and return its parts.

    Raises:
        ValueError, IndexError: for a BundleError of `check_onnx_file`.
        BackendError: as `check_onnx_file`.
    """
    if not content:
        raise ValueError("it is empty")
    parts = onnx_parts(content)
    for number, what in ((_MODEL_FUNCTIONS, "functions"), (_MODEL_TRAINING, "training")):
        if parts.model[number]:
            raise ValueError(f"it holds {what}")
    if parts.graph[_GRAPH_SPARSE]:
        raise ValueError("it holds sparse weights")
    for node in parts.nodes:
        _check_node(node, where)
    for tensor, content in zip(parts.tensors, parts.graph[_GRAPH_INITIALIZER], strict=True):
        _check_tensor(tensor, len(content))
    return parts


def _check_node(node: Any, where: str) -> None:
    domain, op_type = text_of_field(node[_NODE_DOMAIN]), text_of_field(node[_NODE_OP_TYPE])
    if op_type not in OPERATORS.get("" if domain == "ai.onnx" else domain, ()):
        name = shown(f"{domain}.{op_type}".lstrip("."))
        raise BackendError(
            f"{where}: has an operator {name}, which spoter-kit {__version__} does not write",
            fix=f"{upgrade_fix()}, if a newer version wrote the bundle",
        )
    for attribute in node[_NODE_ATTRIBUTE]:
        for tensor in message_fields(attribute, ATTRIBUTE)[_ATTRIBUTE_TENSOR]:
            _check_tensor(message_fields(tensor, TENSOR), len(tensor))


def _check_tensor(tensor: Any, size_bytes: int) -> None:
    if tensor[_TENSOR_EXTERNAL] or any(tensor[_TENSOR_LOCATION]):
        raise ValueError("its weights are in another file")
    if math.prod(varints_of(tensor[_TENSOR_DIMS])) > 2 * size_bytes:  # the smallest type has four bits
        raise ValueError("a tensor is larger than its values")
