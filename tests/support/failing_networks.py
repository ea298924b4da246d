"""Networks of a landmarker that fail on a frame whose first value is 240 or more."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper


def fail_on_white(file):
    """Change a network's file: the first value of its frame, divided by 240, is an index among one value."""
    model = onnx.load(file)
    graph = model.graph
    name = graph.output[0].name
    for node in graph.node:
        node.output[:] = [f"{name}?" if output == name else output for output in node.output]
        node.input[:] = [f"{name}?" if given == name else given for given in node.input]
    for key, values in (("all", [-1]), ("first", [0]), ("white", [240])):
        graph.initializer.append(helper.make_tensor(f"{key}?", TensorProto.INT64, [1], values))
    graph.initializer.append(helper.make_tensor("nothing?", TensorProto.FLOAT, [1], [0.0]))
    graph.node.extend(
        [
            helper.make_node("Reshape", ["frame", "all?"], ["flat?"]),
            helper.make_node("Gather", ["flat?", "first?"], ["value?"]),
            helper.make_node("Cast", ["value?"], ["whole?"], to=TensorProto.INT64),
            helper.make_node("Div", ["whole?", "white?"], ["place?"]),
            helper.make_node("Gather", ["nothing?", "place?"], ["none?"]),
            helper.make_node("Add", [f"{name}?", "none?"], [name]),
        ]
    )
    onnx.save(model, file)


def white(frame):
    """Return the frame with its first value 255."""
    changed = frame.copy()
    changed.flat[0] = 255
    return changed


def not_white(frame):
    """Return the frame with 0 as its first value."""
    changed = frame.copy()
    changed.flat[0] = 0
    return changed
