"""Passes that flatten tokens to rows of one matrix, so that a linear layer and its additions are one Gemm."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from spoter_export.passes.graph import (
    Array,
    Input,
    NewNodes,
    infer_shapes,
    made_by,
    name_of,
    only_reader,
    remove_unused,
    sizes_of,
    weight_of,
)

# Elementwise operators over tokens, and LayerNormalization.
_BY_ELEMENT: Final = frozenset({"Add", "Gelu", "LayerNormalization", "Relu"})


def rows_as_gemm(model: ir.Model) -> None:
    """Flatten tokens (N, S, E) to rows (N S, E) between linear layers, and replace MatMul and Add by Gemm.

    ONNX's only product with a bias is Gemm, for matrices; engines fuse an activation into it.

    Requires: MatMul of a tensor (N, S, E) with a weight, then Add of a bias.
    Ensures: a Gemm instead; additions, activations and LayerNormalization between Gemms work on rows;
        reshapes before and after other operators.
    """
    infer_shapes(model)
    rows = Rows(model)
    added: set[ir.Node] = set()
    for node in list(model.graph):
        add = bias_of(node)
        if node in added:
            continue
        if add is not None:
            rows.linear(node, add)
            added.add(add)
        elif rows.takes(node):
            rows.by_element(node)
        else:
            rows.restore_tokens(*node.inputs)
        rows.new.put(node)
    rows.restore_tokens(*model.graph.outputs)
    rows.new.put(None)


def bias_of(node: ir.Node) -> ir.Node | None:
    """Return the Add of a bias that follows a product over tokens; None if there is none."""
    if node.op_type != "MatMul" or len(sizes_of(node.inputs[0])) != 3:
        return None
    weight, add = weight_of(node.inputs[1]), only_reader(node.outputs[0])
    if weight is None or weight.ndim != 2 or add is None or add.op_type != "Add":
        return None
    biases = (bias for value in add.inputs if (bias := weight_of(value)) is not None)
    bias = next(biases, None)
    return add if bias is not None and bias.shape == weight.shape[1:] else None


class Rows:
    """The token tensors of a graph that were flattened to rows.

    Attributes:
        new: nodes to insert into the graph.
        rows: name of a token tensor → its rows.
        only_rows: names of token tensors that exist only as rows so far.
        source: name of a token tensor → the tensor with the same N and S that it was computed from.
    """

    def __init__(self, model: ir.Model) -> None:
        self.new = NewNodes(model)
        self.rows: dict[str | None, ir.Value] = {}
        self.only_rows: set[str | None] = set()
        self.source: dict[str | None, ir.Value] = {}

    def takes(self, node: ir.Node) -> bool:
        """Return True for an elementwise node on tokens of one shape, some of which exist only as rows."""
        tensors = [value for value in node.inputs if value is not None and weight_of(value) is None]
        small = all(weight.ndim <= 1 for value in node.inputs if (weight := weight_of(value)) is not None)
        shapes = {tuple(size if isinstance(size, int) else None for size in sizes_of(v)) for v in tensors}
        as_rows = any(value.name in self.only_rows for value in tensors)
        return node.op_type in _BY_ELEMENT and small and len(shapes) == 1 and as_rows

    def linear(self, product: ir.Node, add: ir.Node) -> None:
        """Make a Gemm of a product over tokens and the addition of its bias."""
        tokens, weight = product.inputs[0], weight_of(product.inputs[1])
        assert tokens is not None  # `bias_of` has looked at both
        assert weight is not None
        bias = next(value for value in add.inputs if weight_of(value) is not None)
        self.make(add, "Gemm", [self.as_rows(tokens, len(weight)), product.inputs[1], bias], like=tokens)

    def by_element(self, node: ir.Node) -> None:
        """Replace an elementwise node by the same node on rows."""
        last_sizes = (size for value in node.inputs for size in sizes_of(value)[-1:])
        width = next(size for size in last_sizes if isinstance(size, int))
        inputs = [
            value if value is None or weight_of(value) is not None else self.as_rows(value, width)
            for value in node.inputs
        ]
        like = next(value for value in node.inputs if value is not None and value.name in self.rows)
        self.make(node, node.op_type, inputs, like=like).attributes.update(node.attributes)

    def make(self, node: ir.Node, op_type: str, inputs: list[Input], *, like: ir.Value) -> ir.Node:
        """Add a node on rows that replaces `node`; `like` has the N and S of its tokens."""
        tokens = node.outputs[0].name
        self.rows[tokens] = self.new.op(op_type, inputs, f"{tokens}_rows")
        self.source[tokens] = self.source.get(like.name, like)
        self.only_rows.add(tokens)
        return self.new.nodes[-1]

    def as_rows(self, tokens: ir.Value, width: int) -> ir.Value:
        """Return tokens as rows."""
        if tokens.name not in self.rows:
            shape = self.new.constant(f"rows_{width}", np.array([-1, width]))
            self.rows[tokens.name] = self.new.op("Reshape", [tokens, shape], f"{tokens.name}_rows")
        return self.rows[tokens.name]

    def restore_tokens(self, *values: Input) -> None:
        """Reshape rows back to tokens, for values that exist only as rows."""
        for value in values:
            if value is None or value.name not in self.only_rows:
                continue
            self.only_rows.discard(value.name)
            like = self.source[value.name]
            sizes = self.new.op_once("Shape", [like], f"{like.name}_clips_and_tokens", end=2)
            rest = self.new.constant("rest", np.array([-1]))
            shape = self.new.op_once("Concat", [sizes, rest], f"{like.name}_as_tokens", axis=0)
            self.new.op("Reshape", [self.rows[value.name], shape], value)


def add_in_gemm(model: ir.Model) -> None:
    """Fold the residual Add into Gemm's C input; move the bias into the LayerNormalization before it.

    The other layers that read this LayerNormalization subtract the moved bias.

    Requires: rows from a LayerNormalization, added to the output of a Gemm on other rows; all other readers
        of these rows are Gemms.
    Ensures: a Gemm with those rows as its C input, no Add.
    """
    new = NewNodes(model)
    for add in [node for node in model.graph if node.op_type == "Add"]:
        for rows, output in (add.inputs, add.inputs[::-1]):
            norm, layer = made_by(rows, "LayerNormalization"), made_by(output, "Gemm")
            if norm is None or len(norm.inputs) < 3 or norm.outputs[0].is_graph_output():
                continue
            if layer is None or only_reader(layer.outputs[0]) is None or layer.inputs[0] is rows:
                continue
            norm_bias, linear = weight_of(norm.inputs[2]), weight_and_bias(layer)
            readers = [use.node for use in norm.outputs[0].uses() if use.node is not add]
            others = {
                reader: found
                for reader in readers
                if reader.inputs[0] is rows and (found := weight_and_bias(reader)) is not None
            }
            if norm_bias is None or linear is None or len(others) < len(readers):
                continue
            moved = linear[1].astype(np.float64)
            shifted = shift(new, norm, (norm_bias + moved).astype(np.float32))
            for other, (weight, bias) in others.items():
                less = (bias - moved @ weight.astype(np.float64)).astype(np.float32)
                less_bias = new.constant(f"{name_of(other.outputs[0])}_bias_less", less)
                new.op("Gemm", [shifted, other.inputs[1], less_bias], other.outputs[0])
                new.put(other)
            new.op("Gemm", [*layer.inputs[:2], shifted], add.outputs[0])
            new.put(layer)
            remove_unused(model)
            break


def shift(new: NewNodes, norm: ir.Node, bias: Array) -> ir.Value:
    """Add a copy of a LayerNormalization with another bias; return its output."""
    name = f"{norm.outputs[0].name}_with_bias"
    shifted = new.op("LayerNormalization", [*norm.inputs[:2], new.constant(f"{name}_bias", bias)], name)
    new.nodes[-1].attributes.update(norm.attributes)
    new.put(norm)
    return shifted


def weight_and_bias(layer: ir.Node) -> tuple[Array, Array] | None:
    """Return weight (in, out) and bias (out,) of a node that computes rows · weight + bias; else None."""
    if layer.op_type != "Gemm" or len(layer.inputs) != 3:
        return None
    settings = layer.attributes
    turned = settings.get_int("transA", 0) or settings.get_int("transB", 0)
    scaled = settings.get_float("alpha", 1.0) != 1 or settings.get_float("beta", 1.0) != 1
    weight, bias = (weight_of(value) for value in layer.inputs[1:])
    if turned or scaled or weight is None or bias is None or bias.ndim != 1:
        return None
    return weight, bias
