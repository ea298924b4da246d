from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spoter_runtime.errors import ConfigError
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.model.self_test import check_model, expected_parameters
from spoter_toolkit.model.spoter import (
    MASKED,
    BdslSpoter,
    Spoter,
    _attend_with_dropout,
    count_parameters,
    model_from_config,
)
from spoter_toolkit.runs.notebook import model_from_notebook

ARCHITECTURES = ("spoter", "bdsl-spoter")
PARTS = {"hand_place": True, "temporal_frames": 5}
UNUSED_HEAD = 9_402


def small(architecture: str = "bdsl-spoter", **changes: object) -> Spoter:
    torch.manual_seed(0)
    sizes = {"d_model": 36, "num_encoder_layers": 2, "d_ff": 40, "num_classes": 5} | changes
    return model_from_config(ModelConfig(architecture=architecture, **sizes)).eval()  # type: ignore[arg-type]


def with_all_parts(architecture: str) -> Spoter:
    """Return a small model with every part that the notebook's lacks, none of them at rest."""
    model = small(architecture, **PARTS)
    with torch.no_grad():
        model.temporal.weight.normal_(generator=torch.Generator().manual_seed(1))
        model.temporal.bias.fill_(0.5)
    return model.eval()


def clips(batch: int, frames: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, frames, 108, generator=torch.Generator().manual_seed(seed))


def full(poses: Tensor) -> Tensor:
    return torch.full((len(poses),), poses.shape[1], dtype=torch.int32)


@pytest.mark.parametrize(("name", "architecture"), [("spoter", "spoter"), ("bdsl_spoter", "bdsl-spoter")])
@pytest.mark.parametrize("frames", [37, 60, 99])
def test_the_notebooks_checkpoint_gives_the_notebooks_logits(
    shared: Path, name: str, architecture: str, frames: int
) -> None:
    model = model_from_notebook(shared / "golden" / f"phase3_{name}.pth").model
    assert model.config.architecture == architecture
    with np.load(shared / "golden" / "phase3_io.npz") as golden:
        poses = torch.from_numpy(golden[f"{name}_x_{frames}"])
        expected = golden[f"{name}_y_{frames}"]
    with torch.inference_mode():
        logits = model(poses, full(poses)).numpy()
    assert np.abs(logits - expected).max() <= 1e-5


def test_parameter_counts_are_the_notebooks() -> None:
    assert count_parameters(Spoter(ModelConfig(architecture="spoter"))) == 973_674
    # its class keeps a second head that the forward never reads; ours has no such weights
    assert count_parameters(BdslSpoter(ModelConfig())) == 1_041_990 - UNUSED_HEAD


@pytest.mark.parametrize("parts", [{}, PARTS])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_training_step_of_every_parameter_is_possible_at_other_sizes(
    architecture: str, parts: dict[str, object]
) -> None:
    model = small(architecture, num_heads=4, cultural_heads=2, max_seq_length=50, **parts)
    check_model(model)
    assert count_parameters(model) == expected_parameters(model.config)


def test_the_temporal_convolution_begins_as_nothing_and_sees_the_frames_around() -> None:
    plain, model = small(), small(temporal_frames=5)
    model.load_state_dict(plain.state_dict(), strict=False)
    poses = clips(1, 9)
    frames = torch.rand(1, 9, 36)
    real = torch.ones(1, 9, dtype=torch.bool)
    assert torch.equal(model(poses, full(poses)), plain(poses, full(poses)))
    with torch.no_grad():
        model.temporal.weight.copy_(torch.arange(5.0)[:, None].expand(5, 36))
    expected = frames.clone()
    for t in range(9):
        for k in range(5):
            if 0 <= t + k - 2 < 9:
                expected[:, t] += k * frames[:, t + k - 2]
    assert torch.allclose(model.temporal(frames, real), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hand_place": True, "normalize": "none"}, "hand_place: needs normalize"),
        ({"temporal_frames": 4}, "temporal_frames: 4, expected 0, 3, 5"),
        ({"temporal_frames": 1}, "temporal_frames: 1, expected 0, 3, 5"),
        ({"temporal_frames": -3}, "temporal_frames: -3, expected 0, 3, 5"),
    ],
)
def test_parts_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**settings)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("fill", [0.0, 0.7, float("nan"), float("inf"), 1e30])
def test_padding_does_not_change_the_answer(architecture: str, fill: float) -> None:
    model, poses = with_all_parts(architecture), clips(3, 20)
    padded = torch.nn.functional.pad(poses, (0, 0, 0, 11), value=fill)
    with torch.inference_mode():
        difference = (model(padded, full(poses)) - model(poses, full(poses))).abs().max()
    assert difference <= 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_company_and_order_in_the_batch_do_not_change_the_answer(architecture: str) -> None:
    model, poses = small(architecture), clips(6, 20)
    lengths = torch.tensor([20, 3, 11, 1, 20, 7], dtype=torch.int32)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    with torch.inference_mode():
        together = model(poses, lengths)
        alone = torch.cat([model(poses[i : i + 1, : lengths[i]], lengths[i : i + 1]) for i in range(6)])
        shuffled = model(poses[order], lengths[order])
    assert (together - alone).abs().max() <= 1e-5
    assert (shuffled - together[order]).abs().max() <= 1e-5


@pytest.mark.parametrize("normalize", ["signing-space", "none"])
def test_nan_and_zero_both_mean_not_detected(normalize: str) -> None:
    model, poses = small(normalize=normalize), clips(2, 9)
    points = poses.reshape(2, 9, 54, 2)
    points[:, 3:6, 33:] = 0.0
    zeros = points.reshape(2, 9, 108).clone()
    points[:, 3:6, 33:] = torch.nan
    half = points.clone()
    half[:, 3:6, 33:, 1] = 0.4  # x alone is NaN: the landmark is missing all the same
    with torch.inference_mode():
        answers = [model(p.reshape(2, 9, 108), full(poses)) for p in (zeros, points, half)]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_half_of_the_clips_are_trained_on_without_the_places_of_their_hands() -> None:
    model, poses = small(hand_place=True, dropout=0.0), clips(64, 9)
    moved = poses.clone().unflatten(2, (54, 2))
    moved[:, :, 12:] += 0.1  # the hands' boxes are what they were
    with torch.no_grad():
        differs = []
        for train in (False, True):
            torch.manual_seed(0)
            before = model.train(train)(poses, full(poses))
            torch.manual_seed(0)
            differs.append(((model(moved.flatten(2), full(poses)) - before).abs().amax(1) > 1e-3).sum())
    assert differs[0] == 64
    assert 16 < differs[1] < 48


def test_the_order_of_frames_matters() -> None:
    model, poses = small(), clips(1, 20)
    with torch.inference_mode():
        assert not torch.allclose(model(poses, full(poses)), model(poses.flip(1), full(poses)), atol=1e-4)


def test_landmark_weights_meet_their_landmark_or_the_notebooks_columns() -> None:
    features = torch.ones(1, 1, 108)
    for kind, columns in (("interleaved", [14, 15]), ("planar", [7, 61])):
        model = small(landmark_weights=kind)
        assert isinstance(model, BdslSpoter)
        with torch.no_grad():
            model.signing_space_weights[7] = 3.0
            weighed = model.weigh(features)[0, 0]
        assert torch.nonzero(weighed == 3.0).flatten().tolist() == columns


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 100}, "d_model: 100 does not divide by num_heads 9"),
        ({"num_heads": 0}, "num_heads: 0, expected at least 1"),
        ({"dropout": 0.7}, "dropout: 0.7, expected 0..0.6"),
        ({"max_seq_length": 1}, "max_seq_length: 1, expected at least 2"),
        ({"architecture": "resnet"}, "architecture: 'resnet', expected one of"),
        ({"normalize": "shoulder"}, "normalize: 'shoulder'"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)  # type: ignore[arg-type]


class _Deaf(BdslSpoter):
    """A model whose landmark weights do nothing."""

    def weigh(self, features_NTD: Tensor) -> Tensor:
        return features_NTD


class _Attends(BdslSpoter):
    """A model that attends to padding, as the notebook's does."""

    def forward(self, poses: Tensor, lengths: Tensor) -> Tensor:
        return super().forward(poses, torch.full_like(lengths, poses.shape[1]))


def test_the_checks_find_a_part_that_does_nothing_and_attended_padding() -> None:
    config = ModelConfig(d_model=36, num_encoder_layers=1, d_ff=40, num_classes=5)
    with pytest.raises(ConfigError, match="'gradients': signing_space_weights has no finite gradient"):
        check_model(_Deaf(config))
    with pytest.raises(ConfigError, match="'adaptations': a padded frame changes the logits"):
        check_model(_Attends(config))


def test_the_checks_find_a_wrong_size_and_a_frozen_weight() -> None:
    extra = small()
    extra.extra = torch.nn.Linear(3, 3)
    with pytest.raises(ConfigError, match=r"'parameters': expected [\d,]+ parameters, got"):
        check_model(extra)
    broken = small()
    with torch.no_grad():
        broken.input_projection.weight[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="'forward': logits are not finite"):
        check_model(broken)


def test_the_checks_leave_the_model_and_the_random_state_as_they_were() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check_model(model)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(p.grad is not None for p in model.parameters())


def test_attention_with_dropped_weights_is_torchs_own_on_average_and_ignores_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 3, 7, 4, generator=generator)
    mask = torch.zeros(2, 1, 1, 7)
    mask[1, ..., 5:] = MASKED
    expected = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    assert torch.allclose(_attend_with_dropout(queries, keys, values, mask, 0.0), expected, atol=1e-6)
    torch.manual_seed(0)
    drawn = torch.stack([_attend_with_dropout(queries, keys, values, mask, 0.3) for _ in range(2000)])
    error_of_mean = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - expected).abs() / error_of_mean).max() < 5
    assert not torch.equal(drawn[0], drawn[1])
    values[1, :, 5:] = 1e6
    torch.manual_seed(0)
    assert torch.equal(_attend_with_dropout(queries, keys, values, mask, 0.3), drawn[0])
