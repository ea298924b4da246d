"""Passes that compute constants at export, and fold operators into the weights that follow."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from spoter_export.passes.graph import (
    NewNodes,
    infer_shapes,
    made_by,
    name_of,
    only_reader,
    sizes_of,
    weight_of,
)


def fold_constants(model: ir.Model) -> None:
    """Replace each node with constant inputs by its result, which engines then need not compute at each load.

    Requires: a node whose inputs are all constants.
    Ensures: no such node.
    """
    new = NewNodes(model)
    for node in list(model.graph):
        values = {name_of(value): weight_of(value) for value in node.inputs if value is not None}
        if values and all(array is not None for array in values.values()):
            results = ReferenceEvaluator(ir.to_proto(node)).run(None, values)
            for output, result in zip(node.outputs, results, strict=True):
                constant = new.constant(name_of(output), np.asarray(result))
                output.replace_all_uses_with(constant, replace_graph_outputs=True)


def fold_feature_weights(model: ir.Model) -> None:
    """Fold a multiplication by one factor per feature into the weight of the MatMul that follows.

    Requires: Mul by a constant with a factor for each feature, read only by a MatMul with a weight.
    Ensures: no Mul before that MatMul.
    """
    new = NewNodes(model)
    for node in list(model.graph):
        factors = weight_of(node.inputs[1]) if node.op_type == "Mul" else None
        product = only_reader(node.outputs[0])
        if factors is None or factors.ndim != 1 or product is None or product.op_type != "MatMul":
            continue
        weight, total = weight_of(product.inputs[1]), product.outputs[0]
        if weight is not None and weight.ndim == 2 and len(weight) == len(factors):
            weighed = new.constant(f"{name_of(product.inputs[1])}_weighed", factors[:, None] * weight)
            new.op("MatMul", [node.inputs[0], weighed], total)
            new.replace()


def fold_feature_order(model: ir.Model) -> None:
    """Replace a transposition of features by a reordering of the rows of the weight that follows.

    Requires: Transpose of the last two axes, Reshape that joins them, MatMul with a weight, each read only by
        the next.
    Ensures: no transposition.
    """
    infer_shapes(model)
    new = NewNodes(model)
    for node in list(model.graph):
        turned = made_by(node.inputs[0], "Transpose") if node.op_type == "Reshape" else None
        product = only_reader(node.outputs[0])
        if turned is None or product is None or product.op_type != "MatMul":
            continue
        landmarks, total, weight = turned.inputs[0], product.outputs[0], weight_of(product.inputs[1])
        if turned.attributes.get_ints("perm") != (0, 1, 3, 2) or only_reader(turned.outputs[0]) is None:
            continue
        first, second = sizes_of(landmarks)[2:] or (None, None)
        if weight is None or weight.ndim != 2 or not isinstance(first, int) or not isinstance(second, int):
            continue
        if first * second != len(weight) or len(sizes_of(node.outputs[0])) != 3:
            continue
        reordered = weight.reshape(second, first, -1).swapaxes(0, 1).reshape(weight.shape)
        features = new.op("Reshape", [landmarks, node.inputs[1]], f"{name_of(landmarks)}_features")
        constant = new.constant(f"{name_of(product.inputs[1])}_reordered", reordered)
        new.op("MatMul", [features, constant], total)
        new.replace()
