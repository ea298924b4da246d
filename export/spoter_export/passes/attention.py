"""Passes for attention: softmax(queries · keys + mask) · values, as torch exports it.

torch writes three products, shapes that are computed from shapes, a transposition in three steps, and a scale
for the queries and one for the keys, in every layer.

Shapes: N clips, S tokens, Q queries, E width of a token, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from spoter_export.passes.graph import Graph, node_of

# The first in which Attention takes a number of tokens. What the graphs have from 20 on means the same in it.
OPSET_OF_ATTENTION: Final = 24
# The first ONNX Runtime that heeds it: 1.24 runs the operator and attends to padding, and older ones lack it.
ORT_WITH_ATTENTION: Final = "1.25"
_SHUT_OUT: Final = -1e4  # what is added to a score before exp, at most; exp(-104) is an exact 0 in float32
_SWAP_HEADS: Final = (0, 2, 1, 3)  # (N, S, H, d) → (N, H, S, d), and back

Float32Weight = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
    """A product with a weight (in, out) and a bias behind it, of one tensor."""

    source: str
    weight: Float32Weight
    bias: Float32Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attention:
    """What was found around a softmax.

    Attributes:
        queries, keys, values: the linear layers whose outputs are split into heads.
        name: of the queries' tensor; new tensors are called after it.
        scale: of the queries and the keys together.
        mask: the tensor (N, 1, 1, S) that is added to the scores.
        scores, masked, shares, context: names of the tensors on the way, in heads.
        joined: the tensor (N, Q, E) with the heads together again.
    """

    heads: int
    queries: _Linear
    keys: _Linear
    values: _Linear
    name: str
    scale: float
    mask: str
    scores: str
    masked: str
    shares: str
    context: str
    joined: str

    @property
    def is_of_one_tensor(self) -> bool:
        """True where queries, keys and values come from the same tokens."""
        return self.queries.source == self.keys.source == self.values.source


def pack_projections(graph: Graph) -> None:
    """Compute queries, keys and values in one product, scaled beforehand, and split them by constant shapes.

    Requires: attention of tokens to themselves, with an additive mask.
    Ensures: one product with a weight, one transposition for all three and one of the keys.
    """
    for attention in _attentions(graph):
        if attention.is_of_one_tensor:
            graph.replace(_packed(graph, attention))


def absorb_single_query(graph: Graph) -> None:
    """Attend with one query without computing keys and values.

    q·(W x + b) is (q W)·x and a number that no softmax sees; the shares of the values add up to 1, so that
    sum(share (W x + b)) is (sum(share x)) W + b. The products of weights that this leaves are computed here.

    Requires: one query a clip, keys and values from the same tokens, a linear layer behind.
    Ensures: no product with a weight over all tokens.
    """
    _absorb(graph, _attend_step_by_step)


def absorb_single_query_into_one_operator(graph: Graph) -> None:
    """Do what `absorb_single_query` does, and leave the attending to the operator Attention.

    All heads ask the same tokens: for the operator, heads of queries that share one of keys and values.

    Requires: as there; a mask as for `attend_in_one_operator`, without which it does what is done there.
    Ensures: no product with a weight over all tokens, one node for the attention; the opset it came with.
    """
    _absorb(graph, _attend_to_tokens)


def attend_in_one_operator(graph: Graph) -> None:
    """Leave all between the projections and the joined heads to ONNX's operator Attention.

    It takes the number of real tokens instead of a mask, and tokens as they are: nothing is transposed.

    Requires: attention of tokens to themselves; a mask that shuts out what is beyond each clip's length, and
        nothing else.
    Ensures: one node for each attention; the opset that it came with.
    """
    for attention in _attentions(graph):
        real = _real_tokens(graph, attention.mask)
        if attention.is_of_one_tensor and real is not None:
            graph.replace(_in_one_operator(graph, attention, real))


def _attentions(graph: Graph) -> Iterator[_Attention]:
    """Find each attention, anew after the graph has changed."""
    for shares in [node.output[0] for node in graph.nodes if node.op_type == "Softmax"]:
        softmax = graph.maker.get(shares)
        found = _attention_at(graph, softmax) if softmax is not None else None
        if found is not None:
            yield found


def _attention_at(graph: Graph, softmax: NodeProto) -> _Attention | None:
    masked = graph.made_by(softmax.input[0], "Add")
    context = graph.only_reader(softmax.output[0])
    if masked is None or context is None or context.op_type != "MatMul":
        return None
    scores = [name for name in masked.input if graph.made_by(name, "MatMul")]
    turned = graph.only_reader(context.output[0])
    joined = graph.only_reader(turned.output[0]) if turned is not None else None
    if len(scores) != 1 or softmax.output[0] != context.input[0] or turned is None or joined is None:
        return None
    if (turned.op_type, joined.op_type) != ("Transpose", "Reshape"):
        return None
    factors = [*graph.maker[scores[0]].input, context.input[1]]
    parts = [part for part in (_before_heads(graph, name) for name in factors) if part is not None]
    layers = [layer for layer in (_linear_at(graph, name) for name, _, _ in parts) if layer is not None]
    if len(layers) != 3 or len({heads for _, heads, _ in parts}) != 1 or parts[2][2] != 1.0:
        return None
    return _Attention(
        heads=parts[0][1],
        queries=layers[0],
        keys=layers[1],
        values=layers[2],
        name=parts[0][0],
        scale=parts[0][2] * parts[1][2],
        mask=next(name for name in masked.input if name != scores[0]),
        scores=scores[0],
        masked=masked.output[0],
        shares=softmax.output[0],
        context=context.output[0],
        joined=joined.output[0],
    )


def _before_heads(graph: Graph, tensor: str) -> tuple[str, int, float] | None:
    """Go back from one factor to the tensor that was split into heads.

    Returns:
        That tensor, the number of heads, and by what it was multiplied on the way.
    """
    scale, heads = 1.0, None
    while (node := graph.maker.get(tensor)) is not None:
        factor = graph.weights.get(node.input[1]) if node.op_type == "Mul" else None
        if factor is not None and factor.size == 1:
            scale *= float(factor.reshape(()))
        elif node.op_type == "Reshape":
            heads = _known_sizes(graph, node.input[1])
        elif node.op_type != "Transpose":
            break
        tensor = node.input[0]
    # The split itself is the reshape that was met last, to (N, S, H, d).
    if heads is None or len(heads) != 4 or heads[2] is None or heads[2] < 1:
        return None
    return tensor, heads[2], scale


def _known_sizes(graph: Graph, shape: str) -> list[int | None]:
    """Return the sizes of a shape, None for those that are computed."""
    if shape in graph.weights:
        return [int(size) for size in graph.weights[shape]]
    node = graph.made_by(shape, "Concat")
    sizes: list[int | None] = []
    for part in node.input if node is not None else ():
        sizes += [int(size) for size in graph.weights[part]] if part in graph.weights else [None]
    return sizes


def _linear_at(graph: Graph, tensor: str) -> _Linear | None:
    """Return the linear layer that makes a tensor, or the part of one that a Split leaves of it."""
    split = graph.made_by(tensor, "Split")
    if split is not None:
        return _part_of_linear(graph, split, tensor)
    add = graph.made_by(tensor, "Add")
    product = graph.made_by(add.input[0], "MatMul") if add is not None else None
    if add is None or product is None:
        return None
    weight, bias = graph.weights.get(product.input[1]), graph.weights.get(add.input[1])
    if weight is None or weight.ndim != 2 or bias is None or bias.ndim != 1:
        return None
    return _Linear(source=product.input[0], weight=weight, bias=bias)


def _part_of_linear(graph: Graph, split: NodeProto, tensor: str) -> _Linear | None:
    whole = _linear_at(graph, split.input[0])
    axis = next((attribute.i for attribute in split.attribute if attribute.name == "axis"), 0)
    if whole is None or axis not in (-1, 2):
        return None
    count = len(split.output)
    sizes = graph.weights.get(split.input[1]) if len(split.input) > 1 else None
    if sizes is None:
        if len(whole.bias) % count:
            return None
        sizes = np.full(count, len(whole.bias) // count)
    place = list(split.output).index(tensor)
    end = int(np.cumsum(sizes)[place])
    columns = slice(end - int(sizes[place]), end)
    return _Linear(source=whole.source, weight=whole.weight[:, columns], bias=whole.bias[columns])


def _behind(graph: Graph, product: NodeProto | None) -> str:
    """Return the output of the addition that alone reads a product; empty where there is none."""
    reader = graph.only_reader(product.output[0]) if product is not None else None
    return reader.output[0] if reader is not None and reader.op_type == "Add" else ""


def _projected(graph: Graph, attention: _Attention, *, scale: float) -> tuple[str, list[NodeProto]]:
    """Return queries, keys and values as one tensor (N, S, 3 E), and the nodes for it."""
    layers = (attention.queries, attention.keys, attention.values)
    by = np.float32(scale)
    together = f"{attention.name}_projected"
    weight = np.concatenate([layers[0].weight * by, layers[1].weight, layers[2].weight], axis=1)
    bias = np.concatenate([layers[0].bias * by, layers[1].bias, layers[2].bias])
    product = f"{together}_product"
    return together, [
        node_of("MatMul", [layers[0].source, graph.constant(f"{together}_weight", weight)], product),
        node_of("Add", [product, graph.constant(f"{together}_bias", bias)], together),
    ]


def _packed(graph: Graph, attention: _Attention) -> list[NodeProto]:
    together, nodes = _projected(graph, attention, scale=attention.scale)
    apart, in_heads = f"{together}_apart", f"{together}_in_heads"
    shape = graph.constant(f"apart_{attention.heads}", np.array([0, 0, 3, attention.heads, -1]))
    nodes += [
        node_of("Reshape", [together, shape], apart),
        node_of("Transpose", [apart], in_heads, perm=(2, 0, 3, 1, 4)),
    ]
    queries, keys, values = (f"{attention.name}_{part}" for part in ("queries", "keys", "values"))
    for i, part in enumerate((queries, keys, values)):
        nodes.append(node_of("Gather", [in_heads, graph.constant(f"part_{i}", np.array(i))], part, axis=0))
    nodes += [
        node_of("Transpose", [keys], f"{keys}_turned", perm=(0, 1, 3, 2)),
        node_of("MatMul", [queries, f"{keys}_turned"], attention.scores),
        node_of("Add", [attention.scores, attention.mask], attention.masked),
        node_of("Softmax", [attention.masked], attention.shares, axis=-1),
        node_of("MatMul", [attention.shares, values], attention.context),
        node_of("Transpose", [attention.context], f"{attention.joined}_turned", perm=_SWAP_HEADS),
        node_of(
            "Reshape",
            [f"{attention.joined}_turned", graph.constant("joined", np.array([0, 0, -1]))],
            attention.joined,
        ),
    ]
    return nodes


def _in_one_operator(graph: Graph, attention: _Attention, real: tuple[str, int]) -> list[NodeProto]:
    together, nodes = _projected(graph, attention, scale=1.0)
    parts = [f"{attention.name}_{part}" for part in ("queries", "keys", "values")]
    nodes.append(
        helper.make_node("Split", [together], parts, name=f"node_{together}_split", axis=2, num_outputs=3)
    )
    heads = {"q_num_heads": attention.heads, "kv_num_heads": attention.heads}
    return [*nodes, *_operator(graph, parts, real, attention.joined, scale=attention.scale, **heads)]


def _operator(
    graph: Graph, parts: Sequence[str], real: tuple[str, int], output: str, **attributes: float
) -> list[NodeProto]:
    standard = next(entry for entry in graph.model.opset_import if entry.domain == "")
    standard.version = max(standard.version, OPSET_OF_ATTENTION)
    counting = _token_counts(graph, *real)
    tokens = counting[-1].output[0]
    return [*counting, node_of("Attention", [*parts, "", "", "", tokens], output, **attributes)]


def _real_tokens(graph: Graph, mask: str) -> tuple[str, int] | None:
    """Return the tensor of lengths, and how many tokens come before the frames; None for another mask."""
    if graph.sizes().get(mask, ())[1:3] != (1, 1):  # of other tokens than those that are attended to
        return None
    node, before = graph.maker.get(mask), 0
    while node is not None and node.op_type in ("Pad", "Reshape", "Squeeze", "Unsqueeze"):
        if node.op_type == "Pad":
            amounts = graph.weights.get(node.input[1])
            modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
            # By zeros, in front of the last axis; a value, or axes, would be further inputs.
            if amounts is None or any(node.input[2:]) or modes not in ([], [b"constant"]):
                return None
            if amounts.sum() != amounts[len(amounts) // 2 - 1]:
                return None
            before += int(amounts.sum())
        node = graph.maker.get(node.input[0])
    value = graph.weights.get(node.input[1]) if node is not None and node.op_type == "Mul" else None
    cast = graph.made_by(node.input[0], "Cast") if node is not None else None
    padded = graph.made_by(cast.input[0], "Not") if cast is not None else None
    shown = graph.made_by(padded.input[0], "Less") if padded is not None else None
    if shown is None or value is None or value.size != 1 or float(value.reshape(())) > _SHUT_OUT:
        return None
    frames, lengths = graph.made_by(shown.input[0], "Range"), graph.made_by(shown.input[1], "Unsqueeze")
    counted = frames is not None and all(
        graph.weights.get(name) == i for name, i in zip(frames.input[::2], (0, 1), strict=True)
    )
    return (lengths.input[0], before) if counted and lengths is not None else None


def _token_counts(graph: Graph, lengths: str, before: int) -> list[NodeProto]:
    """Return the nodes that count each clip's tokens, int64 (N,); the same nodes for each attention."""
    whole = f"{lengths}_int64"
    more = graph.constant(f"tokens_before_{before}", np.array(before))
    return [
        node_of("Cast", [lengths], whole, to=TensorProto.INT64),
        node_of("Add", [whole, more], f"{lengths}_and_{before}_tokens"),
    ]


def _absorb(graph: Graph, attend: Callable[[Graph, _Attention, str, str], list[NodeProto]]) -> None:
    sizes = graph.sizes()
    for attention in _attentions(graph):
        output = _behind(graph, graph.only_reader(attention.joined))
        behind = _linear_at(graph, output)
        same = attention.keys.source == attention.values.source
        if same and behind is not None and sizes.get(attention.joined, ())[1:2] == (1,):
            graph.replace(_absorbed(graph, attention, behind, output=output, attend=attend))


def _absorbed(
    graph: Graph,
    attention: _Attention,
    behind: _Linear,
    *,
    output: str,
    attend: Callable[[Graph, _Attention, str, str], list[NodeProto]],
) -> list[NodeProto]:
    asking, answering = _products_of_weights(attention, behind)
    name = attention.name

    def linear(layer: _Linear, source: str, target: str) -> NodeProto:
        weight, bias = (
            graph.constant(f"{target}_weight", layer.weight),
            graph.constant(f"{target}_bias", layer.bias),
        )
        return node_of("Gemm", [source, weight, bias], target)

    row = graph.constant("row", np.array([0, -1]))
    # Its width in numbers: where that of the tokens is not known, onnx takes Attention's to be 0.
    wide = len(answering.weight)
    wide_row = graph.constant(f"rows_{wide}", np.array([-1, wide]))
    # One row a clip: a product over it is a Gemm, and stays fp32 where products over tokens go to int8.
    return [
        node_of("Reshape", [attention.queries.source, row], f"{name}_row"),
        linear(asking, f"{name}_row", f"{name}_asked"),
        *attend(graph, attention, f"{name}_asked", f"{name}_attended"),
        node_of("Reshape", [f"{name}_attended", wide_row], f"{name}_attended_row"),
        linear(answering, f"{name}_attended_row", f"{output}_row"),
        node_of("Unsqueeze", [f"{output}_row", graph.constant("of_heads", np.array([1]))], output),
    ]


def _attend_step_by_step(graph: Graph, attention: _Attention, asked: str, attended: str) -> list[NodeProto]:
    """Return the nodes from what each clip asks (N, H E) to the tokens' sums (N, H, E)."""
    tokens, name, heads = attention.keys.source, attention.name, attention.heads
    width = len(attention.keys.weight)
    in_heads = graph.constant(f"heads_{heads}_{width}", np.array([0, heads, width]))
    return [
        node_of("Reshape", [asked, in_heads], f"{name}_heads"),
        node_of("Transpose", [tokens], f"{name}_tokens_turned", perm=(0, 2, 1)),
        node_of("MatMul", [f"{name}_heads", f"{name}_tokens_turned"], f"{name}_scores"),
        node_of("Squeeze", [attention.mask, graph.constant("of_heads", np.array([1]))], f"{name}_mask"),
        node_of("Add", [f"{name}_scores", f"{name}_mask"], f"{name}_masked"),
        node_of("Softmax", [f"{name}_masked"], f"{name}_shares", axis=-1),
        node_of("MatMul", [f"{name}_shares", tokens], attended),
    ]


def _attend_to_tokens(graph: Graph, attention: _Attention, asked: str, attended: str) -> list[NodeProto]:
    """Return the nodes from what each clip asks (N, H E) to the tokens' sums (N, 1, H E)."""
    real = _real_tokens(graph, attention.mask)
    if real is None:
        return _attend_step_by_step(graph, attention, asked, attended)
    asking, tokens = f"{attention.name}_asking", attention.keys.source
    heads = {"q_num_heads": attention.heads, "kv_num_heads": 1}
    return [
        node_of("Unsqueeze", [asked, graph.constant("of_heads", np.array([1]))], asking),
        # The scale is in the weights already.
        *_operator(graph, [asking, tokens, tokens], real, attended, scale=1.0, **heads),
    ]


def _products_of_weights(attention: _Attention, behind: _Linear) -> tuple[_Linear, _Linear]:
    """Return the layers from a query to what it asks of tokens, and from attended tokens to the output."""
    heads = attention.heads

    def by_head(values: Float32Weight) -> list[npt.NDArray[np.float64]]:
        return np.split(values.astype(np.float64), heads, axis=-1)

    keys, values = by_head(attention.keys.weight), by_head(attention.values.weight)
    queries, query_biases = by_head(attention.queries.weight), by_head(attention.queries.bias)
    outputs = np.split(behind.weight.astype(np.float64), heads)
    asked = [query @ key.T * attention.scale for query, key in zip(queries, keys, strict=True)]
    asked_bias = [bias @ key.T * attention.scale for bias, key in zip(query_biases, keys, strict=True)]
    answered = [value @ output for value, output in zip(values, outputs, strict=True)]
    bias = attention.values.bias.astype(np.float64) @ behind.weight + behind.bias
    return (
        _Linear(
            source=attention.queries.source,
            weight=np.concatenate(asked, axis=1).astype(np.float32),
            bias=np.concatenate(asked_bias).astype(np.float32),
        ),
        _Linear(
            source=attention.joined,
            weight=np.concatenate(answered).astype(np.float32),
            bias=bias.astype(np.float32),
        ),
    )
