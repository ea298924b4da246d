"""fp16_from_fp32: convert an ONNX graph to half precision, with explicit casts.

TensorRT networks are strongly typed, so the precision must be in the file.

The known converters add too many casts. For a BdSL_SPOTER with the same nodes kept in fp32, this module adds
3; `onnxruntime.transformers.float16` (1.32) adds 397, because it sends every fp32 tensor through fp16 and
back, the graph's inputs included, and leaves the nodes in an invalid order; onnxconverter-common (1.16) adds
153. Both clip weights beyond fp16's range silently.

bf16 is not offered: it only adds range, which these models do not need, at several times the error: see
benchmarks/results/fp16-intel-xeon-2026-11.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir

from spoter_export.passes.graph import Array, Input, NewNodes, check_valid, name_of, proto_from_ir, weight_of
from spoter_runtime.contract import LENGTHS, POSES
from spoter_runtime.errors import ExportError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort.installed import import_onnxruntime
from spoter_runtime.runner import Int32Array

FP16_MAX: Final = 65504.0

_PRODUCTS: Final = frozenset({"Conv", "Gemm", "MatMul"})
# Operators that only move values: a weight behind one is still a weight.
_MOVES: Final = frozenset(
    {
        *("Concat", "Expand", "Gather", "Identity", "Reshape", "Slice"),
        *("Split", "Squeeze", "Transpose", "Unsqueeze"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestValue:
    """The largest finite magnitude in the fp16 part of a graph.

    Attributes:
        made_by: operator and node that compute it, ``"MatMul 'node_MatMul_195'"``.
    """

    magnitude: float
    tensor: str
    made_by: str


def fp16_from_fp32(model: onnx.ModelProto, *, keep_fp32: Collection[str] = ()) -> onnx.ModelProto:
    """Return the graph with fp16 arithmetic between its first product with a weight and its last one.

    Everything before the first product stays fp32: landmarks, masks and lengths need the range. So does the
    last product, without an extra cast: rounding could make close logits equal. Nothing between is kept by
    default: LayerNormalization and the additions around it in fp32 would take a third off the largest
        difference for 27
    casts, Softmax nothing.

    Args:
        model: from `onnx_from_module`; not modified.
        keep_fp32: operator types, or node names, to keep in fp32 too.

    Returns:
        A model with the same inputs, outputs and metadata; one cast per tensor, and weights of the fp16 part
        only in fp16.

    Raises:
        ExportError: the graph has no two products with weights, `keep_fp32` names an unknown operator or
            node, or a weight is beyond fp16's range.
    """
    edited = typed(model)
    region = fp16_nodes(edited.graph, keep_fp32)
    store_weights(edited.graph, region)
    cast_between(edited.graph, region)
    lowered = proto_from_ir(edited)
    check_valid(lowered, "the graph in fp16 is not valid ONNX", fix="name that operator in keep_fp32")
    return lowered


def rounded_from_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a form of an fp16 graph in which ONNX Runtime's CPU provider rounds every fp16 tensor.

    The provider computes nodes without an fp16 kernel in fp32, and drops the casts between them at every
    optimisation level (1.32): most tensors are never rounded, and a proof would be too optimistic. Two
    reshapes to the tensor's own shape after every fp16 tensor run in fp16 and keep the casts; a single one
    moves to fp32 with its neighbours (then 66 of 110 roundings held). Delete this when a graph's own casts
    stay. Slow; for proofs only. It models an engine that keeps every tensor in fp16 and sums in fp32; an
    engine that fuses nodes rounds less.
    """
    rounded = typed(model)
    for node in list(rounded.graph):
        for value in [value for value in node.outputs if value.dtype == ir.DataType.FLOAT16]:
            name = name_of(value)
            half = ir.Value(name=f"{name}_half")
            whole = ir.Value(name=name, type=value.type, shape=value.shape)
            value.replace_all_uses_with(whole, replace_graph_outputs=True)
            value.name = f"{name}_raw"
            shape = ir.Value(name=f"{name}_shape")
            new = [ir.node("Shape", [value], outputs=[shape], name=f"shape_of_{name}")]
            for reads, makes in ((value, half), (half, whole)):
                as_it_is, node_name = {"allowzero": 1}, f"make_{makes.name}"
                new.append(ir.node("Reshape", [reads, shape], as_it_is, outputs=[makes], name=node_name))
            rounded.graph.insert_after(node, new)
    return proto_from_ir(rounded)


def check_fp16_range(
    model: onnx.ModelProto,
    batches: Iterable[tuple[Float32Array, Int32Array]],
    *,
    keep_fp32: Collection[str] = (),
) -> LargestValue:
    """Run the fp32 graph and check that every value of the fp16 part is within fp16's range.

    Args:
        model: the fp32 graph.
        batches: poses (N, T, 108) and lengths (N,), from `pad_clips`; at least one.
        keep_fp32: as for `fp16_from_fp32`.

    Returns:
        The largest magnitude over all batches.

    Raises:
        ExportError: a finite value is beyond 65504; the first such node is named. Infinities of the fp32
            graph (a mask of -inf, say) are allowed, because fp16 has them too.
    """
    watched = typed(model)
    graph = watched.graph
    region = fp16_nodes(graph, keep_fp32)
    made_by: dict[ir.Value, str] = {}
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        node = value.producer()
        if is_fp32(value) and (node in region or any(use.node in region for use in value.uses())):
            made_by[value] = f"{node.op_type} {node.name!r}" if node is not None else "the graph's input"
    session = session_of_magnitudes(watched, list(made_by))
    largest = LargestValue(magnitude=0.0, tensor="", made_by="")
    for poses_NTD, lengths_N in batches:
        magnitudes = session.run(None, {POSES: poses_NTD, LENGTHS: lengths_N})
        for (value, made), magnitude in zip(made_by.items(), map(float, magnitudes), strict=True):
            if magnitude > FP16_MAX:
                raise ExportError(
                    f"{made}{layer_near(graph, value)}: {value.name!r} reaches {magnitude:.6g} on clips of "
                    f"shape {poses_NTD.shape}, fp16 holds {FP16_MAX:.0f}",
                    fix="stay with --precision fp32, or keep_fp32 with this node and those that read it",
                )
            if magnitude > largest.magnitude:
                largest = LargestValue(magnitude=magnitude, tensor=name_of(value), made_by=made)
    return largest


def typed(model: onnx.ModelProto) -> ir.Model:
    """Return a copy of a model with the types of all values inferred."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def is_fp32(value: Input) -> bool:
    """Return True for an fp32 tensor of a typed graph."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def fp16_nodes(graph: ir.Graph, keep_fp32: Collection[str]) -> set[ir.Node | None]:
    """Return the nodes to compute in fp16.

    Raises:
        ExportError: there are none, or `keep_fp32` names an unknown operator or node.
    """
    nodes = list(graph)
    unknown = set(keep_fp32) - {name for node in nodes for name in (node.name, node.op_type)}
    if unknown:
        raise ExportError(f"keep_fp32: no operator or node of the graph is called {sorted(unknown)[0]!r}")
    weights = moved_weights(graph)
    products = {
        node
        for node in nodes
        if node.op_type in _PRODUCTS and len(weights.intersection(node.inputs[:2])) == 1
    }
    behind: set[Input] = set()  # fp32 tensors that depend on a product
    region: set[ir.Node | None] = set()
    for node in nodes:
        if node in products or behind.intersection(node.inputs):
            behind.update(filter(is_fp32, node.outputs))
            region.add(node)
    tail: set[Input] = set(graph.outputs)  # back to the last product, or the last on each way there
    for node in reversed(nodes):
        if tail.intersection(node.outputs):
            region.discard(node)
            if node not in products:
                tail.update(behind.intersection(node.inputs))
    # A Cast states its own type and stays unchanged.
    kept = {*keep_fp32, "Cast"}
    region -= {node for node in nodes if kept.intersection((node.op_type, node.name))}
    if not products & region:
        raise ExportError("no product with a weight comes before the last one: fp16 has nothing to do here")
    for node in reversed(
        nodes
    ):  # nodes that move weights only for fp16 nodes, so that the file stores these weights in fp16 only
        readers = {use.node for value in node.outputs for use in value.uses()}
        if weights.issuperset(node.outputs) and readers <= region:
            region.add(node)
    return region


def moved_weights(graph: ir.Graph) -> set[Input]:
    """Return the fp32 constants, and the values that moving operators make from them."""
    weights: set[Input] = set(filter(is_fp32, graph.initializers.values()))
    for node in graph:
        sources = set(filter(is_fp32, node.inputs))
        if node.op_type in _MOVES and sources and sources <= weights:
            weights.update(node.outputs)
    return weights


def store_weights(graph: ir.Graph, region: Collection[ir.Node | None]) -> None:
    """Convert the weights that the region reads to fp16; a weight that other nodes read too is kept in both.

    Raises:
        ExportError: a weight is beyond fp16's range.
    """
    constants = list(graph.initializers.values())
    graph.initializers.clear()
    for value in constants:
        readers = list(value.uses())
        halved = [use for use in readers if use.node in region] if is_fp32(value) else []
        if not halved or len(halved) < len(readers):
            graph.register_initializer(value)
        if halved:
            name = f"{value.name}_fp16"
            tensor = ir.tensor(fitting_half(value, halved[0].node), name=name)
            half = ir.Value(name=name, const_value=tensor)
            graph.register_initializer(half)
            for use in halved:
                use.node.replace_input_with(use.idx, half)


def fitting_half(weight: ir.Value, reader: ir.Node) -> Array:
    """Return a weight in fp16.

    Raises:
        ExportError: the weight is beyond fp16's range; `reader` is named.
    """
    values = weight_of(weight)
    assert values is not None  # it is a constant
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    lost = values[np.isinf(half) & np.isfinite(values)]
    reason = ""
    if lost.size:
        reason = f"{lost[np.abs(lost).argmax()]:.6g} does not fit fp16, which holds {FP16_MAX:.0f}"
    elif values.size == 1 and values.any() and not half.any():
        # A scalar is usually an epsilon that keeps a division finite.
        reason = f"{values.item():.6g} becomes 0 in fp16"
    if reason:
        raise ExportError(
            f"{weight.name}, read by {reader.op_type} {reader.name!r}: {reason}",
            fix=f"keep_fp32={{{reader.name!r}}}, or stay with --precision fp32",
        )
    return half


def cast_between(graph: ir.Graph, region: Collection[ir.Node | None]) -> None:
    """Cast each tensor that the other precision reads, once, right after the node that computes it."""
    casts: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        for place, value in enumerate(node.inputs):
            if value is None or not is_fp32(value) or value.is_initializer():
                continue
            maker, to_fp16 = value.producer(), node in region
            if (maker in region) == to_fp16:
                continue
            if value not in casts:
                suffix, to = ("fp16", ir.DataType.FLOAT16) if to_fp16 else ("fp32", ir.DataType.FLOAT)
                made = ir.Value(name=f"{value.name}_{suffix}")
                cast = ir.node(
                    "Cast", [value], {"to": to}, outputs=[made], name=f"cast_{value.name}_{suffix}"
                )
                casts[value] = made
                if maker is None:
                    graph.insert_before(graph[0], cast)
                else:
                    graph.insert_after(maker, cast)
            node.replace_input_with(place, casts[value])


def layer_near(graph: ir.Graph, tensor: ir.Value) -> str:
    """Return the module layer of the first parameter downstream of a tensor, for messages."""
    reached: set[Input] = {tensor}
    for node in graph:
        if reached.intersection(node.inputs) or tensor in node.outputs:
            constants = [value for value in node.inputs if value is not None and value.is_initializer()]
            if named := [name_of(value) for value in constants if "." in name_of(value)]:
                return f" at {named[0].rpartition('.')[0]}"
            reached.update(node.outputs)
    return ""


def session_of_magnitudes(model: ir.Model, tensors: Iterable[ir.Value]) -> Any:
    """Return a session whose outputs are the largest finite magnitudes of the tensors."""
    ort = import_onnxruntime()
    new = NewNodes(model)
    zero = new.constant("watch_zero", np.zeros((), np.float32))
    largest = []
    for value in tensors:
        infinite = new.op("IsInf", [value], f"watch_isinf_{value.name}")
        absolute = new.op("Abs", [value], f"watch_abs_{value.name}")
        finite = new.op("Where", [infinite, zero, absolute], f"watch_finite_{value.name}")
        largest.append(new.op("ReduceMax", [finite], f"watch_max_{value.name}", keepdims=0))
    for value in largest:
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(())
    new.put(None)
    model.graph.outputs[:] = largest
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: they come back as exceptions
    content = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
