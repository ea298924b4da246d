"""Each fault that deployments are known for, planted into the real model, is found by parity."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spoter_export.judge import Policy, judge
from spoter_export.parity import run_parity
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.landmarks import LEFT_HAND, RIGHT_HAND
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


FAULTS = (
    attends_to_padding,
    positions_shifted,
    class_token_last,
    planar_weights,
    hands_swapped,
    another_epsilon,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(honest, contract, fault):
    reference = TorchRunner(honest, contract)
    candidate = TorchRunner(fault(copy.deepcopy(honest)).eval(), contract, name="faulty")
    verdict = judge(run_parity(reference, candidate), Policy())
    assert not verdict.passed
    assert any("logits differ by" in failure for failure in verdict.failures)
    moved = [failure for failure in verdict.failures if failure.startswith("faulty: padding")]
    # Behind the frames, the class token's position is that of the padding's end.
    assert bool(moved) == (fault in (attends_to_padding, class_token_last))


def test_a_copy_without_a_fault_passes(honest, contract):
    reference = TorchRunner(honest, contract)
    candidate = TorchRunner(copy.deepcopy(honest), contract, name="copy")
    assert judge(run_parity(reference, candidate), Policy()).passed
