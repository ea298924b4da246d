"""The limit that a case is measured against: the model's matrix products alone, on this machine.

Every MatMul and Gemm of the bundle's fp32 ONNX file, weights and attention alike, with the operand shapes
that they have for the case, in one graph of only those products, in their order, on ONNX Runtime's own
kernels and as many threads as the backends have. One graph, not a session for each: the weights are as many
as the model's, so they are as cold in the caches as there, and the cost of calling a session is paid once, as
by the model. What a model's buffers share is shared here too: all operands, and all results, of one shape are
one buffer. Products with a weight have it packed before, as ONNX Runtime does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from spoter_runtime.contract import LENGTHS, POSES
from spoter_runtime.errors import BackendError, require
from spoter_runtime.landmarks import NUM_FEATURES
from spoter_runtime.ort.installed import import_onnxruntime

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

PRODUCTS: Final = ("MatMul", "Gemm")
Shape = tuple[int, ...]

# Batches and frames at which shapes are looked up, next to each other: what lies between is whole numbers.
_POINTS: Final = ((2, 4), (2, 5), (3, 4), (3, 5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One matrix product of the model for one case.

    Attributes:
        kind: ``"MatMul"`` or ``"Gemm"``.
        shapes: of the two operands, as the node gets them.
        weights: which operands are the same for every clip.
        transposed: which operands a Gemm takes transposed.
    """

    kind: str
    shapes: tuple[Shape, Shape]
    weights: tuple[bool, bool]
    transposed: tuple[bool, bool] = (False, False)

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        rows_first = self.shapes[0][-1 if not self.transposed[0] else -2]
        return 2 * rows_first * int(np.prod(self.result, dtype=np.int64))

    @property
    def result(self) -> Shape:
        """The result's shape: leading axes broadcast, as numpy does."""
        (*outer_a, rows, inner_a), (*outer_b, inner_b, columns) = (
            shape[:-2] + shape[-2:][::-1] if turned else shape
            for shape, turned in zip(self.shapes, self.transposed, strict=True)
        )
        assert inner_a == inner_b
        return (*np.broadcast_shapes(tuple(outer_a), tuple(outer_b)), rows, columns)


class Floor:
    """Times as an engine does, but computes the products alone: its `infer` gives no answer.

    What a number of clips and frames needs is made at its first call; warm up before timing.
    """

    def __init__(self, model: bytes, threads: int) -> None:
        """Read the model.

        Args:
            model: the bytes of an ONNX file of fp32.
            threads: threads inside one operator.

        Raises:
            MissingExtraError: onnx or ONNX Runtime is not installed.
            BackendError: the model has no matrix product.
        """
        self._products = ProductsOf(model)
        self._threads = threads
        self._ready: dict[Shape, tuple[Any, Any]] = {}

    def infer(self, poses_NTD: Any, lengths_N: Any = None) -> None:
        """Multiply what the model would for so many clips of so many frames; their values do not matter."""
        shape = poses_NTD.shape[:2]
        if shape not in self._ready:
            self._ready[shape] = _session(self._products.of(*shape), self._threads)
        session, binding = self._ready[shape]
        session.run_with_iobinding(binding)


class ProductsOf:
    """Finds the matrix products of a model for any case.

    The model is run for two small batches of two small numbers of frames, and its operands' shapes are read.
    A size is made of constants, the batch, the frames, and their product: four points fix all of them.
    """

    def __init__(self, model: bytes) -> None:
        """Read the model and run it; see `Floor`."""
        require("onnx", extra="export")
        import onnx

        loaded = onnx.load_from_string(model)
        self._nodes = [node for node in loaded.graph.node if node.op_type in PRODUCTS]
        if not self._nodes:
            raise BackendError(f"the model has no {' or '.join(PRODUCTS)}: there is no floor to measure")
        self._varying = _varying(loaded.graph)
        session = _plain_session(_with_operand_shapes(loaded, self._nodes), threads=1)
        self._sizes = {point: _operand_sizes(session, self._nodes, *point) for point in _POINTS}

    def of(self, batch: int, frames: int) -> list[Product]:
        """Return the products for `batch` clips of `frames` frames, in the order of the graph."""
        (low, short), (high, long) = _POINTS[0], _POINTS[-1]
        at = {point: np.concatenate(sizes) for point, sizes in self._sizes.items()}
        clips, time = (batch - low) // (high - low), (frames - short) // (long - short)
        base = at[low, short]
        by_clip, by_time = at[high, short] - base, at[low, long] - base
        both = at[high, long] - base - by_clip - by_time
        sizes = base + clips * by_clip + time * by_time + clips * time * both
        ends = np.cumsum([len(shape) for shape in self._sizes[_POINTS[0]]])
        shapes = [tuple(map(int, shape)) for shape in np.split(sizes, ends[:-1])]
        return [
            Product(
                kind=node.op_type,
                shapes=(shapes[2 * number], shapes[2 * number + 1]),
                weights=(node.input[0] not in self._varying, node.input[1] not in self._varying),
                transposed=_transposed(node),
            )
            for number, node in enumerate(self._nodes)
        ]


def _operand_sizes(session: Any, nodes: Sequence[NodeProto], batch: int, frames: int) -> list[Any]:
    """Return the shape of each operand, two a node, as ONNX Runtime has it."""
    feeds = {
        POSES: np.zeros((batch, frames, NUM_FEATURES), np.float32),
        LENGTHS: np.full(batch, frames, np.int32),
    }
    taken = {value.name for value in session.get_inputs()}
    names = [_shape_name(name) for node in nodes for name in node.input[:2]]
    unique = list(dict.fromkeys(names))
    found = session.run(unique, {name: value for name, value in feeds.items() if name in taken})
    shapes = dict(zip(unique, found, strict=True))
    return [shapes[name] for name in names]


def _varying(graph: GraphProto) -> set[str]:
    """Return the names of all values that depend on a graph's inputs."""
    constant = {initializer.name for initializer in graph.initializer}
    varying = {value.name for value in graph.input} - constant
    for node in graph.node:  # ONNX wants them in the order they are computed
        if varying & set(node.input):
            varying |= set(node.output)
    return varying


def _transposed(node: NodeProto) -> tuple[bool, bool]:
    flags = {attribute.name: bool(attribute.i) for attribute in node.attribute}
    return flags.get("transA", False), flags.get("transB", False)


def _shape_name(value: str) -> str:
    return f"{value}/shape"


def _with_operand_shapes(model: ModelProto, nodes: Sequence[NodeProto]) -> bytes:
    """Return the model with the shapes of the nodes' two operands as its outputs."""
    from onnx import TensorProto, helper

    names = dict.fromkeys(name for node in nodes for name in node.input[:2])
    del model.graph.output[:]
    for name in names:
        model.graph.node.append(helper.make_node("Shape", [name], [_shape_name(name)]))
        model.graph.output.append(helper.make_tensor_value_info(_shape_name(name), TensorProto.INT64, [None]))
    content: bytes = model.SerializeToString()
    return content


def _session(products: Sequence[Product], threads: int) -> tuple[Any, Any]:
    """Return a session that computes only these products, and its inputs and results bound to buffers."""
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    buffers: dict[tuple[str, Shape], str] = {}
    weights, nodes, results = [], [], []
    for number, product in enumerate(products):
        names = []
        for side, shape in enumerate(product.shapes):
            if product.weights[side]:
                names.append(f"weight/{number}/{side}")
                values = generator.standard_normal(shape, np.float32)
                weights.append(numpy_helper.from_array(values, names[-1]))
            else:
                names.append(buffers.setdefault(("operand", shape), f"operand/{len(buffers)}"))
        first, second = product.transposed
        flags: dict[str, Any] = (
            {"transA": int(first), "transB": int(second)} if product.kind == "Gemm" else {}
        )
        nodes.append(helper.make_node(product.kind, names, [f"result/{number}"], **flags))
        results.append((f"result/{number}", product.result))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for (_, shape), name in buffers.items()
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in results]
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = _plain_session(model.SerializeToString(), threads)
    return session, _bound(session, buffers, results, generator)


def _bound(
    session: Any,
    buffers: dict[tuple[str, Shape], str],
    results: Sequence[tuple[str, Shape]],
    generator: np.random.Generator,
) -> Any:
    """Return the session's binding: a filled buffer an operand shape, a buffer for all results of a shape."""
    ort = import_onnxruntime()
    binding = session.io_binding()
    for (_, shape), name in buffers.items():
        values = generator.standard_normal(shape, np.float32)
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values))
    shared = {
        shape: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        for shape in dict.fromkeys(shape for _, shape in results)
    }
    for name, shape in results:
        binding.bind_ortvalue_output(name, shared[shape])
    return binding


def _plain_session(model: bytes, threads: int) -> Any:
    """Return a session that runs the graph as it stands: a rewrite would drop products that look alike."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
