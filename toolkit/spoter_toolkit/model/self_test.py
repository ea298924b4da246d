"""The seed's five checks of a model, made on a copy in about a second before every training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from spoter_runtime.errors import ConfigError
from spoter_runtime.landmarks import NUM_FEATURES, NUM_LANDMARKS
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.model.normalize import HAND_FEATURES
from spoter_toolkit.model.spoter import BdslSpoter, Spoter, count_parameters

_BATCH, _FRAMES = 8, 75  # the seed's own forward check
# A key's bias adds the same number to every score of a softmax row, and the softmax cancels it.
_NO_GRADIENT: Final = "W_k.bias"


def check_model(model: Spoter) -> None:
    """Check parameters, forward, gradients, adaptations and one training step; `model` stays as it is.

    Raises:
        ConfigError: names the check that failed, and what was found.
    """
    generator = torch.Generator().manual_seed(0)
    frames = min(_FRAMES, model.config.max_frames)
    poses = torch.rand(_BATCH, frames, NUM_FEATURES, generator=generator)
    lengths = torch.full((_BATCH,), frames, dtype=torch.int32)
    labels = torch.randint(model.config.num_classes, (_BATCH,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, check in _CHECKS.items():
            problem = check(copy.deepcopy(model).cpu(), poses, lengths, labels)
            if problem:
                raise ConfigError(f"the model fails the check {name!r}: {problem}")


def expected_parameters(config: ModelConfig) -> int:
    """Return the number of parameters that a config's layers have, by arithmetic on its sizes."""
    width, half, hidden, classes = config.d_model, config.d_model // 2, config.d_ff, config.num_classes

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    norm = 2 * width
    layer = 4 * linear(width, width) + linear(width, hidden) + linear(hidden, width) + 2 * norm
    features = NUM_FEATURES + config.hand_place * HAND_FEATURES
    total = linear(features, width) + width + config.num_encoder_layers * layer
    total += config.temporal_frames and linear(config.temporal_frames, width)
    total += norm + linear(width, half) + linear(half, classes)
    if config.architecture == "bdsl-spoter":
        total += NUM_LANDMARKS + 4 * linear(width, width) + linear(width, width)
    return total


def _parameters(model: Spoter, poses: Tensor, lengths: Tensor, labels: Tensor) -> str | None:
    expected, got = expected_parameters(model.config), count_parameters(model)
    return None if got == expected else f"expected {expected:,} parameters, got {got:,}"


def _forward(model: Spoter, poses: Tensor, lengths: Tensor, labels: Tensor) -> str | None:
    with torch.no_grad():
        logits = model.eval()(poses, lengths)
    expected = (len(poses), model.config.num_classes)
    if logits.shape != expected:
        return f"expected logits {expected}, got {tuple(logits.shape)}"
    return None if logits.isfinite().all() else "logits are not finite"


def _gradients(model: Spoter, poses: Tensor, lengths: Tensor, labels: Tensor) -> str | None:
    F.cross_entropy(model.train()(poses, lengths), labels).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if parameter.grad is None or not parameter.grad.isfinite().all():
            return f"{name} has no finite gradient"
        if not name.endswith(_NO_GRADIENT) and not parameter.grad.any():
            return f"the gradient of {name} is zero"
    return None


def _adaptations(model: Spoter, poses: Tensor, lengths: Tensor, labels: Tensor) -> str | None:
    """Return the fault if a part of the model has no effect on its answer, or padding has one; else None."""
    parts = {"class token": model.class_token, "position table": model.positional_encoding.pe}
    if isinstance(model, BdslSpoter):
        parts["landmark weights"] = model.signing_space_weights
        parts["cultural attention"] = model.cultural_attention.in_proj_weight
    model.eval()
    with torch.no_grad():
        before = model(poses, lengths)
        for name, part in parts.items():
            kept = part.clone()
            part.mul_(torch.linspace(0.5, 1.5, part.numel()).reshape(part.shape))
            if torch.equal(model(poses, lengths), before):
                return f"changing the {name} changes no logit"
            part.copy_(kept)
        padded = F.pad(poses, (0, 0, 0, 1), value=0.7)[:, : model.config.max_frames]
        difference = (model(padded, lengths) - before).abs().max().item()
    return None if difference < 1e-4 else f"a padded frame changes the logits by {difference:.1e}"


def _one_step(model: Spoter, poses: Tensor, lengths: Tensor, labels: Tensor) -> str | None:
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    before = copy.deepcopy(model.state_dict())
    loss = F.cross_entropy(model(poses, lengths), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        return "weights are not finite after it"
    unchanged = [n for n, _ in model.named_parameters() if torch.equal(before[n], model.state_dict()[n])]
    return f"{unchanged[0]} did not change" if unchanged else None


_CHECKS: Final[dict[str, Callable[[Spoter, Tensor, Tensor, Tensor], str | None]]] = {
    "parameters": _parameters,
    "forward": _forward,
    "gradients": _gradients,
    "adaptations": _adaptations,
    "one step": _one_step,
}
