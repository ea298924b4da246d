"""fp16_from_fp32: the same ONNX graph with arithmetic in half precision, every cast written out.

TensorRT is strongly typed: what the file says is what runs, so the precision is put into the file.

An own pass, because the known ones add too many casts. For a BdSL_SPOTER with the same nodes kept in fp32,
against 3 here: `onnxruntime.transformers.float16` (1.32) adds 397, for it sends every tensor of the part that
shall stay fp32 through fp16 and back, the graph's inputs among them, and leaves the nodes in an order that
ONNX forbids; onnxconverter-common (1.16) adds 153. Both clip a weight that does not fit and go on.

bf16 is not offered: its one benefit is range, and no value of the models comes near the end of fp16's. Its
price is several times the error. `benchmarks/fp16.py` measures both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from spoter_runtime.contract import LENGTHS, LOGITS, POSES
from spoter_runtime.errors import ExportError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort.runner import import_onnxruntime
from spoter_runtime.runner import Int32Array

FP16_MAX: Final = 65504.0

_PRODUCTS: Final = frozenset({"Conv", "Gemm", "MatMul"})
# What only moves values: a weight that goes through it on its way to a product is still that weight.
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

    What comes before the first product stays fp32: landmarks, masks and lengths need the range. So does the
    last product: rounding close logits would make them equal, and it costs no cast more. Between them nothing
    is kept by default: LayerNormalization and the additions around it in fp32 take a third off the largest
    difference and cost 27 casts, Softmax takes nothing off (`benchmarks/fp16.py`).

    Args:
        model: what `onnx_from_module` returns; it is left as it is.
        keep_fp32: types of operators, or names of nodes, that stay fp32 as well.

    Returns:
        A model with the same inputs, outputs and metadata; one cast a tensor, weights of the fp16 part stored
        in fp16 only.

    Raises:
        ExportError: there is nothing between two products with weights, `keep_fp32` names what is not there,
            or a weight does not fit.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    floats = _float_tensors(model)
    region = _fp16_nodes(model, floats, keep_fp32)
    _store_weights(lowered.graph, floats, region)
    nodes = _with_casts(lowered.graph, floats, region)
    del lowered.graph.node[:]
    lowered.graph.node.extend(nodes)
    try:
        onnx.checker.check_model(lowered, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the graph in fp16 is not valid ONNX: {error}", fix="name that operator in keep_fp32"
        ) from error
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
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    values = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    halves = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = []
    for node in rounded.graph.node:
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in halves:
                raw, shape = f"{name}_raw", f"{name}_shape"
                node.output[position] = raw
                nodes.append(helper.make_node("Shape", [raw], [shape], name=f"shape_of_{name}"))
                half = f"{name}_half"
                for reads, makes in ((raw, half), (half, name)):
                    again = helper.make_node("Reshape", [reads, shape], [makes], name=f"make_{makes}")
                    again.attribute.append(helper.make_attribute("allowzero", 1))
                    nodes.append(again)
    del rounded.graph.node[:]
    rounded.graph.node.extend(nodes)
    return rounded


def check_fp16_range(
    model: onnx.ModelProto,
    batches: Iterable[tuple[Float32Array, Int32Array]],
    *,
    keep_fp32: Collection[str] = (),
) -> LargestValue:
    """Run the fp32 graph and check that fp16 holds everything that its fp16 part would compute.

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
    makers = _makers_of_fp16(model, keep_fp32)
    session = _session_of_magnitudes(model, list(makers))
    largest = LargestValue(magnitude=0.0, tensor="", made_by="")
    for poses_NTD, lengths_N in batches:
        magnitudes = session.run(None, {POSES: poses_NTD, LENGTHS: lengths_N})
        for (name, made_by), magnitude in zip(makers.items(), map(float, magnitudes), strict=True):
            if magnitude > FP16_MAX:
                raise ExportError(
                    f"{made_by}{_layer_at(model.graph, name)}: {name!r} reaches {magnitude:.6g} on clips of "
                    f"shape {poses_NTD.shape}, fp16 holds {FP16_MAX:.0f}",
                    fix="stay with --precision fp32, or keep_fp32 with this node and those that read it",
                )
            if magnitude > largest.magnitude:
                largest = LargestValue(magnitude=magnitude, tensor=name, made_by=made_by)
    return largest


def _layer_at(graph: onnx.GraphProto, tensor: str) -> str:
    """Say which layer of the module a tensor is near: the first parameter that meets it on its way."""
    parameters = {initializer.name for initializer in graph.initializer if "." in initializer.name}
    reached = {tensor}
    for node in graph.node:
        if reached.intersection(node.input) or tensor in node.output:
            if named := [name for name in node.input if name in parameters]:
                return f" at {named[0].rpartition('.')[0]}"
            reached.update(node.output)
    return ""


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of all fp32 tensors."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _fp16_nodes(model: onnx.ModelProto, floats: set[str], keep_fp32: Collection[str]) -> set[int]:
    """Return the places of the nodes that shall compute in fp16."""
    nodes = list(model.graph.node)
    unknown = set(keep_fp32) - {name for node in nodes for name in (node.name, node.op_type)}
    if unknown:
        raise ExportError(f"keep_fp32: no operator or node of the graph is called {sorted(unknown)[0]!r}")
    weights = _weights(model.graph, floats)
    products = {
        i
        for i, node in enumerate(nodes)
        if node.op_type in _PRODUCTS and len(weights.intersection(node.input[:2])) == 1
    }
    behind: set[str] = set()  # fp32 tensors from the first product on
    region = set()
    for i, node in enumerate(nodes):
        if i in products or behind.intersection(node.input):
            behind.update(floats.intersection(node.output))
            region.add(i)
    tail = {LOGITS}  # back to the last product, or the last on each way there
    for i in reversed(range(len(nodes))):
        if tail.intersection(nodes[i].output):
            region.discard(i)
            if i not in products:
                tail.update(behind.intersection(nodes[i].input))
    # A Cast says its type itself and stays as it is.
    kept = {*keep_fp32, "Cast"}
    region = {i for i in region if not kept.intersection((nodes[i].op_type, nodes[i].name))}
    if not products.intersection(region):
        raise ExportError("no product with a weight comes before the last one: fp16 has nothing to do here")
    return region | _ways_of_weights(model.graph, weights, region)


def _weights(graph: onnx.GraphProto, floats: set[str]) -> set[str]:
    """Return the fp32 initializers, and what is made of them alone by moving values."""
    weights = floats.intersection(tensor.name for tensor in graph.initializer)
    for node in graph.node:
        sources = floats.intersection(node.input)
        if node.op_type in _MOVES and sources and sources <= weights:
            weights.update(node.output)
    return weights


def _ways_of_weights(graph: onnx.GraphProto, weights: set[str], region: set[int]) -> set[int]:
    """Return the nodes that move weights for fp16 nodes only: with them the file stores fp16 only."""
    readers = _readers(graph)
    ways: set[int] = set()
    for i in reversed(range(len(graph.node))):
        node = graph.node[i]
        wanted = {reader for name in node.output for reader in readers[name]}
        if weights.issuperset(node.output) and wanted <= region | ways:
            ways.add(i)
    return ways


def _readers(graph: onnx.GraphProto) -> dict[str, set[int]]:
    """Return for each tensor the places of the nodes that read it."""
    readers: dict[str, set[int]] = defaultdict(set)
    for i, node in enumerate(graph.node):
        for name in node.input:
            readers[name].add(i)
    return readers


def _store_weights(graph: onnx.GraphProto, floats: set[str], region: set[int]) -> None:
    """Store in fp16 what the region reads; constants that the rest reads too are there in both."""
    readers = _readers(graph)
    tensors = list(graph.initializer)
    del graph.initializer[:]
    for tensor in tensors:
        halved = readers[tensor.name] & region if tensor.name in floats else set()
        if not halved or readers[tensor.name] - region:
            graph.initializer.append(tensor)
        if halved:
            reader = graph.node[min(halved)]
            half = numpy_helper.from_array(_half(tensor, reader), f"{tensor.name}_fp16")
            graph.initializer.append(half)
            for i in halved:
                _read_instead(graph.node[i], tensor.name, half.name)


def _half(tensor: TensorProto, reader: NodeProto) -> npt.NDArray[np.float16]:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    lost = values[np.isinf(half) & np.isfinite(values)]
    where = f"{tensor.name}, read by {reader.op_type} {reader.name!r}"
    fix = f"Fix: keep_fp32={{{reader.name!r}}}, or stay with --precision fp32"
    if lost.size:
        worst = lost[np.abs(lost).argmax()]
        raise ExportError(f"{where}: {worst:.6g} does not fit fp16, which holds {FP16_MAX:.0f}. {fix}")
    # A lone number is most often there to keep a division finite.
    if values.size == 1 and values.any() and not half.any():
        raise ExportError(f"{where}: {values.item():.6g} becomes 0 in fp16. {fix}")
    return half


def _with_casts(graph: onnx.GraphProto, floats: set[str], region: set[int]) -> list[NodeProto]:
    """Return the nodes in order, each tensor that the other precision reads followed by its one cast."""
    constants = {tensor.name for tensor in graph.initializer}
    in_fp16 = {name for i in region for name in graph.node[i].output if name in floats}
    casts: dict[str, NodeProto] = {}
    for i, node in enumerate(graph.node):
        for name in floats.intersection(node.input) - constants:
            if (name in in_fp16) != (i in region):
                casts.setdefault(name, _cast(name, to_fp16=i in region))
                _read_instead(node, name, casts[name].output[0])
    nodes = [casts[value.name] for value in graph.input if value.name in casts]
    for node in graph.node:
        nodes.append(node)
        nodes.extend(casts[name] for name in node.output if name in casts)
    return nodes


def _cast(name: str, *, to_fp16: bool) -> NodeProto:
    suffix, to = ("fp16", TensorProto.FLOAT16) if to_fp16 else ("fp32", TensorProto.FLOAT)
    return helper.make_node("Cast", [name], [f"{name}_{suffix}"], name=f"cast_{name}_{suffix}", to=to)


def _read_instead(node: NodeProto, old: str, new: str) -> None:
    for position, name in enumerate(node.input):
        if name == old:
            node.input[position] = new


def _makers_of_fp16(model: onnx.ModelProto, keep_fp32: Collection[str]) -> dict[str, str]:
    """Return tensor → its maker in words, for all that the fp16 part makes or takes in."""
    floats = _float_tensors(model)
    region = _fp16_nodes(model, floats, keep_fp32)
    readers = _readers(model.graph)
    made_by = {value.name: "the graph's input" for value in model.graph.input if readers[value.name] & region}
    for i, node in enumerate(model.graph.node):
        for name in node.output:
            if i in region or readers[name] & region:
                made_by[name] = f"{node.op_type} {node.name!r}"
    return {name: maker for name, maker in made_by.items() if name in floats}


def _session_of_magnitudes(model: onnx.ModelProto, tensors: list[str]) -> Any:
    """Return a session of the graph whose outputs are the largest finite magnitudes of the tensors."""
    ort = import_onnxruntime()
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    del graph.output[:]
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "watch_zero"))
    for name in tensors:
        infinite, absolute, finite, largest = (
            f"watch_{what}_{name}" for what in ("isinf", "abs", "finite", "max")
        )
        graph.node.extend(
            (
                helper.make_node("IsInf", [name], [infinite]),
                helper.make_node("Abs", [name], [absolute]),
                helper.make_node("Where", [infinite, "watch_zero", absolute], [finite]),
                helper.make_node("ReduceMax", [finite], [largest], keepdims=0),
            )
        )
        graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, []))
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: they come back as exceptions
    return ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
