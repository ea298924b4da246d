"""Everything that decides a training, but the data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from spoter_runtime.errors import ConfigError
from spoter_toolkit.model.spoter import ModelConfig
from spoter_toolkit.training.augment import AugmentConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training, but the data.

    Attributes:
        warmup_steps: optimiser steps of linear warm-up; then linear to 0 over the remaining ones.
        focal_gamma: the focusing exponent of Lin et al. 2017; only used by the focal loss.
        evaluate_every: epochs between evaluations on the validation split.
        balance: 0 takes every clip once an epoch; towards 1, clips of rare labels are drawn more often, until
            at 1 all labels are as frequent.
        patience: evaluations without a better validation accuracy before stopping; 0 never stops early.
        mixed_precision: ``"no"``, ``"fp16"`` or ``"bf16"``, as Accelerate takes it.
        cuda_graphs: on one GPU, without fp16: repeat recorded steps instead of launching every kernel.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    warmup_steps: int = 1000
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    balance: float = 0.0
    gradient_clip: float = 1.0
    evaluate_every: int = 1
    patience: int = 0
    seed: int = 0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected at least 1")
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected more than 0")
        for name in ("weight_decay", "warmup_steps", "focal_gamma", "patience", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected at least 0")
        for name in ("learning_rate", "weight_decay", "gradient_clip", "focal_gamma"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name}: {getattr(self, name)}, expected a finite number")
        if self.seed >= 2**32:
            raise ConfigError(f"seed: {self.seed}, expected less than 2**32")
        for name in ("label_smoothing", "balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected 0..1")
        choices = {"loss": ("cross-entropy", "focal"), "mixed_precision": ("no", "fp16", "bf16")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: {getattr(self, name)!r}, expected one of {', '.join(allowed)}")

    def as_json(self) -> dict[str, Any]:
        """Return the config as plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level: ``{"model": {"dropout": 0.1}}`` → ``{"model.dropout": 0.1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
