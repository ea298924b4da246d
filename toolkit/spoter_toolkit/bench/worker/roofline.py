"""The GEMM roofline of a case: the time of only the model's matrix products on this machine.

Every MatMul and Gemm of the bundle's fp32 ONNX file, weights and attention alike, with the operand shapes
that they have for the case, in one graph of only those products, in their order, on ONNX Runtime's own
kernels and as many threads as the backends have. One graph, not a session for each product: its weights are
as many as the model's, so they are as cold in the caches, and the cost of calling a session is paid once, as
by the model. Buffers are shared as in the model: all operands, and all results, of one shape are one buffer.
Products with a weight have it packed before, as ONNX Runtime does.
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
    from onnx import GraphProto

PRODUCTS: Final = ("MatMul", "Gemm")
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One matrix product of the model for one case."""

    kind: str  # ``"MatMul"`` or ``"Gemm"``
    shapes: tuple[Shape, Shape]  # shapes of the two operands
    weights: tuple[bool, bool]  # which operands are the same for every clip
    result: Shape
    transposed: tuple[bool, bool] = (False, False)  # which operands a Gemm takes transposed


class Roofline:
    """An engine for timing that computes only the products; its `infer` returns nothing.

    The first call for a number of clips and frames builds the graph: warm up before timing.
    """

    def __init__(self, model: bytes, threads: int) -> None:
        """Read the bytes of an ONNX file of fp32.

        Raises:
            MissingExtraError: onnx or ONNX Runtime is not installed.
            BackendError: the model has no matrix product.
        """
        self._products = ProductFinder(model)
        self._threads = threads
        self._ready: dict[Shape, tuple[Any, Any]] = {}

    def infer(self, poses_NTD: Any, lengths_N: Any = None) -> None:
        """Compute the model's products for a batch of this shape; the values do not matter."""
        shape = poses_NTD.shape[:2]
        if shape not in self._ready:
            self._ready[shape] = session_of_products(self._products.find(*shape), self._threads)
        session, binding = self._ready[shape]
        session.run_with_iobinding(binding)


class ProductFinder:
    """Finds the matrix products of a model for a case, by running it and reading the operands' shapes."""

    def __init__(self, model: bytes) -> None:
        """Read the model; see `Roofline`."""
        require("onnx", extra="export")
        import onnx
        from onnx import helper

        loaded = onnx.load_from_string(model)
        self._nodes = [node for node in loaded.graph.node if node.op_type in PRODUCTS]
        if not self._nodes:
            raise BackendError(f"the model has no {' or '.join(PRODUCTS)}: there is no roofline to measure")
        self._varying = varying_values(loaded.graph)
        del loaded.graph.output[:]
        for name in dict.fromkeys(n for node in self._nodes for n in (*node.input[:2], *node.output)):
            loaded.graph.node.append(helper.make_node("Shape", [name], [f"{name}/shape"]))
            loaded.graph.output.append(
                helper.make_tensor_value_info(f"{name}/shape", onnx.TensorProto.INT64, [None])
            )
        self._session = plain_session(loaded.SerializeToString(), threads=1)

    def find(self, batch: int, frames: int) -> list[Product]:
        """Return the products for `batch` clips of `frames` frames, in the order of the graph."""
        feeds = {
            POSES: np.zeros((batch, frames, NUM_FEATURES), np.float32),
            LENGTHS: np.full(batch, frames, np.int32),
        }
        taken = {value.name: feeds[value.name] for value in self._session.get_inputs()}
        names = [value.name.removesuffix("/shape") for value in self._session.get_outputs()]
        found = zip(names, self._session.run(None, taken), strict=True)
        shapes = {name: tuple(map(int, shape)) for name, shape in found}
        products = []
        for node in self._nodes:
            first, second = node.input[:2]
            flags = {attribute.name: bool(attribute.i) for attribute in node.attribute}
            products.append(
                Product(
                    kind=node.op_type,
                    shapes=(shapes[first], shapes[second]),
                    weights=(first not in self._varying, second not in self._varying),
                    result=shapes[node.output[0]],
                    transposed=(flags.get("transA", False), flags.get("transB", False)),
                )
            )
        return products


def varying_values(graph: GraphProto) -> set[str]:
    """Return the names of all values that depend on a graph's inputs."""
    varying = {value.name for value in graph.input} - {constant.name for constant in graph.initializer}
    for node in graph.node:  # ONNX requires execution order
        if varying & set(node.input):
            varying |= set(node.output)
    return varying


def session_of_products(products: Sequence[Product], threads: int) -> tuple[Any, Any]:
    """Return a session that computes only these products, and a binding of its inputs and outputs."""
    from onnx import TensorProto, helper, numpy_helper

    ort = import_onnxruntime()
    generator = np.random.default_rng(0)
    buffers: dict[Shape, str] = {}
    weights, nodes, results = [], [], []
    for number, product in enumerate(products):
        names = []
        for side, shape in enumerate(product.shapes):
            if product.weights[side]:
                names.append(f"weight/{number}/{side}")
                values = generator.standard_normal(shape, np.float32)
                weights.append(numpy_helper.from_array(values, names[-1]))
            else:
                names.append(buffers.setdefault(shape, f"operand/{len(buffers)}"))
        flags: dict[str, Any] = {}
        if product.kind == "Gemm":
            flags = dict(zip(("transA", "transB"), map(int, product.transposed), strict=True))
        nodes.append(helper.make_node(product.kind, names, [f"result/{number}"], **flags))
        results.append((f"result/{number}", product.result))
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for shape, name in buffers.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in results],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = plain_session(model.SerializeToString(), threads)
    binding = session.io_binding()
    for shape, name in buffers.items():
        values = generator.standard_normal(shape, np.float32)
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values))
    shared = {
        shape: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        for shape in {s for _, s in results}
    }
    for name, shape in results:
        binding.bind_ortvalue_output(name, shared[shape])
    return session, binding


def plain_session(model: bytes, threads: int) -> Any:
    """Return a session without graph optimisation, which would merge equal products."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
