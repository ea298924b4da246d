"""opset_17: rewrite a graph of opset 20 for the ONNX parser of TensorRT 8.6.

That parser reads opset 17. It knows Erf and LayerNormalization, but no Gelu, and it narrows int64 to int32.
onnx's own version converter stops at Gelu and at Split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from spoter_export.passes.graph import NewNodes, check_valid, proto_from_ir, weight_of
from spoter_runtime.errors import ExportError

OPSET_OF_TENSORRT_8: Final = 17
_IR_VERSION: Final = 8  # of onnx 1.12, the first with opset 17
_AXES_BECAME_INPUT: Final = frozenset({"ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"})
_INT32: Final = np.iinfo(np.int32)
# Operators of the graph whose definition changed after opset 17 only in the types that they take.
_UNCHANGED: Final = frozenset(
    {
        *("Abs", "Add", "And", "Cast", "Clip", "Concat", "Constant", "Div", "Equal", "Erf", "Exp", "Expand"),
        *("Flatten", "Gather", "Gemm", "Greater", "Identity", "IsInf", "IsNaN", "LayerNormalization", "Less"),
        *("Log", "MatMul", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal"),
        *("ReduceSum", "Relu", "Reshape", "Sigmoid", "Sign", "Slice", "Softmax", "Sqrt", "Squeeze", "Sub"),
        *("Tanh", "Transpose", "Unsqueeze", "Where", "ConstantOfShape", "Cos", "Sin", "Tile", "Floor"),
    }
)


def opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of an fp32 graph of opset 20 with the same answers, in operators of opset 17.

    Raises:
        ExportError: an operator has no form in opset 17 here; the message names it.
    """
    edited = ir.from_proto(model)
    for node in list(edited.graph):
        if rewrite := _REWRITES.get(node.op_type):
            rewrite(edited, node)
        elif node.op_type not in _UNCHANGED:
            raise ExportError(
                f"node {node.name}: the operator {node.op_type} is not rewritten for TensorRT 8.6",
                fix="build with TensorRT 10.3 or newer",
            )
    narrow_constants(edited.graph)
    edited.graph.opset_imports[""] = OPSET_OF_TENSORRT_8
    edited.ir_version = _IR_VERSION
    rewritten = proto_from_ir(edited)
    check_valid(rewritten, "the graph for TensorRT 8.6 is not valid ONNX")
    return rewritten


def gelu_as_erf(model: ir.Model, node: ir.Node) -> None:
    """Replace Gelu by x/2 · (1 + erf(x / √2)); the half comes first, so that fp16 holds every product."""
    if node.attributes.get_string("approximate", "none") != "none":
        raise ExportError(f"node {node.name}: only the exact Gelu can be written with Erf")
    x, y = node.inputs[0], node.outputs[0]
    new = NewNodes(model)
    scaled = new.op("Mul", [x, new.constant("erf_scale", np.float32(0.5**0.5))], f"{y.name}_scaled")
    erf = new.op("Erf", [scaled], f"{y.name}_erf")
    share = new.op("Add", [erf, new.constant("erf_one", np.float32(1))], f"{y.name}_share")
    half = new.op("Mul", [x, new.constant("erf_half", np.float32(0.5))], f"{y.name}_by_2")
    new.op("Mul", [half, share], y)
    new.replace()


def axes_as_attribute(model: ir.Model, node: ir.Node) -> None:
    """Replace a reduction's axes input by the attribute of opset 17; one without that input stays."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return
    axes = weight_of(node.inputs[1])
    if axes is None:
        raise ExportError(f"node {node.name}: TensorRT 8.6 needs constant axes")
    kept = node.attributes.get_int("keepdims", 1)
    new = NewNodes(model)
    new.op(node.op_type, [node.inputs[0]], node.outputs[0], axes=axes.tolist(), keepdims=kept)
    new.replace()


def split_by_outputs(model: ir.Model, node: ir.Node) -> None:
    """Remove Split's number of parts, which opset 13 takes from the number of outputs."""
    node.attributes.pop("num_outputs", None)


def whole_shape(model: ir.Model, node: ir.Node) -> None:
    """Replace Shape with a start and an end by Shape and Slice: older parsers ignore the two."""
    start, end = (node.attributes.get_int(name, none) for name, none in (("start", 0), ("end", _INT32.max)))
    if start == 0 and end == _INT32.max:
        return
    new = NewNodes(model)
    shape = new.op("Shape", [node.inputs[0]], f"{node.outputs[0].name}_whole")
    ends = [new.constant("shape_from", [start]), new.constant("shape_to", [end])]
    new.op("Slice", [shape, *ends], node.outputs[0])
    new.replace()


def pad_all_axes(model: ir.Model, node: ir.Node) -> None:
    """Check that Pad has no axes, its input since opset 18."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        raise ExportError(f"node {node.name}: Pad with axes has no form in opset 17 here")


def narrow_constants(graph: ir.Graph) -> None:
    """Clip int64 constants to int32's range: the parser would do so with a warning for each."""
    for value in graph.initializers.values():
        array = weight_of(value)
        if array is not None and array.dtype == np.int64:
            value.const_value = ir.tensor(np.clip(array, _INT32.min, _INT32.max), name=value.name)


_REWRITES: Final[dict[str, Callable[[ir.Model, ir.Node], None]]] = {
    "Gelu": gelu_as_erf,
    "Split": split_by_outputs,
    "Shape": whole_shape,
    "Pad": pad_all_axes,
    **dict.fromkeys(_AXES_BECAME_INPUT, axes_as_attribute),
}
