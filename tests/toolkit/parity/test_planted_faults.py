"""Each fault that deployments are known for, planted into a bundle's file, is found, and the file is blamed.

What a test asserts is what only the check that it is named for can say: without that check it fails.
"""

from __future__ import annotations

import copy
import functools

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from spoter_export.parity.compare import run_parity
from spoter_export.parity.judge import judge
from spoter_export.parity.policy import Policy
from spoter_export.parity.proof import prove
from spoter_export.passes.pipeline import lowered, passes_for
from spoter_export.precision.fp16 import fp16_from_fp32
from spoter_export.precision.int8 import int8_from_fp32
from spoter_export.to_onnx import Traced, check_graph, trace_module
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.backends import open_runner
from spoter_runtime.landmarks import LEFT_HAND, RIGHT_HAND
from spoter_runtime.ort.runner import OrtRunner
from spoter_toolkit.parity.localize import localize
from spoter_toolkit.parity.prove import _as_proven, _weights


@pytest.fixture(scope="module")
def honest(small_model):
    """The small model with a weight of its own for each landmark, so that their order matters."""
    model = copy.deepcopy(small_model)
    weights = torch.rand(54, generator=torch.Generator().manual_seed(1)) + 0.5
    model.signing_space_weights = nn.Parameter(weights)
    return model.eval()


@pytest.fixture(scope="module")
def traced(made_once, honest, contract):
    """Return traced(): what the honest model is exported to, made once."""

    def make(folder):
        found = trace_module(honest, contract)
        torch.export.save(found.program, folder / "program.pt2")
        return found.model, folder / "program.pt2", found.module_of

    def traced():
        model, program, module_of = made_once("honest-trace", make)
        return Traced(model=model, program=torch.export.load(program), module_of=module_of)

    return functools.cache(traced)


@pytest.fixture
def graph(traced):
    """The honest model's graph, to be damaged."""
    model = onnx.ModelProto()
    model.CopyFrom(traced().model)
    return model


def place_of(model, tensor):
    return next(i for i, node in enumerate(model.graph.node) if tensor in node.output)


def read_instead(model, old, new, *, after=-1):
    for node in model.graph.node[after + 1 :]:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def constant(model, name, value):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def insert(model, place, *nodes):
    for i, (operator, inputs, outputs, attributes) in enumerate(nodes):
        model.graph.node.insert(place + i, helper.make_node(operator, inputs, outputs, **attributes))


def attends_to_padding(model):
    """Every clip is said to be as long as the array that holds it."""
    read_instead(model, "lengths", "all_frames")
    nodes = (
        ("Shape", ["poses"], ["frames_64"], {"start": 1, "end": 2}),
        ("Cast", ["frames_64"], ["frames_32"], {"to": onnx.TensorProto.INT32}),
        ("Shape", ["lengths"], ["clips"], {}),
        ("Expand", ["frames_32", "clips"], ["all_frames"], {}),
    )
    insert(model, 0, *nodes)


def positions_shifted(model):
    table = next(t for t in model.graph.initializer if t.name == "positional_encoding.pe")
    table.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(table), 1, axis=0), table.name))


def class_token_last(model):
    """The class token gets the position behind the frames."""
    (expanded,) = (node.output[0] for node in model.graph.node if "class_token" in node.input)
    concat = next(n for n in model.graph.node if expanded in n.input and n.op_type == "Concat")
    concat.input[0], concat.input[1] = concat.input[1], concat.input[0]
    add = next(i for i, node in enumerate(model.graph.node) if concat.output[0] in node.input)
    tokens = model.graph.node[add].output[0]
    read_instead(model, tokens, "rolled", after=add)
    ends = [constant(model, f"at_{i}", np.array([i])) for i in (0, -1, 2**31)]
    along = constant(model, "along", np.array([1]))
    insert(
        model,
        add + 1,
        ("Slice", [tokens, ends[1], ends[2], along], ["last"], {}),
        ("Slice", [tokens, ends[0], ends[1], along], ["others"], {}),
        ("Concat", ["last", "others"], ["rolled"], {"axis": 1}),
    )


def planar_weights(model):
    """w0…w53 w0…w53 meets x0 y0 x1 y1 …, as in the notebook."""
    projected = model.graph.node[place_of(model, "linear") - 1].input[0]
    names = model.graph.node[place_of(model, projected)].input
    weights = next(t for t in model.graph.initializer if t.name in names)
    interleaved = numpy_helper.to_array(weights)
    assert interleaved.shape == (108,)
    weights.CopyFrom(numpy_helper.from_array(np.tile(interleaved[::2], 2), weights.name))


def hands_swapped(model):
    read_instead(model, "poses", "swapped", after=-1)
    order = np.arange(108).reshape(54, 2)
    order[LEFT_HAND], order[RIGHT_HAND] = order[RIGHT_HAND].copy(), order[LEFT_HAND].copy()
    features = constant(model, "order", order.ravel())
    insert(model, 0, ("Gather", ["poses", features], ["swapped"], {"axis": 2}))


def another_epsilon(model):
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "LayerNormalization" and attribute.name == "epsilon":
                attribute.f = 1e-3


# Fault → the tensor's module, or what else bisecting says.
FAULTS = {
    attends_to_padding: "module normalize",
    positions_shifted: "module positional_encoding, reads positional_encoding.pe)",
    class_token_last: "(Concat, module at the top",
    planar_weights: "(Mul, module at the top",
    hands_swapped: "(Slice, module normalize",
    another_epsilon: "(LayerNormalization, module encoder_layers.0.norm1",
}


@pytest.mark.parametrize(("fault", "where"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])
def test_a_fault_of_the_graph_is_found_and_the_file_is_blamed(
    honest, contract, traced, graph, bundle_copy, plant, fault, where
):
    fault(graph)
    check_graph(graph, contract)  # its form is right
    faulty = graph.SerializeToString()
    bundle = plant(bundle_copy, faulty)
    failures = prove(TorchRunner(honest, contract), OrtRunner(faulty), bundle.onnx()).verdict.failures
    assert any("lengths: logits differ by" in failure for failure in failures)
    assert any("clips (generated): logits differ by" in failure for failure in failures)
    moved = [failure for failure in failures if failure.startswith("ort-cpu: padding")]
    # Behind the frames, the class token's position is that of the padding's end.
    assert bool(moved) == (fault in (attends_to_padding, class_token_last))
    found = localize(bundle, honest, "ort-cpu", traced=traced)
    assert str(found.broken).startswith("model.onnx: differs from ONNX exported now, lowered by ")
    assert where in str(found.bisect())


def test_an_axis_frozen_by_export_is_found_though_the_file_declares_it_dynamic(
    honest, contract, traced, graph, bundle_copy, plant
):
    reshape = next(node for node in graph.graph.node if node.op_type == "Reshape")
    reshape.input[1] = constant(graph, "frozen", np.array([3, 37, 2, 54]))  # coordinates, landmarks
    check_graph(graph, contract)  # its form is right
    faulty = graph.SerializeToString()
    bundle = plant(bundle_copy, faulty)
    failures = prove(TorchRunner(honest, contract), OrtRunner(faulty), bundle.onnx()).verdict.failures
    refused = "ort-cpu cannot run it: ort-cpu: failed on poses (1, 1, 108)"
    assert any(failure.startswith(f"1 clips × 1 frames, full lengths: {refused}") for failure in failures)
    assert any(failure.startswith("clips (generated): no answer: ") for failure in failures)
    assert any(failure.startswith("ort-cpu: batch composition: no answer: ") for failure in failures)
    found = localize(bundle, honest, "ort-cpu", traced=traced)
    assert str(found.broken).startswith("model.onnx gives no answer: ort-cpu: failed on poses")
    assert "(Reshape, module normalize): it cannot be computed: " in str(found.bisect())


def test_scores_that_overflow_fp16_before_the_softmax_are_found_and_their_layer_blamed(
    honest, contract, traced, graph, bundle_copy, plant
):
    """Scaled after the product, not before it: by powers of two the same in fp32, and infinite in fp16.

    ONNX Runtime's CPU provider computes such scores in fp32 whatever the file says, so only the file with
    every tensor rounded shows it.
    """
    in_fp16 = fp16_from_fp32(graph)
    softmax = [i for i, node in enumerate(in_fp16.graph.node) if node.op_type == "Softmax"][1]
    add = place_of(in_fp16, in_fp16.graph.node[softmax].input[0])
    scores = in_fp16.graph.node[add].input[0]
    product = place_of(in_fp16, scores)
    large = constant(in_fp16, "large", np.float16(2**9))
    back = constant(in_fp16, "back", np.float16(2**-9))
    queries, keys = in_fp16.graph.node[product].input
    in_fp16.graph.node[product].input[:] = ["large_queries", "large_keys"]
    in_fp16.graph.node[product].output[0] = "large_scores"
    after = [("Mul", ["large_scores", back], ["smaller"], {}), ("Mul", ["smaller", back], [scores], {})]
    insert(in_fp16, product + 1, *after)
    before = [("Mul", [queries, large], ["large_queries"], {}), ("Mul", [keys, large], ["large_keys"], {})]
    insert(in_fp16, product, *before)
    bundle = plant(plant(bundle_copy, graph.SerializeToString()).folder, in_fp16.SerializeToString(), "fp16")
    reference = TorchRunner(honest, contract)
    kind = prove(reference, OrtRunner(in_fp16.SerializeToString()), bundle.onnx("fp16"))
    assert kind.verdict.passed
    opened = open_runner(bundle, "ort-cpu", precision="fp16")
    rounded = _as_proven("ort-cpu:fp16", opened.runner, opened.artefact, bundle)  # as `parity` runs it
    failures = prove(reference, rounded, bundle.onnx("fp16")).verdict.failures
    assert any("logits are not finite" in failure for failure in failures)
    found = localize(bundle, honest, "ort-cpu:fp16", traced=traced)
    assert str(found.broken).startswith("model.fp16.onnx, every tensor rounded gives no answer: ")
    assert "module encoder_layers.1.self_attention" in str(found.bisect())


def test_a_broken_scale_of_int8_is_found_and_the_file_and_its_product_blamed(
    honest, contract, traced, graph, bundle_copy, plant
):
    in_int8 = int8_from_fp32(graph)
    fp32 = plant(bundle_copy, graph.SerializeToString()).folder
    reference = TorchRunner(honest, contract)

    def proof_of(bundle):
        content = bundle.read(bundle.onnx("int8").path)
        return prove(reference, OrtRunner(content), bundle.onnx("int8")).verdict

    assert proof_of(plant(fp32, in_int8.SerializeToString(), "int8")).passed
    product = next(node for node in in_int8.graph.node if node.op_type == "MatMulInteger")
    name = product.input[1].replace("_quantized", "_scale")
    scale = next(tensor for tensor in in_int8.graph.initializer if tensor.name == name)
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.5), name))
    check_graph(in_int8, contract)  # its form is right
    bundle = plant(fp32, in_int8.SerializeToString(), "int8")
    failures = proof_of(bundle).failures
    assert any("clips (generated): logits differ by" in failure for failure in failures)
    found = localize(bundle, honest, "ort-cpu:int8", traced=traced)
    assert str(found.broken).startswith("model.int8.onnx: differs from model.onnx by ")
    assert "module encoder_layers.0.feed_forward.0" in str(found.bisect())


@pytest.mark.parametrize("times", [1.1, 0.0])
def test_a_scale_of_int8_that_is_wrong_for_one_column_is_found_in_the_file(graph, bundle_copy, plant, times):
    """The answers stay within what int8 is allowed: only the weights show it."""
    in_int8 = int8_from_fp32(graph)
    fp32 = plant(bundle_copy, graph.SerializeToString()).folder
    sound = plant(fp32, in_int8.SerializeToString(), "int8")
    facts = _weights(sound, sound.onnx("int8"))
    assert len(facts) == len([node for node in in_int8.graph.node if node.op_type == "MatMulInteger"])
    assert max(fact.steps for fact in facts) == pytest.approx(0.5, abs=1e-3)
    scale = next(tensor for tensor in in_int8.graph.initializer if tensor.name.endswith("_scale"))
    values = numpy_helper.to_array(scale).copy()
    values[3] *= np.float32(times)
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    bundle = plant(fp32, in_int8.SerializeToString(), "int8")
    (wrong,) = [fact for fact in _weights(bundle, bundle.onnx("int8")) if fact.steps > 1]
    assert f"{wrong.name}_scale" == scale.name


def test_a_fault_of_the_file_for_onnx_runtime_is_found_and_that_file_blamed(
    honest, contract, traced, graph, bundle_copy, plant
):
    sound = lowered(graph, passes_for("onnx", "fp32"))
    plant(bundle_copy, sound.SerializeToString())
    faulty = lowered(graph, passes_for("ort", "fp32"))
    another_epsilon(faulty)
    content = faulty.SerializeToString()
    bundle = plant(bundle_copy, content, kind="ort")
    artefact = bundle.by_precision("ort")["fp32"]
    assert not prove(TorchRunner(honest, contract), OrtRunner(content), artefact).verdict.passed
    assert localize(bundle, honest, "ort-cpu", traced=traced).broken is None
    found = localize(bundle, honest, "ort-cpu-fused", traced=traced)
    assert str(found.broken).startswith("model.ort.onnx: differs from model.onnx by ")
    assert "(LayerNormalization, module encoder_layers.0.norm1" in str(found.bisect())


def test_a_policy_cannot_hide_a_flip(honest, contract):
    """Thresholds that allow any difference, and any share of other labels."""
    reference = TorchRunner(honest, contract)
    other = copy.deepcopy(honest)
    with torch.no_grad():
        other.bdsl_classifier[-1].bias[0] += 10
    candidate = TorchRunner(other.eval(), contract, name="other")
    blind = Policy(max_logit_diff=100, max_invariance_diff=100, min_label_agreement=0)
    over_the_grid, on_clips = judge(run_parity(reference, candidate), blind).failures
    assert "are no rounding of fp32; " in over_the_grid
    assert "flips that fp32 does not explain: " in on_clips


def test_a_copy_without_a_fault_passes(honest, contract):
    reference = TorchRunner(honest, contract)
    candidate = TorchRunner(copy.deepcopy(honest), contract, name="copy")
    assert judge(run_parity(reference, candidate), Policy()).passed
