"""The first tensor that differs is found by its name, and the graph that is written still shows it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from spoter_export.diagnose.bisect import first_divergence, values_of_graph
from spoter_export.precision.fp16 import fp16_from_fp32

POSES = np.random.default_rng(0).random((2, 5, 108), np.float32)
LENGTHS = np.array([5, 3], np.int32)


def graph(change=None):
    """Two layers with a normalisation between them; `change(weights)` alters one of the weights."""
    rng = np.random.default_rng(1)
    weights = {
        "first.weight": rng.normal(0, 0.1, (108, 16)),
        "norm.weight": rng.normal(1, 0.1, 16),
        "norm.bias": rng.normal(0, 0.1, 16),
        "second.weight": rng.normal(0, 0.3, (16, 12)),
        "third.weight": rng.normal(0, 0.3, (12, 3)),
    }
    if change:
        change(weights)
    nodes = [
        helper.make_node("MatMul", ["poses", "first.weight"], ["projected"]),
        helper.make_node("Relu", ["projected"], ["kept"]),
        helper.make_node(
            "LayerNormalization", ["kept", "norm.weight", "norm.bias"], ["normed"], epsilon=1e-5
        ),
        helper.make_node("MatMul", ["normed", "second.weight"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "third.weight"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axes"], ["logits"], keepdims=0),
    ]
    initializers = [numpy_helper.from_array(np.float32(value), name) for name, value in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([1]), "axes"))
    made = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info("poses", TensorProto.FLOAT, ["batch", "frames", 108]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        initializers,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def values():
    return values_of_graph(graph(), POSES, LENGTHS)


def test_the_same_graph_differs_nowhere(values):
    assert first_divergence(graph(), values) is None
    assert first_divergence(graph(), values, optimise=True) is None


def test_a_changed_weight_is_met_where_it_is_read(values):
    def change(weights):
        weights["second.weight"][3, 4] += 0.01

    found = first_divergence(graph(change), values, module_of={"hidden": "head.second"})
    assert (found.tensor, found.module, found.weights) == ("hidden", "head.second", ("second.weight",))
    assert str(found).startswith(
        "the first tensor that differs is 'hidden' (MatMul, module head.second, reads second.weight): by "
    )


def test_an_attribute_is_found_too(values):
    faulty = graph()
    faulty.graph.node[2].attribute[0].f = 1e-3
    found = first_divergence(faulty, values)
    assert (found.tensor, found.operator, found.module) == ("normed", "LayerNormalization", None)


def test_a_node_that_cannot_run_is_found_with_the_engines_words(values):
    def change(weights):
        weights["second.weight"] = weights["second.weight"][:15]

    found = first_divergence(graph(change), values)
    assert (found.tensor, found.difference) == ("hidden", None)
    assert "it cannot be computed: " in str(found)


def test_what_is_written_still_shows_it(values, tmp_path):
    def change(weights):
        weights["norm.bias"][0] = 9

    found = first_divergence(graph(change), values)
    found.write(tmp_path / "found")
    model = onnx.load(tmp_path / "found" / "smallest.onnx")
    assert [node.op_type for node in model.graph.node] == ["LayerNormalization"]
    with np.load(tmp_path / "found" / "tensors.npz") as arrays:
        inputs = {name.removeprefix("input "): arrays[name] for name in arrays if name.startswith("input ")}
        (got,) = ort.InferenceSession(model.SerializeToString()).run(None, inputs)
        np.testing.assert_array_equal(got, arrays["got"])
        assert np.abs(got - arrays["expected"]).max() > 1
    facts = json.loads((tmp_path / "found" / "divergence.json").read_text())
    assert (facts["tensor"], facts["nodes"], facts["inputs"]) == ("normed", 1, {"kept": [2, 5, 16]})


def test_rounding_to_fp16_is_no_divergence_and_a_value_beyond_it_is(values):
    assert first_divergence(fp16_from_fp32(graph()), values, precision="fp16") is None
    assert first_divergence(fp16_from_fp32(graph()), values).tensor == "projected"  # in fp32 it would be one
    large = dict(values) | {"kept": values["kept"] * 1e7}
    found = first_divergence(fp16_from_fp32(graph()), large, precision="fp16")
    assert (found.tensor, found.difference) == ("kept", pytest.approx(1, abs=0.1))


def test_what_only_the_optimiser_breaks_is_found_with_all_the_nodes_that_it_needs(onnx_model):
    # ONNX Runtime multiplies the two weights beforehand, which is more than float32 holds.
    nodes = [
        helper.make_node("Relu", ["poses"], ["seen"]),
        helper.make_node("Conv", ["seen", "kernel"], ["small"]),
        helper.make_node("Mul", ["small", "factor"], ["logits"]),
    ]
    huge, four = np.full((1, 1, 1), 1e30, np.float32), (TensorProto.FLOAT, [1, 1, 4])
    model = onnx_model(nodes, {"poses": four}, {"logits": four}, {"kernel": huge, "factor": huge})
    poses = np.full((1, 1, 4), 1e-30, np.float32)
    session = ort.SessionOptions()
    session.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    plain.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("seen", "small"))
    run = ort.InferenceSession(plain.SerializeToString(), session)
    names = [output.name for output in run.get_outputs()]
    values = {"poses": poses} | dict(zip(names, run.run(names, {"poses": poses}), strict=True))
    assert first_divergence(model, values) is None
    found = first_divergence(model, values, optimise=True)
    assert (found.tensor, found.difference) == ("logits", np.inf)
    assert [node.op_type for node in found.graph.graph.node] == ["Conv", "Mul"]
