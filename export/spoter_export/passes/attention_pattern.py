"""Find attention in a graph: softmax(queries · keys + mask) · values, as torch exports it.

For every layer torch exports three products, computed shapes, a transposition in three steps, and separate
scales of queries and keys.

Shapes: N clips, S tokens, Q queries, E width of a token, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from spoter_export.passes.graph import Array, Input, made_by, name_of, only_reader, sizes_of, weight_of

_PADDING_SCORE: Final = -1e4  # a mask adds this or less to a padded score; exp(-104) is 0 in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A linear layer of the tensor `source`: weight (in, out) and bias."""

    source: ir.Value
    weight: Array
    bias: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """An attention in a graph.

    Attributes:
        queries, keys, values: the linear layers whose outputs are split into heads.
        name: name of the queries' tensor; prefix of new names.
        scale: product of the scales of queries and keys.
        mask: tensor (N, 1, 1, S) that is added to the scores.
        scores, masked, shares, context: the tensors in between, split into heads.
        joined: tensor (N, Q, E) of the joined heads.
    """

    heads: int
    queries: Linear
    keys: Linear
    values: Linear
    name: str
    scale: float
    mask: ir.Value
    scores: ir.Value
    masked: ir.Value
    shares: ir.Value
    context: ir.Value
    joined: ir.Value

    @property
    def is_of_one_tensor(self) -> bool:
        """True if queries, keys and values come from the same tokens."""
        return self.queries.source is self.keys.source is self.values.source


def attentions(graph: ir.Graph) -> Iterator[Attention]:
    """Yield each attention of a graph; the caller may rewrite the graph meanwhile."""
    for node in list(graph):
        if node.op_type == "Softmax" and node.graph is graph:
            found = attention_at(node)
            if found is not None:
                yield found


def attention_at(softmax: ir.Node) -> Attention | None:
    """Return the attention around a softmax; None if there is none."""
    shares = softmax.outputs[0]
    masked, context = made_by(softmax.inputs[0], "Add"), only_reader(shares)
    if masked is None or context is None or context.op_type != "MatMul" or context.inputs[0] is not shares:
        return None
    turned = only_reader(context.outputs[0])
    joined = only_reader(turned.outputs[0]) if turned is not None else None
    if turned is None or joined is None or (turned.op_type, joined.op_type) != ("Transpose", "Reshape"):
        return None
    products = [product for value in masked.inputs if (product := made_by(value, "MatMul"))]
    if len(products) != 1:
        return None
    scores = products[0].outputs[0]
    parts = [before_heads(value) for value in (*products[0].inputs, context.inputs[1])]
    found = [(*part, linear) for part in parts if part and (linear := linear_at(part[0]))]
    if len(found) != 3 or len({heads for _, heads, _, _ in found}) != 1 or found[2][2] != 1.0:
        return None
    (asked, heads, query_scale, queries), (_, _, key_scale, keys), (_, _, _, values) = found
    return Attention(
        heads=heads,
        queries=queries,
        keys=keys,
        values=values,
        name=name_of(asked),
        scale=query_scale * key_scale,
        mask=next(value for value in masked.inputs if value is not None and value is not scores),
        scores=scores,
        masked=masked.outputs[0],
        shares=shares,
        context=context.outputs[0],
        joined=joined.outputs[0],
    )


def before_heads(value: Input) -> tuple[ir.Value, int, float] | None:
    """Trace a factor of the scores back to the tensor before the split into heads.

    Returns:
        The tensor, the number of heads, and the product of the scales in between.
    """
    scale, heads = 1.0, None
    while value is not None and (node := value.producer()) is not None:
        factor = weight_of(node.inputs[1]) if node.op_type == "Mul" else None
        if factor is not None and factor.size == 1:
            scale *= float(factor.reshape(()))
        elif node.op_type == "Reshape":
            heads = node.inputs[1]
        elif node.op_type != "Transpose":
            break
        value = node.inputs[0]
    # The last reshape found is the split, to (N, S, H, d).
    sizes = known_sizes(heads)
    if value is None or len(sizes) != 4 or sizes[2] is None or sizes[2] < 1:
        return None
    return value, sizes[2], scale


def known_sizes(shape: Input) -> list[int | None]:
    """Return the sizes in a Reshape's shape input; None for computed ones."""
    constant, together = weight_of(shape), made_by(shape, "Concat")
    if constant is not None:
        return [int(size) for size in constant]
    parts = [weight_of(part) for part in together.inputs] if together is not None else []
    return [size for part in parts for size in ([None] if part is None else map(int, part))]


def linear_at(value: Input) -> Linear | None:
    """Return the linear layer that computes a tensor, also through a Split; None if there is none."""
    split, add = made_by(value, "Split"), made_by(value, "Add")
    if value is not None and split is not None:
        return part_of_linear(split, list(split.outputs).index(value))
    product = made_by(add.inputs[0], "MatMul") if add is not None else None
    if add is None or product is None or product.inputs[0] is None:
        return None
    weight, bias = weight_of(product.inputs[1]), weight_of(add.inputs[1])
    if weight is None or weight.ndim != 2 or bias is None or bias.ndim != 1:
        return None
    return Linear(source=product.inputs[0], weight=weight, bias=bias)


def part_of_linear(split: ir.Node, place: int) -> Linear | None:
    """Return the part of a linear layer that computes output `place` of a Split."""
    whole = linear_at(split.inputs[0])
    if whole is None or split.attributes.get_int("axis", 0) not in (-1, 2):
        return None
    count = len(split.outputs)
    sizes = weight_of(split.inputs[1]) if len(split.inputs) > 1 else None
    if sizes is None:
        if len(whole.bias) % count:
            return None
        sizes = np.full(count, len(whole.bias) // count)
    end = int(np.cumsum(sizes)[place])
    columns = slice(end - int(sizes[place]), end)
    return Linear(source=whole.source, weight=whole.weight[:, columns], bias=whole.bias[columns])


def real_tokens(mask: ir.Value) -> tuple[ir.Value, int] | None:
    """Return the tensor of lengths and the number of tokens before the frames; None for another mask."""
    if sizes_of(mask)[1:3] != (1, 1):  # a mask that depends on the query or head
        return None
    node, before = mask.producer(), 0
    while node is not None and node.op_type in ("Pad", "Reshape", "Squeeze", "Unsqueeze"):
        if node.op_type == "Pad":
            amounts = weight_of(node.inputs[1])
            # Padded with zeros at the start of the last axis; a value, or axes, would be further inputs.
            further = any(value is not None for value in node.inputs[2:])
            if amounts is None or further or node.attributes.get_string("mode", "constant") != "constant":
                return None
            if amounts.sum() != amounts[len(amounts) // 2 - 1]:
                return None
            before += int(amounts.sum())
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "Mul":
        return None
    cast, value = made_by(node.inputs[0], "Cast"), weight_of(node.inputs[1])
    padded = made_by(cast.inputs[0], "Not") if cast is not None else None
    shown = made_by(padded.inputs[0], "Less") if padded is not None else None
    if shown is None or value is None or value.size != 1 or float(value.reshape(())) > _PADDING_SCORE:
        return None
    frames, lengths = made_by(shown.inputs[0], "Range"), made_by(shown.inputs[1], "Unsqueeze")
    if frames is None or lengths is None or lengths.inputs[0] is None:
        return None
    counted = weight_of(frames.inputs[0]) == 0 and weight_of(frames.inputs[2]) == 1
    return (lengths.inputs[0], before) if counted else None
