"""constant_shapes: replace computed shapes of Reshape by constants."""

from __future__ import annotations

import onnx_ir as ir

from spoter_export.passes.graph import Input, NewNodes, infer_shapes, made_by, sizes_of, weight_of


def constant_shapes(model: ir.Model) -> None:
    """Replace a Reshape's shape that torch computes from sizes of the inputs by a constant.

    Requires: a Reshape by a Concat of constants and sizes of other tensors; all of these sizes but one equal
        the same axis of the Reshape's input.
    Ensures: a constant instead of the Concat: 0 for a size that stays, -1 for the remaining one.
    """
    infer_shapes(model)
    new = NewNodes(model)
    for node in list(model.graph):
        shape = constant_shape(node) if node.op_type == "Reshape" else None
        if shape is not None:
            name = "to_" + "_".join(str(size) for size in shape).replace("-", "m")
            new.op("Reshape", [node.inputs[0], new.constant(name, shape)], node.outputs[0])
            new.put(node)


def constant_shape(reshape: ir.Node) -> list[int] | None:
    """Return the constant shape that equals a Reshape's computed one; None if there is none."""
    together = made_by(reshape.inputs[1], "Concat")
    before = sizes_of(reshape.inputs[0])
    if together is None or not before:
        return None
    shape: list[int | str] = []
    for part in together.inputs:
        sizes = weight_of(part)
        if sizes is not None:
            shape += [int(size) for size in sizes]
        elif (size := name_of_size(part)) is not None:
            shape.append(size)
        else:
            return None
    # A name is a dynamic size; the same name means the same size.
    stays = [isinstance(size, str) and before[i : i + 1] == (size,) for i, size in enumerate(shape)]
    left = [i for i, size in enumerate(shape) if isinstance(size, str) and not stays[i]]
    if len(left) > 1 or any(size in (0, -1) for size in shape):
        return None
    return [0 if stays[i] else -1 if isinstance(size, str) else size for i, size in enumerate(shape)]


def name_of_size(part: Input) -> str | None:
    """Return the name of the axis whose size a one-element tensor holds; None if it holds something else."""
    node = made_by(part, "Shape")
    if node is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
    axes = sizes_of(node.inputs[0])[start:end]
    return axes[0] if len(axes) == 1 and isinstance(axes[0], str) else None
