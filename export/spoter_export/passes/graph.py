"""Graph: an ONNX graph that is being rewritten, with its makers, readers, weights and sizes at hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper


class Graph:
    """A copy of a model that is being rewritten.

    Attributes:
        model: the copy.
        weights: values of the initializers.
        maker: tensor → the node that computes it.
        readers: tensor → the nodes that read it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.weights = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}
        self._look_again()

    def _look_again(self) -> None:
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)

    @property
    def nodes(self) -> Sequence[NodeProto]:
        """All nodes, in the order they are computed."""
        nodes: Sequence[NodeProto] = self.model.graph.node
        return nodes

    @property
    def given_back(self) -> set[str]:
        """Names of the graph's outputs."""
        return {value.name for value in self.model.graph.output}

    def only_reader(self, tensor: str) -> NodeProto | None:
        """Return the one node that reads a tensor; None where none, several, or the caller do."""
        readers = self.readers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self.given_back else None

    def made_by(self, tensor: str, op_type: str) -> NodeProto | None:
        """Return the node that computes a tensor where it is of this type."""
        node = self.maker.get(tensor)
        return node if node is not None and node.op_type == op_type else None

    def symbols(self) -> dict[str, list[int | str]]:
        """Return the shape of every tensor whose rank can be told: sizes, or names for those that vary.

        Two axes of one name have one size; an axis of which nothing is known has an empty name.
        """
        known = onnx.ModelProto()
        known.CopyFrom(self.model)
        for node in known.graph.node:
            if node.domain:  # what onnx does not know: it gives what it takes in the first place
                node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output))
        graph = onnx.shape_inference.infer_shapes(known, data_prop=True).graph
        found: dict[str, list[int | str]] = {name: list(w.shape) for name, w in self.weights.items()}
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.HasField("shape"):
                axes = value.type.tensor_type.shape.dim
                found[value.name] = [a.dim_value if a.HasField("dim_value") else a.dim_param for a in axes]
        return found

    def sizes(self) -> dict[str, tuple[int | None, ...]]:
        """Return the shape of every tensor whose rank can be told, None for axes that vary."""
        return {
            name: tuple(size if isinstance(size, int) else None for size in sizes)
            for name, sizes in self.symbols().items()
        }

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Keep a constant under this name, or one like it that is free, and return that; equal ones once."""
        given, free, number = np.array(value, order="C"), name, 1
        while (held := self.weights.get(free)) is not None:
            if held.dtype == given.dtype and np.array_equal(held, given):
                return free
            free, number = f"{name}_{number}", number + 1
        self.weights[free] = given
        self.model.graph.initializer.append(numpy_helper.from_array(given, free))
        return free

    def replace(self, new: Sequence[NodeProto]) -> None:
        """Put new nodes where the output of the last one was made; they stand for all that made theirs."""
        made = {name for node in new for name in node.output}
        place = next(i for i, node in enumerate(self.nodes) if new[-1].output[0] in node.output)
        before, after = (
            [node for node in part if not made.intersection(node.output)]
            for part in (self.nodes[:place], self.nodes[place + 1 :])
        )
        self.replace_all(_in_order([*before, *new, *after]))

    def replace_all(self, nodes: Sequence[NodeProto]) -> None:
        """Take these nodes for those there are; what nobody reads any more is left out, weights too."""
        needed, kept = self.given_back, []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                # A copy: the graph owns its nodes, and forgets them below.
                kept.append(NodeProto.FromString(node.SerializeToString()))
        graph = self.model.graph
        tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(tensors)
        self.weights = {tensor.name: self.weights[tensor.name] for tensor in tensors}
        self._look_again()


def _in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Return nodes in the order given, but each behind those that make what it reads."""
    maker = {name: node for node in nodes for name in node.output}
    placed: dict[str, NodeProto] = {}

    def place(node: NodeProto) -> None:
        if node.output[0] not in placed:
            for name in node.input:
                if name in maker:
                    place(maker[name])
            placed[node.output[0]] = node

    for node in nodes:
        place(node)
    return list(placed.values())


def node_of(op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    """Return a node with one output, named after it."""
    return helper.make_node(op_type, inputs, [output], name=f"node_{output}", **attributes)
