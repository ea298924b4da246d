"""Passes for how tensors lie: shapes that are computed, and an order of features that a weight can have."""

from __future__ import annotations

from onnx import NodeProto

from spoter_export.passes.graph import Graph, node_of


def constant_shapes(graph: Graph) -> None:
    """Reshape by constants where torch writes a shape that is put together from sizes of the inputs.

    Requires: a Reshape by a Concat of constants and sizes of other tensors; all of these sizes but one are
        known to be those of the same axes before it.
    Ensures: a constant in the place of the Concat: 0 for a size that stays, -1 for the one that is left.
    """
    symbols = graph.symbols()
    nodes = list(graph.nodes)
    for i, node in enumerate(nodes):
        shape = _constant_shape(graph, node, symbols) if node.op_type == "Reshape" else None
        if shape is not None:
            name = graph.constant("to_" + "_".join(str(size) for size in shape).replace("-", "m"), shape)
            nodes[i] = node_of("Reshape", [node.input[0], name], node.output[0])
    graph.replace_all(nodes)


def fold_feature_order(graph: Graph) -> None:
    """Put the rows of a weight into the order in which the features are before they are transposed.

    Requires: Transpose of the last two axes, Reshape that makes them one, both read by nothing but the next,
        and a MatMul with a weight.
    Ensures: no transposition.
    """
    sizes = graph.sizes()
    for node in list(graph.nodes):
        turned = graph.made_by(node.input[0], "Transpose") if node.op_type == "Reshape" else None
        product = graph.only_reader(node.output[0])
        if turned is None or product is None or product.op_type != "MatMul":
            continue
        weight = graph.weights.get(product.input[1])
        perms = [tuple(attribute.ints) for attribute in turned.attribute]
        if perms != [(0, 1, 3, 2)] or graph.only_reader(turned.output[0]) is None:
            continue
        first, second = sizes.get(turned.input[0], (None,) * 4)[2:]
        if weight is None or weight.ndim != 2 or first is None or second is None:
            continue
        if first * second != len(weight) or len(sizes.get(node.output[0], ())) != 3:
            continue
        reordered = weight.reshape(second, first, -1).swapaxes(0, 1).reshape(weight.shape)
        features, name = f"{turned.input[0]}_features", f"{product.input[1]}_reordered"
        graph.replace(
            [
                node_of("Reshape", [turned.input[0], node.input[1]], features),
                node_of("MatMul", [features, graph.constant(name, reordered)], product.output[0]),
            ]
        )


def _constant_shape(graph: Graph, node: NodeProto, symbols: dict[str, list[int | str]]) -> list[int] | None:
    together = graph.made_by(node.input[1], "Concat")
    before = symbols.get(node.input[0])
    if together is None or before is None:
        return None
    shape: list[int | str] = []
    for part in together.input:
        if part in graph.weights:
            shape += [int(size) for size in graph.weights[part]]
            continue
        size = _size_of(graph, part, symbols)
        if size is None:
            return None
        shape.append(size)
    # A name stands for a size that varies; the same name on the same axis is the same size.
    stays = [isinstance(size, str) and before[i : i + 1] == [size] for i, size in enumerate(shape)]
    left = [i for i, size in enumerate(shape) if isinstance(size, str) and not stays[i]]
    if len(left) > 1 or any(size in (0, -1) for size in shape):
        return None
    return [0 if stays[i] else -1 if isinstance(size, str) else size for i, size in enumerate(shape)]


def _size_of(graph: Graph, part: str, symbols: dict[str, list[int | str]]) -> str | None:
    """Return the name of the size that a tensor of one element holds; None where it is something else."""
    node = graph.made_by(part, "Shape")
    if node is None:
        return None
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    axes = symbols.get(node.input[0], [])[ends.get("start", 0) : ends.get("end")]
    return axes[0] if len(axes) == 1 and isinstance(axes[0], str) and axes[0] else None
