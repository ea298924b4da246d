"""Graph operations for the passes, on onnx-ir: inspect values, add and replace nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from spoter_runtime.errors import ExportError

Array: TypeAlias = npt.NDArray[Any]
Input: TypeAlias = ir.Value | None  # None: an optional input without a value
Name: TypeAlias = str | ir.Value  # name of a new value, or the old value that it replaces
Attribute: TypeAlias = int | float | Sequence[int]

_SIZES: Final = "spoter_kit.sizes"  # key in a value's `meta`, which is not saved


def made_by(value: Input, op_type: str) -> ir.Node | None:
    """Return the node that computes a value if it has this type; else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the only node that reads a value; None if several or none do, or it is a graph output."""
    uses = value.uses()
    return next(iter(uses)).node if len(uses) == 1 and not value.is_graph_output() else None


def weight_of(value: Input) -> Array | None:
    """Return the array of a constant; None for a value that is computed."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def name_of(value: str | Input) -> str:
    """Return the name of a value or name; empty for None."""
    if isinstance(value, str):
        return value
    return "" if value is None or value.name is None else value.name


def sizes_of(value: Input) -> tuple[int | str | None, ...]:
    """Return a value's shape, from `infer_shapes`; empty if the rank is unknown.

    A dynamic axis is a name or None; axes with the same name have the same size.
    """
    found: tuple[int | str | None, ...] = () if value is None else value.meta.get(_SIZES, ())
    return found


def infer_shapes(model: ir.Model) -> None:
    """Infer the shapes of all values, for `sizes_of`.

    onnx-ir's own pass reorders the constants and takes twice as long.
    """
    graph = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True).graph
    found = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    for name, value in ir.convenience.create_value_mapping(model.graph).items():
        axes = found[name].shape.dim if name in found else ()
        sizes = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None for axis in axes]
        value.meta[_SIZES] = tuple(sizes)


def remove_unused(model: ir.Model) -> None:
    """Remove the nodes and the constants that no output depends on."""
    common.RemoveUnusedNodesPass()(model)


def check_valid(model: onnx.ModelProto, problem: str, *, fix: str = "") -> None:
    """Raise an ExportError, with `problem` and the reason, if a model is not valid ONNX."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{problem}: {error}", fix=fix) from error


def proto_from_ir(model: ir.Model) -> onnx.ModelProto:
    """Return a model as protobuf, without unused nodes and in execution order."""
    remove_unused(model)
    model.graph.sort()
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # engines infer shapes; stale ones only mislead
    return proto


class NewNodes:
    """Builds nodes, then inserts them into a graph.

    Attributes:
        nodes: built nodes that are not in the graph yet.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.nodes: list[ir.Node] = []
        self._old: list[tuple[ir.Value, ir.Value]] = []  # (old value, its replacement)

    def op(self, op_type: str, inputs: Sequence[Input], name: Name, **attributes: Attribute) -> ir.Value:
        """Build a node with one output, both named after `name`; return the output.

        If `name` is a value, the output replaces it when the nodes are inserted.
        """
        output = ir.Value(name=name_of(name))
        self.add(op_type, inputs, [output], **attributes)
        if isinstance(name, ir.Value):
            self._old.append((name, output))
        return output

    def add(
        self, op_type: str, inputs: Sequence[Input], outputs: Sequence[ir.Value], **attributes: Attribute
    ) -> None:
        """Build a node with these outputs, named after the first."""
        settings, name = dict(sorted(attributes.items())), f"node_{outputs[0].name}"
        self.nodes.append(ir.node(op_type, inputs, settings, outputs=outputs, name=name))

    def op_once(
        self, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: Attribute
    ) -> ir.Value:
        """Return the output of an existing node with this name and inputs; build it if there is none."""
        there = (node.outputs[0] for node in inputs[0].consumers() if node.name == f"node_{name}")
        return next(there, None) or self.op(op_type, inputs, name, **attributes)

    def constant(self, name: str, value: npt.ArrayLike) -> ir.Value:
        """Return a constant with this name, or with a number appended; equal constants are shared."""
        array, free, number = np.array(value, order="C"), name, 1
        constants = self.model.graph.initializers
        while (held := constants.get(free)) is not None:
            known = weight_of(held)
            if known is not None and known.dtype == array.dtype and np.array_equal(known, array):
                return held
            free, number = f"{name}_{number}", number + 1
        made = ir.Value(name=free, const_value=ir.tensor(array, name=free))
        self.model.graph.register_initializer(made)
        return made

    def put(self, before: ir.Node | None) -> None:
        """Insert the built nodes before a node, or at the end for None."""
        graph, nodes, old = self.model.graph, self.nodes, self._old
        self.nodes, self._old = [], []
        if before is None:
            graph.extend(nodes)
        else:
            graph.insert_before(before, nodes)
        for value, new in old:
            new.type, new.shape = value.type, value.shape  # an output of the graph needs both
            new.meta.update(value.meta)
            value.replace_all_uses_with(new, replace_graph_outputs=True)

    def replace(self) -> None:
        """Insert the built nodes where the last replaced value is computed; remove unused nodes."""
        self.put(self._old[-1][0].producer())
        remove_unused(self.model)
