"""A run's weights: safetensors on disk, checked against the model."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from spoter_runtime.errors import CheckpointError
from spoter_runtime.files import replacing
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.model.spoter import Spoter, model_from_config


def model_from_weights(path: Path, config: ModelConfig) -> Spoter:
    """Return a model with the weights of a file, in eval mode, on the CPU.

    Raises:
        CheckpointError: not safetensors, or see `load_weights`.
    """
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from error
    model = model_from_config(config)
    load_weights(model, weights, where=str(path))
    return model.eval()


def save_weights(model: Spoter, path: Path) -> None:
    """Write a model's weights and buffers atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(save({name: value.contiguous() for name, value in model.state_dict().items()}))


def load_weights(model: Spoter, weights: dict[str, Tensor], *, where: str) -> None:
    """Copy weights into a model after comparing every name and shape.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape; the message names it.
    """
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unknown:
        parts = [f"{len(missing)} missing ({missing[0]}, …)"] if missing else []
        parts += [f"{len(unknown)} unknown ({unknown[0]}, …)"] if unknown else []
        raise CheckpointError(f"{where}: not the weights of this model: tensors {' and '.join(parts)}")
    for name, value in own.items():
        if value.shape != weights[name].shape:
            raise CheckpointError(
                f"{where}: {name} is {tuple(weights[name].shape)}, the model has {tuple(value.shape)}"
            )
        if not torch.isfinite(weights[name]).all():
            raise CheckpointError(f"{where}: {name} holds values that are not finite")
    model.load_state_dict(weights)


def load_body(model: Spoter, weights: dict[str, Tensor], *, where: str) -> None:
    """Copy another run's weights into a model, all but those of its last layer, which knows other labels.

    Raises:
        CheckpointError: see `load_weights`.
    """
    own = model.state_dict()
    head = [name for name in own if name.rpartition(".")[0] == model.last_layer]
    load_weights(model, weights | {name: own[name] for name in head}, where=where)
