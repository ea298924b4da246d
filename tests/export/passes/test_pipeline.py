"""A lowered graph has less to do and gives the same answers; what it does not know it leaves alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from spoter_export.parity.compare import run_parity
from spoter_export.passes.attention import (
    OPSET_OF_ATTENTION,
    absorb_single_query,
    absorb_single_query_into_one_operator,
    attend_in_one_operator,
    pack_projections,
)
from spoter_export.passes.folding import fold_constants, fold_feature_order, fold_feature_weights
from spoter_export.passes.gemm import add_in_gemm, rows_as_gemm
from spoter_export.passes.graph import NewNodes, weight_of
from spoter_export.passes.pipeline import (
    FOR_ORT,
    PORTABLE,
    SIMPLER,
    SIMPLER_FOR_ORT,
    lowered,
    optimised_by_onnxruntime,
)
from spoter_export.passes.reshape import constant_shapes
from spoter_export.probes import probe_batches
from spoter_export.to_onnx import OPSET, ORT_DOMAIN, check_graph, onnx_from_module, opset_of
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.errors import ExportError
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.ort.session import SessionSettings


@pytest.fixture(scope="module")
def exported_graph(small_graph):
    return small_graph


@pytest.fixture(scope="module")
def plain_graph(made_once, small_model, contract):
    """SPOTER: its last layer asks for the class token alone, and its head is another."""
    from spoter_toolkit.model.spoter import Spoter

    def make(folder):
        torch.manual_seed(1)
        return onnx_from_module(Spoter(replace(small_model.config, architecture="spoter")), contract)

    return made_once("plain-graph", make)


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


@pytest.fixture(scope="module")
def model_of_all_parts(small_model):
    """The small model with the parts that settings add, none of them at rest."""
    from spoter_toolkit.model.spoter import BdslSpoter

    torch.manual_seed(1)
    model = BdslSpoter(replace(small_model.config, hand_place=True, temporal_frames=5)).eval()
    with torch.no_grad():
        model.temporal.weight.normal_()
        model.temporal.bias.fill_(0.5)
        model.bdsl_classifier[-1].weight *= 5
    return model


@pytest.mark.parametrize("passes", [PORTABLE, FOR_ORT], ids=["portable", "for ORT"])
def test_a_model_with_every_part_answers_as_torch_does(
    passes, contract, model_of_all_parts, made_once, runner_of
):
    graph = made_once("graph-of-all-parts", lambda folder: onnx_from_module(model_of_all_parts, contract))
    simple = lowered(graph, passes, batches=probe_batches(contract))
    facts = run_parity(TorchRunner(model_of_all_parts, contract), runner_of(simple))
    assert facts.max_logit_diff < 5e-6
    assert len(simple.graph.node) < len(graph.graph.node) - 25


@pytest.mark.parametrize("passes", [PORTABLE, FOR_ORT], ids=["portable", "for ORT"])
@pytest.mark.parametrize("name", ["exported_graph", "plain_graph"])
def test_the_answers_are_the_same_over_every_shape_and_the_graph_is_the_contracts(
    name, passes, contract, request, runner_of
):
    graph = request.getfixturevalue(name)
    simple = lowered(graph, passes, batches=probe_batches(contract))
    check_graph(simple, contract, opset=OPSET if passes is PORTABLE else OPSET_OF_ATTENTION)
    facts = run_parity(runner_of(graph), runner_of(simple))
    assert facts.max_logit_diff < 2e-6
    assert len(simple.graph.node) < len(graph.graph.node) - 25


def test_what_onnx_runtime_has_optimised_needs_no_optimising_and_suits_every_processor(
    exported_graph, contract, runner_of
):
    graph = lowered(exported_graph, FOR_ORT)
    optimised = optimised_by_onnxruntime(graph)
    check_graph(optimised, contract, opset=OPSET_OF_ATTENTION, domains=(ORT_DOMAIN,))
    assert {entry.domain for entry in optimised.opset_import} == {"", ORT_DOMAIN}  # no layouts of a processor
    assert operators(optimised)["FusedGemm"] == 2  # two layers: the product and the activation after it
    assert operators(optimised_by_onnxruntime(optimised)) == operators(optimised)
    as_it_is = OrtRunner(optimised.SerializeToString(), settings=SessionSettings(optimise=False))
    assert run_parity(runner_of(graph), as_it_is).max_logit_diff == 0


def test_one_attention_needs_one_product_one_transposition_for_all_and_one_of_the_keys(exported_graph):
    before, after = (operators(lowered(exported_graph, passes)) for passes in ([], [pack_projections]))
    assert before["MatMul"] - after["MatMul"] == 2 * 2  # two layers: three products have become one
    # Of queries and values one each and of keys three; now one of all three and one of the keys.
    assert before["Transpose"] - after["Transpose"] == 2 * (5 - 3)
    assert before["Softmax"] == after["Softmax"] == 3


def test_one_query_a_clip_needs_no_keys_and_no_values(exported_graph, plain_graph):
    for graph, layers_over_all_tokens in ((exported_graph, 2), (plain_graph, 1)):
        folded = lowered(graph, [fold_constants])
        absorbed = lowered(folded, [absorb_single_query])
        weights = {tensor.name for tensor in absorbed.graph.initializer}
        over_tokens = [n for n in absorbed.graph.node if n.op_type == "MatMul" and n.input[1] in weights]
        # Queries, keys, values, output and two of the feed-forward block for each layer; and the projection.
        rest = 2 if graph is plain_graph else 0  # the feed-forward block of the class token alone
        assert len(over_tokens) == 6 * layers_over_all_tokens + 1 + rest
        assert operators(absorbed)["Gemm"] == operators(folded)["Gemm"] + 2


def test_one_operator_takes_all_between_projections_and_joined_heads(exported_graph, plain_graph):
    for graph in (exported_graph, plain_graph):
        fused = operators(lowered(graph, SIMPLER_FOR_ORT))
        layers = operators(lowered(graph, [fold_constants]))["Softmax"]
        assert fused["Attention"] == layers
        assert not fused["Softmax"]
        assert not fused["Pad"]  # the mask is gone with its scores


def test_a_newer_opset_means_the_same_for_the_rest_of_the_graph(exported_graph):
    """attend_in_one_operator changes the number alone; onnx's own converter has nothing to add to it."""
    from onnx.version_converter import convert_version

    assert opset_of(lowered(exported_graph)) == OPSET
    assert opset_of(lowered(exported_graph, FOR_ORT)) == OPSET_OF_ATTENTION
    for graph in (exported_graph, lowered(exported_graph)):
        assert operators(convert_version(graph, OPSET_OF_ATTENTION)) == operators(graph)


def test_linear_layers_over_tokens_are_single_operators(exported_graph):
    simple = lowered(exported_graph, PORTABLE)
    weights = {tensor.name for tensor in simple.graph.initializer}
    assert not [n for n in simple.graph.node if n.op_type == "MatMul" and n.input[1] in weights]
    before = lowered(exported_graph, SIMPLER)
    # Into the projection, into the encoder and out of each, and to and from the heads of two layers.
    assert operators(simple)["Reshape"] - operators(before)["Reshape"] == 4 + 2 * 2
    assert operators(simple)["Add"] < operators(before)["Add"] - 6


def test_nothing_is_computed_from_weights_alone(exported_graph):
    simple = lowered(exported_graph, PORTABLE)
    weights = {tensor.name for tensor in simple.graph.initializer}
    assert not [node.name for node in simple.graph.node if weights.issuperset(filter(None, node.input))]


@pytest.mark.parametrize("passes", [PORTABLE, FOR_ORT], ids=["portable", "for ORT"])
def test_a_pass_that_finds_nothing_more_leaves_the_graph_as_it_is(exported_graph, passes):
    once = lowered(exported_graph, passes)
    assert lowered(once, passes).SerializeToString(deterministic=True) == once.SerializeToString(
        deterministic=True
    )


def test_the_graph_that_was_given_is_left_as_it_is_and_equal_graphs_give_equal_bytes(exported_graph):
    before = exported_graph.SerializeToString(deterministic=True)
    first, second = (lowered(exported_graph).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert exported_graph.SerializeToString(deterministic=True) == before


def test_what_is_called_as_before_is_what_it_was(exported_graph, contract):
    """Bisecting compares two forms of a graph by the names of their tensors."""
    from spoter_export.diagnose.bisect import values_of_graph

    ((poses, lengths), *_) = probe_batches(contract)
    before = values_of_graph(exported_graph, poses, lengths)
    for passes in (PORTABLE, FOR_ORT):
        after = values_of_graph(lowered(exported_graph, passes), poses, lengths)
        same = before.keys() & after.keys()
        assert len(same) > 100
        for name in same:
            assert before[name].shape == after[name].shape, name
            np.testing.assert_allclose(after[name], before[name], rtol=1e-3, atol=1e-3, err_msg=name)


def test_a_pass_that_changes_the_answers_is_named(exported_graph, contract):
    def faulty_pass(model):
        norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
        norm.attributes.add(ir.AttrFloat32("epsilon", 0.5))

    with pytest.raises(ExportError, match=r"faulty_pass: the graph that it made gives other logits, by \d"):
        lowered(exported_graph, [faulty_pass], batches=probe_batches(contract))


def test_a_pass_that_makes_no_valid_graph_is_named(exported_graph):
    def breaking_pass(model):
        model.graph[0].replace_input_with(0, ir.Value(name="nowhere"))

    with pytest.raises(ExportError, match=r"breaking_pass: the graph that it made is not valid ONNX: "):
        lowered(exported_graph, [breaking_pass])


def test_what_a_layers_output_is_added_to_is_where_it_begins(exported_graph, contract):
    rows = lowered(exported_graph, [*SIMPLER, rows_as_gemm])
    added = lowered(rows, [add_in_gemm], batches=probe_batches(contract))
    # Two in each layer; before the first one there is no normalisation that could take its bias.
    assert operators(rows)["Add"] - operators(added)["Add"] == 2 * 2 - 1
    assert operators(rows)["Gemm"] == operators(added)["Gemm"]


def test_shapes_are_constants_where_sizes_stay(exported_graph):
    def computed(model):
        weights = {tensor.name for tensor in model.graph.initializer}
        return [n for n in model.graph.node if n.op_type == "Reshape" and n.input[1] not in weights]

    folded = lowered(exported_graph, [fold_constants, pack_projections])
    assert len(computed(folded)) > 3
    # What is left is the class token's attention.
    assert len(computed(lowered(folded, [constant_shapes]))) <= len(computed(folded)) - 4


def test_landmarks_are_not_put_back_into_their_order(exported_graph):
    before = lowered(exported_graph, [fold_constants, fold_feature_weights])
    after = lowered(before, [fold_feature_order])
    assert operators(before)["Transpose"] - operators(after)["Transpose"] == 1


@pytest.mark.parametrize("change", ["counts from 1", "lets a little through", "adds a number"])
def test_a_mask_that_is_not_a_length_keeps_its_scores(exported_graph, contract, change):
    graph = lowered(exported_graph, [fold_constants])
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    node_of = {name: node for node in graph.graph.node for name in node.output}
    less = next(node for node in graph.graph.node if node.op_type == "Less")
    pad = next(node for node in graph.graph.node if node.op_type == "Pad")
    if change == "counts from 1":
        zero, one = node_of[less.input[0]].input[0], node_of[less.input[0]].input[2]
        node_of[less.input[0]].input[0] = one
        assert numpy_helper.to_array(weights[zero]) == 0
    elif change == "lets a little through":
        scale = weights[node_of[pad.input[0]].input[1]]
        scale.CopyFrom(numpy_helper.from_array(np.float32(-3), scale.name))
    else:
        graph.graph.initializer.append(numpy_helper.from_array(np.float32(-1), "a_number"))
        pad.input[2:] = ["a_number"]
    passes = [attend_in_one_operator, absorb_single_query_into_one_operator]
    if change == "counts from 1":  # one number less than the frames: no graph of poses that runs
        after = lowered(graph, passes)
    else:
        after = lowered(graph, passes, batches=probe_batches(contract))
    assert not operators(after)["Attention"]
    assert operators(after)["Softmax"] == operators(graph)["Softmax"]


class TwoAttentions(nn.Module):
    """Attention over frames and one over a class token and frames, in either order, or one query first."""

    def __init__(self, first):
        super().__init__()
        torch.manual_seed(0)
        self.first = first
        self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(108, 108) for _ in range(4)) for _ in range(2))
        self.head = nn.Linear(108, 3)

    def attend(self, layer, asking, tokens, mask):
        q, k, v = (
            part(x).reshape(*x.shape[:2], 4, 27).transpose(1, 2)
            for part, x in zip(layer, (asking, tokens, tokens), strict=False)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return layer[3](attended.transpose(1, 2).flatten(2))

    def forward(self, poses, lengths):
        real = torch.arange(poses.shape[1], dtype=lengths.dtype) < lengths[:, None]
        tokens = torch.where(real[:, :, None] & ~poses.isnan(), poses, 0.0)
        masked = (~real).to(poses.dtype) * -1e4
        mask, longer = masked[:, None, None], nn.functional.pad(masked, (1, 0))[:, None, None]
        if self.first == "one query":
            asked = self.attend(self.layers[0], tokens[:, :1], tokens, mask)
            return self.head((asked + self.attend(self.layers[1], tokens, tokens, mask)).sum(1))
        tokens = self.attend(self.layers[0], tokens, tokens, mask)
        tokens = torch.cat((tokens[:, :1] * 0 + 1, tokens), 1)
        return self.head(self.attend(self.layers[1], tokens, tokens, longer)[:, 0])


@pytest.mark.parametrize("passes", [PORTABLE, FOR_ORT], ids=["portable", "for ORT"])
@pytest.mark.parametrize("first", ["frames", "one query"])
def test_each_attention_counts_its_own_tokens_wherever_it_stands(
    made_once, three_labels, passes, first, runner_of
):
    graph = made_once(
        f"two-attentions-{first}", lambda _: onnx_from_module(TwoAttentions(first), three_labels)
    )
    simple = lowered(graph, passes, batches=probe_batches(three_labels))
    assert operators(simple)["Attention"] == (2 if passes is FOR_ORT else 0)
    assert run_parity(runner_of(graph), runner_of(simple)).max_logit_diff < 1e-4


class AddedToItself(nn.Module):
    """A layer whose input is what its output is added to: it cannot begin with it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.into, self.norm, self.layer = nn.Linear(108, 108), nn.LayerNorm(108), nn.Linear(108, 108)
        self.head = nn.Linear(108, 3)

    def forward(self, poses, lengths):
        real = torch.arange(poses.shape[1], dtype=lengths.dtype) < lengths[:, None]
        rows = self.norm(self.into(torch.where(real[:, :, None] & ~poses.isnan(), poses, 0.0)))
        return self.head((rows + self.layer(rows)) * real[:, :, None]).sum(1)


def test_a_layer_that_reads_what_it_is_added_to_stays(three_labels):
    graph = onnx_from_module(AddedToItself(), three_labels)
    rows = lowered(graph, [*SIMPLER, rows_as_gemm])
    added = lowered(rows, [add_in_gemm], batches=probe_batches(three_labels))
    assert operators(added)["Add"] == operators(rows)["Add"]


def test_a_pass_is_checked_with_padding_even_where_a_batch_holds_one_clip(contract):
    for batch in (1, 3):
        batches = probe_batches(replace(contract, max_batch=batch))
        assert any((lengths < poses.shape[1]).any() for poses, lengths in batches)
        assert max(lengths.max() for _, lengths in batches) > 20
        assert max(len(poses) for poses, _ in batches) == batch


def test_a_constant_does_not_take_the_name_of_another():
    model = toy(
        [
            helper.make_node("MatMul", ["poses", "row"], ["a"]),
            helper.make_node("ReduceMean", ["a", "axes"], ["logits"], keepdims=0),
        ],
        {"row": np.ones((108, 3), np.float32), "axes": np.array([1])},
    )
    new = NewNodes(ir.from_proto(model))
    other = new.constant("row", np.array([0, -1]))
    assert other.name != "row"
    assert new.constant("row", np.array([0, -1])) is other
    assert weight_of(new.model.graph.initializers["row"]).shape == (108, 3)


class Crossed(nn.Module):
    """Attention whose queries are of other tokens, several a clip: no pass but the constants' fits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.queries, self.keys, self.values, self.out = (nn.Linear(108, 108) for _ in range(4))
        self.head = nn.Linear(108, 3)

    def forward(self, poses, lengths):
        real = torch.arange(poses.shape[1]) < lengths[:, None]
        tokens = torch.where(real[:, :, None] & ~poses.isnan(), poses, 0.0)
        asking = tokens.flip(2)[:, :1].expand(-1, 2, -1)
        q, k, v = (
            x.reshape(*x.shape[:2], 4, 27).transpose(1, 2)
            for x in (self.queries(asking), self.keys(tokens), self.values(tokens))
        )
        mask = (~real).to(q.dtype)[:, None, None] * -1e4
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.head(self.out(attended.transpose(1, 2).flatten(2)).sum(1))


@pytest.mark.parametrize("passes", [PORTABLE, FOR_ORT], ids=["portable", "for ORT"])
def test_attention_of_another_form_stays_and_is_right(made_once, three_labels, passes, runner_of):
    graph = made_once("crossed", lambda _: onnx_from_module(Crossed(), three_labels))
    simple = lowered(graph, passes, batches=probe_batches(three_labels))
    assert operators(simple)["Softmax"] == 1
    assert not operators(simple)["Attention"]
    assert run_parity(runner_of(graph), runner_of(simple)).max_logit_diff < 1e-5


def test_tokens_that_somebody_else_reads_are_there_in_their_own_shape():
    """rows_as_gemm: the sum over tokens needs (N, S, E), the next layer rows."""
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.normal(0, 0.1, (108, 108)),
        "first_bias": rng.normal(0, 0.1, 108),
        "second": rng.normal(0, 0.1, (108, 3)),
        "second_bias": rng.normal(0, 0.1, 3),
    }
    model = toy(
        [
            helper.make_node("MatMul", ["poses", "first"], ["a"]),
            helper.make_node("Add", ["a", "first_bias"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("MatMul", ["active", "second"], ["b"]),
            helper.make_node("Add", ["b", "second_bias"], ["scores"]),
            helper.make_node("ReduceMean", ["hidden", "axes"], ["middle"], keepdims=1),
            helper.make_node("MatMul", ["middle", "second"], ["c"]),
            helper.make_node("Add", ["scores", "c"], ["both"]),
            helper.make_node("ReduceMean", ["both", "axes"], ["logits"], keepdims=0),
        ],
        {name: value.astype(np.float32) for name, value in weights.items()} | {"axes": np.array([1])},
    )
    simple = lowered(model, [rows_as_gemm])
    assert operators(simple)["Gemm"] == 2
    poses = rng.random((2, 5, 108), np.float32)
    np.testing.assert_allclose(logits_of(simple, poses), logits_of(model, poses), atol=1e-5)


def toy(nodes, weights, outputs=("logits",)):
    """A graph of the contract's poses alone."""
    shapes = {"logits": ["batch", 3], "weighed": ["batch", "frames", 108]}
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("poses", TensorProto.FLOAT, ["batch", "frames", 108])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def weighed(*, read_twice=False):
    """poses · factors → a product with a weight; the factors can be read by somebody else too."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Mul", ["poses", "factors"], ["weighed"]),
        helper.make_node("MatMul", ["weighed", "weight"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axes"], ["logits"], keepdims=0),
    ]
    weights = {
        "factors": rng.normal(1, 0.1, 108).astype(np.float32),
        "weight": rng.normal(0, 0.1, (108, 3)).astype(np.float32),
        "axes": np.array([1]),
    }
    return toy(nodes, weights, ("logits", "weighed") if read_twice else ("logits",))


def logits_of(model, poses):
    import onnxruntime as ort

    return ort.InferenceSession(model.SerializeToString()).run(["logits"], {"poses": poses})[0]


def test_a_factor_a_feature_goes_into_the_weights_behind_it():
    poses = np.random.default_rng(1).random((2, 4, 108), np.float32)
    simple = lowered(weighed())
    assert [node.op_type for node in simple.graph.node] == ["MatMul", "ReduceMean"]
    assert {tensor.name for tensor in simple.graph.initializer} == {"weight_weighed", "axes"}
    np.testing.assert_allclose(logits_of(simple, poses), logits_of(weighed(), poses), rtol=1e-5)


def test_factors_whose_result_somebody_else_reads_stay():
    assert lowered(weighed(read_twice=True)).graph.node[0].op_type == "Mul"


def test_a_softmax_that_is_no_attention_stays():
    model = toy(
        [
            helper.make_node("ReduceMean", ["poses", "axes"], ["rows"], keepdims=0),
            helper.make_node("Softmax", ["rows"], ["shares"], axis=-1),
            helper.make_node("MatMul", ["shares", "weight"], ["logits"]),
        ],
        {"axes": np.array([1]), "weight": np.ones((108, 3), np.float32)},
    )
    assert operators(lowered(model, FOR_ORT)) == operators(model)
