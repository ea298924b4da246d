"""fp16_from_fp32: the same ONNX graph with arithmetic in half precision, every cast written out.

TensorRT is strongly typed: what the file says is what runs, so the precision is put into the file.

An own pass, because the known ones add too many casts. For a BdSL_SPOTER with the same nodes kept in fp32,
against 3 here: `onnxruntime.transformers.float16` (1.32) adds 397, for it sends every tensor of the part that
shall stay fp32 through fp16 and back, the graph's inputs among them, and leaves the nodes in an order that
ONNX forbids; onnxconverter-common (1.16) adds 153. Both clip a weight that does not fit and go on.

bf16 is not offered: its one benefit is range, and no value of the models comes near the end of fp16's. Its
price is several times the error: see benchmarks/results/fp16-intel-xeon-2026-11.md.
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
# Operators that only move values: a weight that goes through one on its way to a product stays that weight.
_MOVES: Final = frozenset(
    {
        *("Concat", "Expand", "Gather", "Identity", "Reshape", "Slice"),
        *("Split", "Squeeze", "Transpose", "Unsqueeze"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestValue:
    """The largest finite magnitude that the fp16 part of a graph has to hold.

    Attributes:
        made_by: operator and node, ``"MatMul 'node_MatMul_195'"``.
    """

    magnitude: float
    tensor: str
    made_by: str


def fp16_from_fp32(model: onnx.ModelProto, *, keep_fp32: Collection[str] = ()) -> onnx.ModelProto:
    """Return the graph with fp16 arithmetic between its first product with a weight and its last one.

    All before the first product stays fp32: landmarks, masks and lengths need the range. So does the
    last product: rounding close logits would make them equal, and it costs no cast more. Between them nothing
    is kept by default: LayerNormalization and the additions around it in fp32 take a third off the largest
    difference and cost 27 casts, Softmax takes nothing off.

    Args:
        model: from `onnx_from_module`; it is left as it is.
        keep_fp32: types of operators, or names of nodes, that stay fp32 as well.

    Returns:
        A model with the same inputs, outputs and metadata; one cast a tensor, weights of the fp16 part stored
        in fp16 only.

    Raises:
        ExportError: there is nothing between two products with weights, `keep_fp32` names an unknown operator
            or node, or a weight does not fit.
    """
    edited = typed(model)
    region = fp16_nodes(edited.graph, keep_fp32)
    store_weights(edited.graph, region)
    cast_between(edited.graph, region)
    lowered = proto_from_ir(edited)
    check_valid(lowered, "the graph in fp16 is not valid ONNX", fix="name that operator in keep_fp32")
    return lowered


def rounded_from_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the fp16 graph in a form that ONNX Runtime's CPU provider rounds wherever the graph says so.

    Where that provider has no fp16 kernel it computes in fp32, and it drops the casts between such nodes at
    every optimisation level (1.32): most tensors of the models are then never rounded, and a proof would be
    too kind. Two reshapes to the tensor's own shape behind every fp16 tensor run in fp16 and hold the casts
    in place; a single one between two nodes without a kernel is moved to fp32 with them (then 66 of 110
    roundings held). To be deleted when a graph's own casts stay. For proofs only: it is slow. It stands
    for an engine that keeps every tensor in fp16 and sums in fp32; one that fuses nodes rounds less often.
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
    """Run the fp32 graph and check that fp16 holds every value that the fp16 part would compute.

    Args:
        model: the fp32 graph.
        batches: poses (N, T, 108) and lengths (N,), as `pad_clips` returns them; at least one.
        keep_fp32: as for `fp16_from_fp32`.

    Returns:
        The largest magnitude of all batches.

    Raises:
        ExportError: a value beyond 65504; names the first such node in the graph. An infinity of the fp32
            graph itself (a mask of -inf, say) is none: fp16 holds it as well.
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
    """Return a copy of a model in which every value knows its type."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def is_fp32(value: Input) -> bool:
    """Tell whether a value of a typed graph is an fp32 tensor."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def fp16_nodes(graph: ir.Graph, keep_fp32: Collection[str]) -> set[ir.Node | None]:
    """Return the nodes that shall compute in fp16.

    Raises:
        ExportError: there are none, or `keep_fp32` names an operator or a node that is not there.
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
    behind: set[Input] = set()  # fp32 tensors from the first product on
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
    # A Cast says its type itself and stays as it is.
    kept = {*keep_fp32, "Cast"}
    region -= {node for node in nodes if kept.intersection((node.op_type, node.name))}
    if not products & region:
        raise ExportError("no product with a weight comes before the last one: fp16 has nothing to do here")
    for node in reversed(
        nodes
    ):  # nodes that move weights for fp16 nodes only: the file then stores fp16 only
        readers = {use.node for value in node.outputs for use in value.uses()}
        if weights.issuperset(node.outputs) and readers <= region:
            region.add(node)
    return region


def moved_weights(graph: ir.Graph) -> set[Input]:
    """Return the fp32 constants, and the values that are made of them alone by moving."""
    weights: set[Input] = set(filter(is_fp32, graph.initializers.values()))
    for node in graph:
        sources = set(filter(is_fp32, node.inputs))
        if node.op_type in _MOVES and sources and sources <= weights:
            weights.update(node.outputs)
    return weights


def store_weights(graph: ir.Graph, region: Collection[ir.Node | None]) -> None:
    """Store in fp16 the weights that the region reads; constants that others read too are there in both.

    Raises:
        ExportError: a weight does not fit.
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
        ExportError: it does not fit; the reader is named.
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
        # A lone number is most often there to keep a division finite.
        reason = f"{values.item():.6g} becomes 0 in fp16"
    if reason:
        raise ExportError(
            f"{weight.name}, read by {reader.op_type} {reader.name!r}: {reason}",
            fix=f"keep_fp32={{{reader.name!r}}}, or stay with --precision fp32",
        )
    return half


def cast_between(graph: ir.Graph, region: Collection[ir.Node | None]) -> None:
    """Cast each tensor that the other precision reads, once, right behind the node that computes it."""
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
    """Return the layer of the module that a tensor is near: the first parameter that meets it on its way."""
    reached: set[Input] = {tensor}
    for node in graph:
        if reached.intersection(node.inputs) or tensor in node.outputs:
            constants = [value for value in node.inputs if value is not None and value.is_initializer()]
            if named := [name_of(value) for value in constants if "." in name_of(value)]:
                return f" at {named[0].rpartition('.')[0]}"
            reached.update(node.outputs)
    return ""


def session_of_magnitudes(model: ir.Model, tensors: Iterable[ir.Value]) -> Any:
    """Return a session of the graph whose outputs are the largest finite magnitudes of the tensors."""
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
