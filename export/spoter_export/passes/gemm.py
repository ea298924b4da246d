"""Passes for tokens as rows of one matrix: a linear layer is one operator, with what is added to it."""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import NodeProto, helper

from spoter_export.passes.graph import Graph, node_of

# What works on each token alone, or on two tensors of tokens.
_BY_ELEMENT: Final = frozenset({"Add", "Gelu", "LayerNormalization", "Relu"})


def rows_as_gemm(graph: Graph) -> None:
    """Keep tokens (N, S, E) as rows (N S, E) from one linear layer to the next.

    ONNX has an operator with a bias for matrices only; engines put an activation into the same loop.

    Requires: MatMul of a tensor (N, S, E) with a weight, then Add of a bias.
    Ensures: a Gemm in their place; additions, activations and LayerNormalization between them on rows;
        reshapes where something else reads or makes tokens.
    """
    _Rows(graph).rewrite()


def add_in_gemm(graph: Graph) -> None:
    """Let a linear layer begin with what its output is added to, instead of with its bias.

    The bias moves into that of the normalisation before, and out of the layers that read this as well.

    Requires: rows from a LayerNormalization, added to what a Gemm makes of other rows; all else that reads
        them is a Gemm.
    Ensures: a Gemm with those rows as its third factor, no Add.
    """
    for total in [node.output[0] for node in graph.nodes if node.op_type == "Add"]:
        add = graph.maker[total]  # anew each time: the graph may have changed
        for rows, output in (add.input, add.input[::-1]):
            norm, layer = graph.made_by(rows, "LayerNormalization"), graph.made_by(output, "Gemm")
            if norm is None or len(norm.input) < 3 or rows in graph.given_back:
                continue
            if layer is None or graph.only_reader(output) is None or not _is_linear(graph, layer):
                continue
            if layer.input[0] == rows or norm.input[2] not in graph.weights:
                continue
            others = [reader for reader in graph.readers[rows] if reader is not add]
            if all(_is_linear(graph, other) and other.input[0] == rows for other in others):
                _add_in_gemm(graph, add, norm, layer, others)
                break


def _is_linear(graph: Graph, layer: NodeProto) -> bool:
    """Tell whether a node is rows · weight (in, out) + bias (out,)."""
    if layer.op_type != "Gemm" or len(layer.input) != 3:
        return False
    settings = {attribute.name: attribute for attribute in layer.attribute}
    turned = any(name in settings and settings[name].i for name in ("transA", "transB"))
    scaled = any(name in settings and settings[name].f != 1 for name in ("alpha", "beta"))
    weight, bias = (graph.weights.get(name) for name in layer.input[1:])
    return not turned and not scaled and weight is not None and bias is not None and bias.ndim == 1


def _add_in_gemm(
    graph: Graph, add: NodeProto, norm: NodeProto, layer: NodeProto, others: list[NodeProto]
) -> None:
    rows, moved = norm.output[0], graph.weights[layer.input[2]].astype(np.float64)
    shifted = f"{rows}_with_bias"
    bias = (graph.weights[norm.input[2]] + moved).astype(np.float32)
    new = {
        rows: node_of(
            "LayerNormalization", [*norm.input[:2], graph.constant(f"{shifted}_bias", bias)], shifted
        ),
        layer.output[0]: node_of("Gemm", [*layer.input[:2], shifted], add.output[0]),
    }
    new[rows].attribute.extend(norm.attribute)
    for other in others:
        less = graph.weights[other.input[2]] - moved @ graph.weights[other.input[1]].astype(np.float64)
        name = graph.constant(f"{other.output[0]}_bias_less", less.astype(np.float32))
        new[other.output[0]] = node_of("Gemm", [shifted, other.input[1], name], other.output[0])
    kept = [node for node in graph.nodes if node.output[0] != add.output[0]]
    graph.replace_all([new.get(node.output[0], node) for node in kept])


class _Rows:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.sizes = graph.sizes()
        self.nodes: list[NodeProto] = []
        self.rows: dict[str, str] = {}  # tokens → the same as rows
        self.only_rows: set[str] = set()  # tokens that are there as rows only, so far
        self.source: dict[str, str] = {}  # tokens → those that they were made of, whose N and S they have
        self.shapes: dict[str, str] = {}  # tokens → (N, S, -1), once somebody needs it

    def rewrite(self) -> None:
        skipped: set[str] = set()
        for node in self.graph.nodes:
            if node.output[0] in skipped:
                continue
            add = self._bias_of(node)
            if add is not None:
                self._linear(node, add)
                skipped.add(add.output[0])
            elif self._is_by_element(node):
                self._by_element(node)
            else:
                for name in node.input:
                    self._need_tokens(name)
                self.nodes.append(node)
        for name in self.graph.given_back:
            self._need_tokens(name)
        self.graph.replace_all(self.nodes)

    def _bias_of(self, node: NodeProto) -> NodeProto | None:
        """Return the addition of a bias behind a product over tokens; None for anything else."""
        graph = self.graph
        if node.op_type != "MatMul" or len(self.sizes.get(node.input[0], ())) != 3:
            return None
        weight = graph.weights.get(node.input[1])
        add = graph.only_reader(node.output[0])
        if weight is None or weight.ndim != 2 or add is None or add.op_type != "Add":
            return None
        bias = next((graph.weights[name] for name in add.input if name in graph.weights), None)
        return add if bias is not None and bias.shape == weight.shape[1:] else None

    def _linear(self, product: NodeProto, add: NodeProto) -> None:
        rows = self._as_rows(product.input[0], len(self.graph.weights[product.input[1]]))
        bias = next(name for name in add.input if name in self.graph.weights)
        self._made(add.output[0], "Gemm", [rows, product.input[1], bias], like=product.input[0])

    def _is_by_element(self, node: NodeProto) -> bool:
        tensors = [name for name in node.input if name and name not in self.graph.weights]
        small = all(w.ndim <= 1 for name in node.input if (w := self.graph.weights.get(name)) is not None)
        same = len({self.sizes.get(name, (None,)) for name in tensors}) == 1
        return (
            node.op_type in _BY_ELEMENT and small and same and any(name in self.only_rows for name in tensors)
        )

    def _by_element(self, node: NodeProto) -> None:
        constants = self.graph.weights
        width = next(size for name in node.input if (size := self.sizes.get(name, (None,))[-1]) is not None)
        inputs = [
            name if not name or name in constants else self._as_rows(name, width) for name in node.input
        ]
        tokens = next(name for name in node.input if name in self.rows)
        self._made(node.output[0], node.op_type, inputs, like=tokens)
        self.nodes[-1].attribute.extend(node.attribute)

    def _made(self, tokens: str, op_type: str, inputs: list[str], *, like: str) -> None:
        self.rows[tokens] = f"{tokens}_rows"
        self.source[tokens] = self.source.get(like, like)
        self.only_rows.add(tokens)
        self.nodes.append(node_of(op_type, inputs, self.rows[tokens]))

    def _as_rows(self, tokens: str, width: int) -> str:
        if tokens not in self.rows:
            shape = self.graph.constant(f"rows_{width}", np.array([-1, width]))
            self.rows[tokens] = f"{tokens}_rows"
            self.nodes.append(node_of("Reshape", [tokens, shape], self.rows[tokens]))
        return self.rows[tokens]

    def _need_tokens(self, name: str) -> None:
        if name in self.only_rows:
            self.only_rows.discard(name)
            self.nodes.append(node_of("Reshape", [self.rows[name], self._shape_of(self.source[name])], name))

    def _shape_of(self, tokens: str) -> str:
        if tokens not in self.shapes:
            sizes, shape = f"{tokens}_clips_and_tokens", f"{tokens}_as_tokens"
            rest = self.graph.constant("rest", np.array([-1]))
            self.nodes += [
                helper.make_node("Shape", [tokens], [sizes], name=f"node_{sizes}", end=2),
                node_of("Concat", [sizes, rest], shape, axis=0),
            ]
            self.shapes[tokens] = shape
        return self.shapes[tokens]
