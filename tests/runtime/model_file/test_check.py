"""An ONNX file that spoter-kit did not write is refused before ONNX Runtime sees it."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from spoter_export.bundle.writer import graphs_of
from spoter_runtime.errors import BackendError, BundleError
from spoter_runtime.model_file.check import OPERATORS, check_onnx_file, describe_onnx_file
from spoter_runtime.recognizer import Recognizer


def write(path, model):
    path.write_bytes(model.SerializeToString())
    return path


def operators_of(graph):
    return {(node.domain.removeprefix("ai.onnx"), node.op_type) for node in graph.graph.node}


def test_the_files_of_a_bundle_pass(bundle_folder):
    for name in ("model.onnx", "model.ort.onnx"):
        check_onnx_file((bundle_folder / name).read_bytes())


@pytest.mark.slow
def test_every_kind_of_file_that_is_written_passes(contract, small_model, tmp_path):
    known = {(domain, name) for domain, names in OPERATORS.items() for name in names}
    for kind, precision, graph in graphs_of(small_model, contract, ("fp32", "fp16", "int8"), None):
        assert operators_of(graph) <= known, (kind, precision)
        check_onnx_file(graph.SerializeToString())


def with_loop(model):
    """Return the graph with a Loop of 2^62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "rounds"))
    model.graph.node.insert(0, helper.make_node("Loop", ["rounds", ""], [], body=body))


def with_function(model):
    node = helper.make_node("Add", ["x", "x"], ["y"])
    imports = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("", "Twice", ["x"], ["y"], [node], imports))


def with_external_weights(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def with_large_tensor(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("dims")
    tensor.dims.extend([1 << 40])


def with_foreign_operator(model):
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    model.graph.node.append(helper.make_node("Add", ["x", "x"], ["y"], domain="org.example"))


def with_training(model):
    model.training_info.add()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (with_loop, BackendError, "has an operator 'Loop', which spoter-kit "),
        (
            with_function,
            BundleError,
            "refused: it holds functions. Fix: take a bundle that spoter-kit exported",
        ),
        (with_external_weights, BundleError, "refused: its weights are in another file"),
        (with_large_tensor, BundleError, "refused: a tensor is larger than its values"),
        (with_foreign_operator, BackendError, "has an operator 'org.example.Add', which spoter-kit "),
        (with_training, BundleError, "refused: it holds training"),
    ],
)
def test_a_file_that_could_do_harm_is_refused(bundle_folder, tmp_path, change, error, message):
    model = onnx.load(bundle_folder / "model.onnx")
    change(model)
    path = write(tmp_path / "bad.onnx", model)
    with pytest.raises(error, match=re.escape(message)):
        check_onnx_file(path.read_bytes())
    with pytest.raises(error, match=re.escape(message)):
        Recognizer.load(path)


@pytest.mark.parametrize("content", [b"", b"text", b"\x00" * 100, b"\xff" * 100, b"\x3a\xff\xff\xff\xff\x0f"])
def test_a_file_of_another_kind_is_refused(content):
    with pytest.raises(BundleError, match="the ONNX model: refused"):
        check_onnx_file(content)


def number(value):
    """A whole number of protobuf."""
    return bytes([value & 0x7F]) if value < 128 else bytes([value & 0x7F | 0x80]) + number(value >> 7)


def part(field, content):
    """A field of bytes."""
    return number(field << 3 | 2) + number(len(content)) + content


NODE = part(4, b"Add")
LOOP = part(4, b"Loop")


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (part(1, LOOP + number(4 << 3 | 5) + b"Relu"), "a node has a field 4 of wire type 5"),
        (part(1, LOOP + number(4 << 3 | 1) + b"Identity"), "a node has a field 4 of wire type 1"),
        (part(1, LOOP + NODE), "a node has field 4 twice"),
        (
            number((1 << 3 | 2) + (1 << 32)) + part(1, LOOP)[1:],
            "the graph has a field 536870913 of wire type 2",
        ),
        (b"\x8a\x80\x80\x80\x80\x00" + part(1, NODE)[1:], "the graph has a field 1 of wire type 2"),
        (b"\x02\x00", "the graph has a field 0 of wire type 2"),
        (part(99, b""), "the graph has a field 99"),
        (part(1, NODE + part(10, b"")), "a node has a field 10"),
        (part(5, part(3, b"")), "a tensor has a field 3 "),
        (part(5, number(14 << 3) + b"\x01"), "its weights are in another file"),
        (part(5, number(1 << 3) + b"\xff" * 9 + b"\x02"), "a number of more than 64 bits"),
        (part(1, NODE + part(5, part(6, b""))), "an attribute has a field 6 "),  # a graph
        (part(1, NODE + part(5, part(11, b""))), "an attribute has a field 11 "),  # graphs
        (part(1, NODE + part(5, part(21, b"x"))), "an attribute has a field 21 "),  # a function's attribute
        (part(1, NODE + part(5, part(22, b""))), "an attribute has a field 22 "),  # sparse values
        (part(1, NODE + part(5, part(5, part(13, b"")))), "its weights are in another file"),
        (part(1, NODE + part(5, part(5, number(14 << 3) + b"\x01"))), "its weights are in another file"),
        (part(1, NODE + part(5, part(5, number(1 << 3) + b"\x7f"))), "a tensor is larger than its values"),
    ],
)
def test_what_two_readers_could_take_differently_is_refused(graph, message):
    with pytest.raises(BundleError, match=re.escape(message)):
        check_onnx_file(part(7, graph))


def test_cut_files_are_refused_or_whole(bundle_folder):
    content = (bundle_folder / "model.onnx").read_bytes()
    for size in range(1, len(content), len(content) // 40):
        with pytest.raises((BundleError, BackendError)):
            check_onnx_file(content[:size])


def test_what_a_gpu_session_needs_to_know_is_read_or_refused(bundle_folder):
    described = describe_onnx_file((bundle_folder / "model.onnx").read_bytes())
    assert described.opset == 20
    with pytest.raises(BundleError, match="refused: a type has a field 1 of wire type 2"):
        describe_onnx_file(part(7, part(11, part(1, b"x") + part(2, part(1, part(1, b"f"))))))
