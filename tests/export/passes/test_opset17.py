"""A graph for TensorRT 8.6: the operators of opset 17 alone, and the same answers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from spoter_export.passes.opset17 import opset_17
from spoter_export.probes import generated_poses
from spoter_runtime.errors import ExportError
from spoter_runtime.ort.runner import OrtRunner

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture(scope="module")
def both(exported):
    graph = onnx.load_from_string(exported.bundle.read("model.onnx"))
    return graph, opset_17(graph)


def test_the_graph_has_opset_17_and_no_operator_that_8_6_lacks(both):
    before, after = both
    assert [(entry.domain, entry.version) for entry in after.opset_import] == [("", 17)]
    assert after.ir_version == 8
    operators = {node.op_type for node in after.graph.node}
    assert "Gelu" in {node.op_type for node in before.graph.node}
    assert {"Erf", "LayerNormalization"} <= operators
    assert not operators & {"Gelu", "Attention"}
    for node in after.graph.node:
        names = {attribute.name for attribute in node.attribute}
        assert (
            not names & {"num_outputs", "start", "end", "noop_with_empty_axes"} or node.op_type == "ReduceSum"
        )


def test_the_answers_are_the_same_for_every_shape(both, contract):
    before, after = (OrtRunner(graph.SerializeToString()) for graph in both)
    rng = np.random.default_rng(0)
    for batch, frames in ((1, 1), (1, 99), (3, 37), (8, 99)):
        poses, lengths = generated_poses(rng, batch, frames), rng.integers(1, frames + 1, batch, np.int32)
        expected, got = before.infer(poses, lengths), after.infer(poses, lengths)
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_int64_is_shapes_and_axes_alone_and_fits_int32(both):
    _, after = both
    assert {value.type.tensor_type.elem_type for value in after.graph.input} == {FLOAT, TensorProto.INT32}
    wide = [onnx.numpy_helper.to_array(t) for t in after.graph.initializer if t.data_type == INT64]
    assert wide
    assert max(int(np.abs(array).max(initial=0)) for array in wide) <= np.iinfo(np.int32).max
    inferred = onnx.shape_inference.infer_shapes(after).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input)}
    types |= {t.name: t.data_type for t in after.graph.initializer}
    arithmetic = [n for n in after.graph.node if n.op_type in ("MatMul", "Gemm", "LayerNormalization", "Erf")]
    assert {types[node.input[0]] for node in arithmetic} == {FLOAT}


def test_the_bytes_depend_on_nothing_else(both):
    before, after = both
    assert opset_17(before).SerializeToString(deterministic=True) == after.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            helper.make_node("Mish", ["x"], ["y"], "a"),
            "node a: the operator Mish is not rewritten for TensorRT 8.6",
        ),
        (helper.make_node("Gelu", ["x"], ["y"], "a", approximate="tanh"), "only the exact Gelu"),
    ],
)
def test_an_operator_without_a_form_in_opset_17_is_named(onnx_model, node, message):
    shape = (FLOAT, [2, 3])
    with pytest.raises(ExportError, match=message):
        opset_17(onnx_model([node], {"x": shape}, {"y": shape}))


def test_a_part_of_a_shape_is_cut_out_of_the_whole(onnx_model):
    node = helper.make_node("Shape", ["x"], ["y"], "a", start=1, end=3)
    graph = opset_17(onnx_model([node], {"x": (FLOAT, ["n", "m", 4])}, {"y": (INT64, [2])}))
    assert [node.op_type for node in graph.graph.node] == ["Shape", "Slice"]
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.zeros((2, 3, 4), np.float32)})[0].tolist() == [3, 4]
