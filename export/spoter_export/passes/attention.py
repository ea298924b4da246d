"""Passes that rewrite attention: fewer products, fewer transpositions, or one operator.

Shapes: N clips, S tokens, Q queries, E width of a token, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from spoter_export.passes.attention_pattern import Attention, Linear, attentions, linear_at, real_tokens
from spoter_export.passes.graph import Array, Name, NewNodes, infer_shapes, only_reader, sizes_of

# The first opset in which Attention takes the number of real tokens; the other operators are as in 20.
OPSET_OF_ATTENTION: Final = 24
# The first ONNX Runtime that uses the number: 1.24 ignores it and attends to padding, older ones lack the
# operator.
ORT_WITH_ATTENTION: Final = "1.25"
_SWAP_HEADS: Final = (0, 2, 1, 3)  # (N, S, H, d) → (N, H, S, d), and back

# (new nodes, attention, queries (N, H E), name) → the weighted sums of the tokens
Attend = Callable[[NewNodes, Attention, ir.Value, str], ir.Value]


def pack_projections(model: ir.Model) -> None:
    """Compute queries, keys and values in one product with scaled weights, and split it by constant shapes.

    Requires: self-attention with an additive mask.
    Ensures: one product with a weight, one transposition for all three and one of the keys.
    """
    new = NewNodes(model)
    for found in attentions(model.graph):
        if not found.is_of_one_tensor:
            continue
        together = projected(new, found, scale=found.scale)
        shape = new.constant(f"apart_{found.heads}", np.array([0, 0, 3, found.heads, -1]))
        apart = new.op("Reshape", [together, shape], f"{together.name}_apart")
        in_heads = new.op("Transpose", [apart], f"{together.name}_in_heads", perm=(2, 0, 3, 1, 4))
        numbers = [new.constant(f"part_{i}", np.array(i)) for i in range(3)]
        queries = new.op("Gather", [in_heads, numbers[0]], f"{found.name}_queries", axis=0)
        keys = new.op("Gather", [in_heads, numbers[1]], f"{found.name}_keys", axis=0)
        turned = new.op("Transpose", [keys], f"{keys.name}_turned", perm=(0, 1, 3, 2))
        scores = new.op("MatMul", [queries, turned], found.scores)
        masked = new.op("Add", [scores, found.mask], found.masked)
        shares = new.op("Softmax", [masked], found.shares, axis=-1)
        values = new.op("Gather", [in_heads, numbers[2]], f"{found.name}_values", axis=0)
        context = new.op("MatMul", [shares, values], found.context)
        turned = new.op("Transpose", [context], f"{found.joined.name}_turned", perm=_SWAP_HEADS)
        row = new.constant("joined", np.array([0, 0, -1]))
        new.op("Reshape", [turned, row], found.joined)
        new.replace()


def attend_in_one_operator(model: ir.Model) -> None:
    """Replace the nodes between the projections and the joined heads by ONNX's operator Attention.

    The operator takes the number of real tokens instead of a mask, and needs no transposition.

    Requires: self-attention; a mask that excludes exactly the tokens beyond each clip's length.
    Ensures: one node for each attention; opset 24.
    """
    infer_shapes(model)
    new = NewNodes(model)
    for found in attentions(model.graph):
        real = real_tokens(found.mask)
        if found.is_of_one_tensor and real is not None:
            together = projected(new, found, scale=1.0)
            parts = [ir.Value(name=f"{found.name}_{part}") for part in ("queries", "keys", "values")]
            new.add("Split", [together], parts, axis=2, num_outputs=3)
            heads = {"q_num_heads": found.heads, "kv_num_heads": found.heads}
            attention_operator(new, parts, real, found.joined, scale=found.scale, **heads)
            new.replace()


def absorb_single_query(model: ir.Model) -> None:
    """Absorb the weights of keys and values into the layers before and after, if there is one query per clip.

    q·(W x + b) = (q W)·x + q·b, and the softmax cancels q·b; the softmax sums to 1, so sum(p (W x + b)) =
    sum(p x) W + b. The products of weights are computed here.

    Requires: one query per clip, keys and values from the same tokens, a linear layer after the attention.
    Ensures: no product of a weight with all tokens.
    """
    absorb(model, attend_step_by_step)


def absorb_single_query_into_one_operator(model: ir.Model) -> None:
    """Rewrite as `absorb_single_query` does, with the operator Attention for the rest.

    Multi-query attention: all heads share the tokens as keys and values. Without a length mask the attention
    falls back to `absorb_single_query`.

    Requires: as `absorb_single_query`; a mask as for `attend_in_one_operator`.
    Ensures: no product of a weight with all tokens, one node for the attention; opset 24.
    """
    absorb(model, attend_to_tokens)


def projected(new: NewNodes, attention: Attention, *, scale: float) -> ir.Value:
    """Add one product for queries, keys and values; return its output (N, S, 3 E)."""
    queries, keys, values = attention.queries, attention.keys, attention.values
    by = np.float32(scale)
    together = f"{attention.name}_projected"
    weight = np.concatenate([queries.weight * by, keys.weight, values.weight], axis=1)
    bias = np.concatenate([queries.bias * by, keys.bias, values.bias])
    product = new.op(
        "MatMul", [queries.source, new.constant(f"{together}_weight", weight)], f"{together}_product"
    )
    return new.op("Add", [product, new.constant(f"{together}_bias", bias)], together)


def attention_operator(
    new: NewNodes, parts: Sequence[ir.Value], real: tuple[ir.Value, int], name: Name, **attributes: float
) -> ir.Value:
    """Add an ONNX Attention node that ignores padding tokens; return its output. Raises the opset to 24.

    Args:
        new: the nodes of the rewrite.
        parts: queries, keys and values.
        real: the tensor of lengths, and the number of tokens before the frames, from `real_tokens`.
        name: name of the output, or the value that it replaces.
        attributes: attributes of the node.
    """
    lengths, before = real
    opsets = new.model.graph.opset_imports
    opsets[""] = max(opsets[""], OPSET_OF_ATTENTION)
    whole = new.op_once("Cast", [lengths], f"{lengths.name}_int64", to=ir.DataType.INT64)
    more = new.constant(f"tokens_before_{before}", np.array(before))
    tokens = new.op_once("Add", [whole, more], f"{lengths.name}_and_{before}_tokens")
    return new.op("Attention", [*parts, None, None, None, tokens], name, **attributes)


def absorb(model: ir.Model, attend: Attend) -> None:
    """Rewrite each attention with one query per clip; `attend` adds the nodes between the two layers."""
    infer_shapes(model)
    new = NewNodes(model)
    for found in attentions(model.graph):
        product = only_reader(found.joined)
        add = only_reader(product.outputs[0]) if product is not None else None
        if add is None or add.op_type != "Add":
            continue
        output, name = add.outputs[0], found.name
        behind = linear_at(output)
        same = found.keys.source is found.values.source
        if behind is None or not same or sizes_of(found.joined)[1:2] != (1,):
            continue
        asking, answering = products_of_weights(found, behind)
        row = new.constant("row", np.array([0, -1]))
        # A constant width: if the tokens' width is unknown, onnx infers 0 for Attention's.
        wide = len(answering.weight)
        wide_row = new.constant(f"rows_{wide}", np.array([-1, wide]))
        # One row per clip, hence a Gemm, which stays fp32 when products over tokens go to int8.
        query = new.op("Reshape", [found.queries.source, row], f"{name}_row")
        asked = gemm(new, asking, query, f"{name}_asked")
        attended = attend(new, found, asked, f"{name}_attended")
        attended = new.op("Reshape", [attended, wide_row], f"{name}_attended_row")
        answered = gemm(new, answering, attended, f"{output.name}_row")
        new.op("Unsqueeze", [answered, new.constant("of_heads", np.array([1]))], output)
        new.replace()


def gemm(new: NewNodes, layer: Linear, rows: ir.Value, name: str) -> ir.Value:
    """Add a Gemm for a linear layer of rows; return its output."""
    weight, bias = new.constant(f"{name}_weight", layer.weight), new.constant(f"{name}_bias", layer.bias)
    return new.op("Gemm", [rows, weight, bias], name)


def attend_step_by_step(new: NewNodes, attention: Attention, asked: ir.Value, attended: str) -> ir.Value:
    """Add the attention in operators of any opset; return the weighted sums of the tokens (N, H, E)."""
    tokens, name, heads = attention.keys.source, attention.name, attention.heads
    width = len(attention.keys.weight)
    in_heads = new.constant(f"heads_{heads}_{width}", np.array([0, heads, width]))
    queries = new.op("Reshape", [asked, in_heads], f"{name}_heads")
    turned = new.op("Transpose", [tokens], f"{name}_tokens_turned", perm=(0, 2, 1))
    scores = new.op("MatMul", [queries, turned], f"{name}_scores")
    mask = new.op("Squeeze", [attention.mask, new.constant("of_heads", np.array([1]))], f"{name}_mask")
    masked = new.op("Add", [scores, mask], f"{name}_masked")
    shares = new.op("Softmax", [masked], f"{name}_shares", axis=-1)
    return new.op("MatMul", [shares, tokens], attended)


def attend_to_tokens(new: NewNodes, attention: Attention, asked: ir.Value, attended: str) -> ir.Value:
    """Add the attention as one operator if its mask is of lengths; return the weighted sums (N, 1, H E)."""
    real = real_tokens(attention.mask)
    if real is None:
        return attend_step_by_step(new, attention, asked, attended)
    query = new.op("Unsqueeze", [asked, new.constant("of_heads", np.array([1]))], f"{attention.name}_asking")
    tokens, heads = attention.keys.source, {"q_num_heads": attention.heads, "kv_num_heads": 1}
    # The weights contain the scale already.
    return attention_operator(new, [query, tokens, tokens], real, attended, scale=1.0, **heads)


def products_of_weights(attention: Attention, behind: Linear) -> tuple[Linear, Linear]:
    """Return the query layer with the keys' weights absorbed, and the output layer with the values'."""
    heads = attention.heads

    def by_head(values: Array) -> list[Array]:
        return np.split(values.astype(np.float64), heads, axis=-1)

    keys, values = by_head(attention.keys.weight), by_head(attention.values.weight)
    queries, query_biases = by_head(attention.queries.weight), by_head(attention.queries.bias)
    outputs = np.split(behind.weight.astype(np.float64), heads)
    asked = [query @ key.T * attention.scale for query, key in zip(queries, keys, strict=True)]
    asked_bias = [bias @ key.T * attention.scale for bias, key in zip(query_biases, keys, strict=True)]
    answered = [value @ output for value, output in zip(values, outputs, strict=True)]
    bias = attention.values.bias.astype(np.float64) @ behind.weight + behind.bias
    return (
        Linear(
            source=attention.queries.source,
            weight=np.concatenate(asked, axis=1).astype(np.float32),
            bias=np.concatenate(asked_bias).astype(np.float32),
        ),
        Linear(
            source=attention.joined,
            weight=np.concatenate(answered).astype(np.float32),
            bias=bias.astype(np.float32),
        ),
    )
