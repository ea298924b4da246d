"""The fp16 graph takes and gives the same; its casts are few, and what does not fit fp16 is refused."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from spoter_export.parity.compare import run_parity
from spoter_export.precision.fp16 import check_fp16_range, fp16_from_fp32, rounded_from_fp16
from spoter_export.probes import generated_clips
from spoter_export.to_onnx import check_graph, onnx_from_module
from spoter_runtime.contract import METADATA_KEY
from spoter_runtime.errors import BackendError, ExportError
from spoter_runtime.runner import pad_clips


@pytest.fixture(scope="module")
def fp32(bundle_folder):
    """The small model's graph, not to be changed."""
    return onnx.load(bundle_folder / "model.onnx")


@pytest.fixture(scope="module")
def fp16(fp32):
    """The same, lowered."""
    return fp16_from_fp32(fp32)


class TwoLayers(nn.Module):
    """Normalisation that fp16 could not do, a layer, a constant in the middle, another layer."""

    def __init__(self, scale=1.0, constant=2.0):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(108, 8)
        self.last = nn.Linear(8, 3)
        self.constant = constant
        with torch.no_grad():
            self.first.weight *= scale

    def forward(self, poses, lengths):
        real = torch.arange(poses.shape[1]) < lengths[:, None]
        seen = torch.where(real[:, :, None] & ~poses.isnan(), poses, 0.0)
        middle = (seen * 1e6).sum(1) / (lengths[:, None] * 1e6)
        return self.last(torch.relu(self.first(middle)) * self.constant)


@pytest.fixture
def two_layers(made_once, three_labels):
    """Return two_layers(...) → the exported graph."""

    def two_layers(**options):
        name = "two-layers-" + "-".join(f"{name}-{value}" for name, value in options.items())
        return made_once(name, lambda folder: onnx_from_module(TwoLayers(**options), three_labels))

    return two_layers


def types_of(model):
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in graph.initializer
    }


def added_casts(before, after):
    count = Counter(node.op_type for node in after.graph.node)
    return count["Cast"] - Counter(node.op_type for node in before.graph.node)["Cast"]


def test_the_contract_still_holds(fp16, contract):
    check_graph(fp16, contract)
    assert json.loads(fp16.metadata_props[0].value) == json.loads(json.dumps(contract.as_json()))
    assert [entry.key for entry in fp16.metadata_props] == [METADATA_KEY]


def test_the_graph_that_was_given_is_left_as_it_is(fp32):
    before = fp32.SerializeToString(deterministic=True)
    fp16_from_fp32(fp32)
    assert fp32.SerializeToString(deterministic=True) == before


def test_the_bytes_are_the_same_every_time(fp32, fp16):
    assert fp16_from_fp32(fp32).SerializeToString(deterministic=True) == fp16.SerializeToString(
        deterministic=True
    )


def test_features_and_mask_are_cast_once_and_the_last_layer_takes_one_cast_back(fp32, fp16):
    casts = [node for node in fp16.graph.node if node.name.startswith("cast_")]
    # Features, the mask for all heads of a layer, the mask for the class token's; and the way back.
    assert [helper.get_attribute_value(node.attribute[0]) for node in casts] == [10, 10, 10, 1]
    assert added_casts(fp32, fp16) == 4


def test_every_product_but_the_last_is_in_fp16(fp16):
    types = types_of(fp16)
    products = [node for node in fp16.graph.node if node.op_type in ("MatMul", "Gemm")]
    found = [{types[name] for name in (*node.input, *node.output)} for node in products]
    assert found[:-1] == [{TensorProto.FLOAT16}] * (len(products) - 1)
    assert found[-1] == {TensorProto.FLOAT}


def test_weights_are_stored_once_and_in_fp16(fp32, fp16):
    types = {t.name: t.data_type for t in fp16.graph.initializer if t.dims}
    last_layer = {name for name in fp32.graph.node[-1].input if name in types}
    assert len(last_layer) == 2
    doubled = [name for name in types if f"{name}_fp16" in types]
    assert doubled == []
    small = {t.name for t in fp16.graph.initializer if np.prod(t.dims) <= 2}  # the centre of signing space
    matrices = [t for t in fp16.graph.initializer if len(t.dims) > 1 and t.name not in last_layer | small]
    assert {t.data_type for t in matrices} - {TensorProto.INT64} == {TensorProto.FLOAT16}
    assert fp16.ByteSize() < 0.65 * fp32.ByteSize()


def test_what_comes_before_the_first_layer_stays_fp32(two_layers, runner_of):
    model = two_layers()
    lowered = fp16_from_fp32(model)
    poses = np.full((1, 30, 108), 0.75, np.float32)  # times 1e6 it is far beyond fp16
    expected = runner_of(model).infer(poses)
    np.testing.assert_allclose(runner_of(rounded_from_fp16(lowered)).infer(poses), expected, atol=2e-3)


def test_no_rounding_is_dropped_by_onnx_runtime(fp16, tmp_path):
    tensors = {node.output[0] for node in rounded_from_fp16(fp16).graph.node if node.name.startswith("make_")}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(rounded_from_fp16(fp16).SerializeToString(), options)
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    # What runs in fp32 reads and makes tensors of its own, with other names.
    kept = {node.output[0] for node in nodes if node.name.startswith("make_")}
    assert kept == tensors
    assert len(tensors) > 130


def test_the_answers_are_those_of_fp32_within_what_fp16_holds(fp32, fp16, contract, runner_of):
    facts = run_parity(runner_of(fp32), runner_of(rounded_from_fp16(fp16)))
    assert 1e-5 < facts.max_logit_diff < 2e-2  # neither the same graph, nor another model
    assert all(point.error is None for point in facts.grid)


def test_keeping_an_operator_in_fp32_casts_around_it(fp32, fp16):
    kept = fp16_from_fp32(fp32, keep_fp32={"LayerNormalization"})
    types = types_of(kept)
    norms = [node for node in kept.graph.node if node.op_type == "LayerNormalization"]
    assert {types[name] for node in norms for name in (*node.input, *node.output)} == {TensorProto.FLOAT}
    assert added_casts(fp16, kept) == 2 * len(norms)


def test_keeping_a_node_by_name_keeps_that_node_only(fp32):
    name = next(node.name for node in fp32.graph.node if node.op_type == "Softmax")
    types = {
        node.name: types_of(kept)[node.output[0]]
        for kept in [fp16_from_fp32(fp32, keep_fp32={name})]
        for node in kept.graph.node
        if node.op_type == "Softmax"
    }
    assert [node for node, kind in types.items() if kind == TensorProto.FLOAT] == [name]
    assert len(types) > 1


def test_a_name_that_is_not_in_the_graph_is_refused(fp32):
    with pytest.raises(ExportError, match=r"keep_fp32: no operator or node of the graph is called 'Sofmax'"):
        fp16_from_fp32(fp32, keep_fp32={"Sofmax"})


def test_a_graph_of_one_layer_is_refused(average_graph):
    with pytest.raises(ExportError, match=r"fp16 has nothing to do here"):
        fp16_from_fp32(average_graph)


def test_a_graph_that_is_fp16_already_is_refused(fp16):
    with pytest.raises(ExportError, match=r"fp16 has nothing to do here"):
        fp16_from_fp32(fp16)


def test_a_weight_beyond_fp16_is_refused_by_name_and_value(two_layers):
    model = two_layers(scale=1e6)
    weight = next(t for t in model.graph.initializer if t.name == "first.weight")
    largest = numpy_helper.to_array(weight).ravel()
    value = largest[np.abs(largest).argmax()]
    message = rf"first\.weight, read by Gemm '\S+': {value:.6g} does not fit fp16, which holds 65504\. Fix: "
    with pytest.raises(ExportError, match=message):
        fp16_from_fp32(model)


def test_a_lone_constant_that_would_become_zero_is_refused(two_layers):
    with pytest.raises(ExportError, match=r"read by Mul '\S+': 1e-12 becomes 0 in fp16\. Fix: keep_fp32="):
        fp16_from_fp32(two_layers(constant=1e-12))


def test_activations_within_fp16_are_measured(fp32, contract):
    largest = check_fp16_range(fp32, [pad_clips([clip]) for clip in generated_clips(contract, 0).clips])
    assert 1 < largest.magnitude < 65504
    assert largest.tensor in {name for node in fp32.graph.node for name in node.output}


def test_an_activation_beyond_fp16_is_refused_by_node_and_value(two_layers, make_clip):
    model = two_layers(constant=1e4)
    batches = [pad_clips([make_clip() * 100])]
    with pytest.raises(
        ExportError, match=r"^Mul '\S+' at last: 'mul\S*' reaches \S+ on clips of shape \(1, 20, 108\)"
    ):
        check_fp16_range(model, batches)


def test_what_the_range_check_refuses_overflows_where_all_tensors_are_rounded(
    two_layers, make_clip, runner_of
):
    poses, lengths = pad_clips([make_clip() * 100])
    lowered = fp16_from_fp32(two_layers(constant=1e4))
    with pytest.raises(BackendError, match="logits are not finite"):
        runner_of(rounded_from_fp16(lowered)).infer(poses, lengths)


def test_the_proof_rounds_wherever_the_graph_says_so(two_layers, runner_of):
    model = two_layers()
    poses = np.random.default_rng(0).random((7, 30, 108), np.float32)
    weights = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in model.graph.initializer}

    def half(values):
        return values.astype(np.float16).astype(np.float32)

    layer = half(poses.mean(1)) @ half(weights["first.weight"]).T + half(weights["first.bias"])
    middle = half(np.maximum(half(layer), 0) * 2)
    expected = middle @ weights["last.weight"].T + weights["last.bias"]
    got = runner_of(rounded_from_fp16(fp16_from_fp32(model))).infer(poses)
    assert np.median(np.abs(got - expected)) < 1e-6  # a sum in another order may round to the neighbour
    assert np.median(np.abs(runner_of(model).infer(poses) - expected)) > 1e-5
