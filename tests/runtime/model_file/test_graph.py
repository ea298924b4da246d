"""OnnxGraph: the same names, metadata and float nodes as the onnx package finds."""

from __future__ import annotations

import contextlib

import onnx
import pytest
from onnx import TensorProto, helper

from spoter_runtime.contract import METADATA_KEY
from spoter_runtime.errors import SpoterError
from spoter_runtime.model_file.check import check_onnx_file
from spoter_runtime.model_file.graph import read_onnx

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


@pytest.fixture(scope="module")
def content(bundle_folder):
    return (bundle_folder / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def model(content):
    return onnx.shape_inference.infer_shapes(onnx.load_from_string(content), strict_mode=True)


def test_names_and_metadata_are_those_of_the_onnx_package(content, model):
    graph = read_onnx(content)
    assert graph.names == {node.name for node in model.graph.node}
    assert graph.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert METADATA_KEY in graph.metadata


def test_float_nodes_are_those_with_floats_by_type_inference(content, model):
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type in FLOATS}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type in FLOATS:
            floats.add(value.name)
    nodes = [node for node in model.graph.node if node.op_type != "Shape"]
    by_type = {node.name for node in nodes if floats & {*node.input, *node.output}}
    found = read_onnx(content).float_names
    assert found <= by_type
    # Where a mask becomes a float no float flows in, nor where such masks are counted; every other is found.
    masks = {"Cast", "ReduceMax", "ReduceMin", "ReduceSum", "Reshape", "Slice", "Transpose"}
    assert {node.op_type for node in nodes if node.name in by_type - found} <= masks
    assert len(found) > len(nodes) / 2


def _float_names(*nodes, weight=TensorProto.FLOAT):
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [name], name=name) for name, op, *inputs in nodes],
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["n"]),
        ],
        [helper.make_tensor_value_info(nodes[-1][0], TensorProto.FLOAT, None)],
        [helper.make_tensor("w", weight, [1], [2])],
    )
    return read_onnx(helper.make_model(graph).SerializeToString()).float_names


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([("a", "Relu", "x"), ("b", "Reshape", "a", "w")], {"a", "b"}),
        ([("a", "Shape", "x"), ("b", "Gather", "a", "lengths"), ("c", "Mul", "b", "b")], set()),
        ([("a", "IsNaN", "x"), ("b", "Not", "a"), ("c", "And", "b", "a")], {"a"}),
        ([("a", "IsNaN", "x"), ("b", "Where", "a", "x", "x"), ("c", "Shape", "b")], {"a", "b"}),
        ([("a", "Shape", "x"), ("b", "Cast", "a"), ("c", "Mul", "b", "w"), ("d", "Exp", "c")], {"c", "d"}),
    ],
    ids=["values flow on", "shapes", "a mask", "a masked value", "a scale from a shape and a weight"],
)
def test_values_flow_through_the_graph_until_something_compares_them(nodes, expected):
    assert _float_names(*nodes) == expected


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(TensorProto.FLOAT16, {"a"}), (TensorProto.BFLOAT16, {"a"}), (TensorProto.INT64, set())],
)
def test_a_weight_is_a_float_by_its_type(weight, expected):
    assert _float_names(("a", "Add", "w", "w"), weight=weight) == expected


@pytest.mark.parametrize("content", [b"", b"a picture, really", b"\xff" * 20, b"\x3a\x7f"])
def test_what_is_no_onnx_file_is_a_value_error(content):
    with pytest.raises(ValueError, match=r"it is no ONNX file|truncated|no protobuf message|of wire type"):
        read_onnx(content)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_a_value_error(content, share):
    with pytest.raises(ValueError, match="truncated"):
        read_onnx(content[: int(share * len(content))])


def field(number, value):
    """A protobuf field: a number, or bytes shorter than 128."""
    return (
        bytes([number << 3, value])
        if isinstance(value, int)
        else bytes([number << 3 | 2, len(value)]) + value
    )


@pytest.mark.parametrize(
    "graph",
    [
        field(1, 5),  # a node
        field(1, field(3, 5)),  # a node's name
        field(1, field(4, 5)),  # its operator
        field(1, field(1, 5)),  # its input
        field(5, field(2, 1) + field(8, 5)),  # a tensor's name
        field(5, field(2, b"f")),  # its type
        field(11, field(1, 5)),  # an input's name
        field(11, field(1, b"x") + field(2, 5)),  # its type
        field(11, field(1, b"x") + field(2, field(1, field(1, b"f")))),
    ],
)
def test_a_field_of_another_type_is_a_value_error(graph, tmp_path):
    content = field(7, graph)
    with pytest.raises(ValueError, match="of wire type"):
        read_onnx(content)
    (tmp_path / "model.onnx").write_bytes(content)
    with contextlib.suppress(SpoterError):  # and of ours, if the check looks at it
        check_onnx_file((tmp_path / "model.onnx").read_bytes())


def test_what_protobuf_may_leave_out_is_zero_or_empty():
    found = read_onnx(
        field(7, field(5, field(8, b"w")) + field(11, field(1, b"x"))) + field(8, field(1, b""))
    )
    assert (found.input_types, found.opset) == ({"x": 0}, 0)
