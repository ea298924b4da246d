"""Each fault that deployments are known for, planted into a bundle, is found, and the right link is blamed.

What a test asserts is what only the check that it is named for can say: without that check it fails.
"""

from __future__ import annotations

import copy
import dataclasses
import functools

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

from spoter_export.cases import generated_clips
from spoter_export.judge import Policy, judge, prove
from spoter_export.lower import check_fp16_range, fp16_from_fp32, rounded_from_fp16
from spoter_export.parity import run_parity
from spoter_export.to_onnx import check_graph, onnx_from_module, trace_module
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.errors import ExportError
from spoter_runtime.landmarks import LEFT_HAND, RIGHT_HAND
from spoter_runtime.ort import OrtRunner
from spoter_runtime.runner import pad_clips
from spoter_toolkit.blaming import blame
from spoter_toolkit.models import MASKED, BdslSpoter, frame_mask


@pytest.fixture(scope="module")
def honest(small_model):
    """The small model with a weight of its own for each landmark, so that their order matters."""
    model = copy.deepcopy(small_model)
    weights = torch.rand(54, generator=torch.Generator().manual_seed(1)) + 0.5
    model.signing_space_weights = nn.Parameter(weights)
    return model.eval()


class Around(nn.Module):
    """A model that sees its input through a faulty preprocessing."""

    def __init__(self, model, change):
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, poses, lengths):
        return self.model(*self.change(poses, lengths))


class ClassTokenLast(BdslSpoter):
    """Puts the class token behind the frames: every position is another one."""

    def encode(self, poses_NTD, lengths_N):
        frames = self.input_projection(self.weigh(self.normalize(poses_NTD, lengths_N)))
        tokens = torch.cat((frames, self.class_token.expand(frames.shape[0], -1, -1)), dim=1)
        tokens = self.positional_encoding(tokens).roll(1, dims=1)
        padded = (~frame_mask(poses_NTD, lengths_N)).to(tokens.dtype) * MASKED
        mask = F.pad(padded, (1, 0))[:, None, None]
        for layer in self.encoder_layers:
            tokens = layer(tokens, mask)
        return tokens, mask


def attends_to_padding(model):
    return Around(model, lambda poses, lengths: (poses, torch.full_like(lengths, poses.shape[1])))


def positions_shifted(model):
    model.positional_encoding.pe = model.positional_encoding.pe.roll(1, dims=0)
    return model


def class_token_last(model):
    faulty = ClassTokenLast(model.config)
    faulty.load_state_dict(model.state_dict())
    return faulty


def planar_weights(model):
    model.config = dataclasses.replace(model.config, landmark_weights="planar")
    return model


def hands_swapped(model):
    def change(poses, lengths):
        points = poses.reshape(*poses.shape[:2], 54, 2)
        body = points[:, :, : LEFT_HAND.start]
        return torch.cat((body, points[:, :, RIGHT_HAND], points[:, :, LEFT_HAND]), dim=2).flatten(2), lengths

    return Around(model, change)


def another_epsilon(model):
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-3
    return model


# Fault → the module at which bisecting finds it; None where its graph has other tensors from there on.
FAULTS = {
    attends_to_padding: "normalize",
    positions_shifted: "positional_encoding",
    class_token_last: None,
    planar_weights: "",
    hands_swapped: None,
    another_epsilon: "encoder_layers.0.norm1",
}


@pytest.fixture(scope="module")
def traced(honest, contract):
    """What the honest model is exported to, made once."""
    return functools.cache(lambda: trace_module(honest, contract))


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "module"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])
def test_a_fault_of_the_graph_is_found_and_the_file_is_blamed(
    honest, contract, traced, bundle_copy, plant, fault, module
):
    faulty = onnx_from_module(fault(copy.deepcopy(honest)).eval(), contract).SerializeToString()
    bundle = plant(bundle_copy, faulty)
    proof = prove(TorchRunner(honest, contract), OrtRunner(faulty), bundle.onnx())
    assert any("grid" not in failure and "logits differ by" in failure for failure in proof.verdict.failures)
    moved = [failure for failure in proof.verdict.failures if failure.startswith("ort-cpu: padding")]
    # Behind the frames, the class token's position is that of the padding's end.
    assert bool(moved) == (fault in (attends_to_padding, class_token_last))
    blamed = blame(bundle, honest, "ort-cpu", traced=traced)
    assert str(blamed.broken).startswith("model.onnx: differs from ONNX exported now by ")
    found = blamed.bisect()
    assert module is None or found.module == module


@pytest.mark.slow
def test_an_axis_frozen_by_export_is_found_though_the_file_declares_it_dynamic(
    honest, contract, traced, bundle_copy, plant
):
    model = onnx.ModelProto()
    model.CopyFrom(traced().model)
    reshape = next(node for node in model.graph.node if node.op_type == "Reshape")
    model.graph.initializer.append(numpy_helper.from_array(np.array([3, 37, 54, 2]), "frozen"))
    reshape.input[1] = "frozen"
    check_graph(model, contract)  # its form is right
    faulty = model.SerializeToString()
    bundle = plant(bundle_copy, faulty)
    failures = prove(TorchRunner(honest, contract), OrtRunner(faulty), bundle.onnx()).verdict.failures
    refused = "ort-cpu cannot run it: ort-cpu: failed on poses (1, 1, 108)"
    assert any(failure.startswith(f"1 clips × 1 frames, full lengths: {refused}") for failure in failures)
    assert any(failure.startswith("clips (generated): no answer: ") for failure in failures)
    assert any(failure.startswith("ort-cpu: batch company: no answer: ") for failure in failures)
    blamed = blame(bundle, honest, "ort-cpu", traced=traced)
    assert str(blamed.broken).startswith("model.onnx gives no answer: ort-cpu: failed on poses")
    found = blamed.bisect()
    assert (found.operator, found.module) == ("Reshape", "normalize")
    assert "cannot be computed" in str(found)


@pytest.mark.slow
def test_a_softmax_that_overflows_fp16_is_found_and_its_layer_blamed(honest, contract, bundle_copy, plant):
    """Scores beyond 65504 are no number in fp16; the CPU provider would compute in fp32 and hide it."""
    model = copy.deepcopy(honest)
    for layer in model.encoder_layers[1:]:
        for weights in (layer.self_attention.W_q.weight, layer.self_attention.W_k.weight):
            with torch.no_grad():
                weights *= 1000
    exported = trace_module(model, contract)
    with pytest.raises(ExportError, match=r"encoder_layers\.1.* fp16 holds 65504"):
        check_fp16_range(exported.model, [pad_clips(generated_clips(contract, seed=0).clips[:4])])
    lowered = fp16_from_fp32(exported.model)  # and without that check
    plant(bundle_copy, exported.model.SerializeToString())
    bundle = plant(bundle_copy, lowered.SerializeToString(), "fp16")
    rounded = OrtRunner(rounded_from_fp16(lowered).SerializeToString())
    proof = prove(TorchRunner(model, contract), rounded, bundle.onnx("fp16"))
    assert any("logits are not finite" in failure for failure in proof.verdict.failures)
    blamed = blame(bundle, model, "ort-cpu:fp16", traced=lambda: exported)
    assert str(blamed.broken).startswith("model.fp16.onnx, every tensor rounded gives no answer: ")
    assert blamed.bisect().module == "encoder_layers.1.self_attention"


def test_a_policy_cannot_hide_a_flip(honest, contract):
    """Thresholds that allow any difference, and any share of other labels."""
    reference = TorchRunner(honest, contract)
    other = copy.deepcopy(honest)
    with torch.no_grad():
        other.bdsl_classifier[-1].bias[0] += 10
    candidate = TorchRunner(other.eval(), contract, name="other")
    blind = Policy(max_logit_diff=100, max_invariance_diff=100, min_label_agreement=0)
    (failure,) = judge(run_parity(reference, candidate), blind).failures
    assert "flips that fp32 does not explain: " in failure


def test_a_copy_without_a_fault_passes(honest, contract):
    reference = TorchRunner(honest, contract)
    candidate = TorchRunner(copy.deepcopy(honest), contract, name="copy")
    assert judge(run_parity(reference, candidate), Policy()).passed
