"""Everything that decides a training, but the data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal

from spoter_runtime.errors import ConfigError
from spoter_toolkit.model.config import ModelConfig

_MOST: Final = 10**9  # of anything that is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How strongly clips are changed; every field at its default changes nothing."""

    hand_noise: float = 0.0  # standard deviation of noise on hand landmarks, in image widths (the seed: 0.05)
    body_noise: float = 0.0  # one offset a clip for each body landmark (another body), in shoulder widths
    # probability of the seed's shrinking into signing space: x' = 0.5 + 0.85 (x - 0.5), y' = 0.45 + 0.85 (y -
    # 0.45)
    signing_space: float = 0.0
    # the whole clip turns by up to this, about the middle of the picture (the seed: 15)
    rotation_deg: float = 0.0
    stretch: float = 0.0  # x and y are scaled apart by a factor within 1 ± this: other cameras, other bodies
    # movement away from the pose of one frame, drawn for each clip, is scaled by a factor within 1 ± this: a
    # sign starts and ends near a pose that all signers share, and they differ in how far they go from it
    amplitude: float = 0.0
    # speed changes by a factor within 1 ± this (the seed: 0.2). Not done by `augment`: it decides how long a
    # clip is, and with that its batch; see `batches`.
    time_scale: float = 0.0
    # clips are shown in fewer frames than `time_scale` alone has them: the factor begins at 1 - this. It
    # halves what a step costs, and changes what a clip looks like as another recording would.
    shorten: float = 0.0
    frame_dropout: float = 0.0  # probability that a frame is lost: nothing detected in it
    hand_dropout: float = 0.0  # probability, for each hand, that it is lost for a random part of the clip
    mirror: float = 0.0  # probability that left and right are swapped, landmarks and picture

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            highest = 180.0 if one.name.endswith("_deg") else 1.0
            if not 0 <= value <= highest:
                raise ConfigError(f"augment.{one.name}: {value}, expected 0..{highest:g}")
        for name in ("time_scale", "shorten", "stretch", "frame_dropout"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"augment.{name}: {getattr(self, name)}, expected less than 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training, but the data."""

    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    # passes over the clips; 0: as long as it takes to learn them, see `length`
    epochs: int = 50
    # where `epochs` is 0: optimiser steps at most; 0: as many as the number of clips and labels suggests
    max_steps: int = 0
    batch_size: int = 16
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    # optimiser steps of linear warm-up; then linear to 0, where `epochs` is 0 once the clips are learned
    warmup_steps: int = 1000
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    focal_gamma: float = 2.0  # the focusing exponent of Lin et al. 2017; only used by the focal loss.
    label_smoothing: float = 0.0
    # 0 takes every clip once an epoch; towards 1, clips of rare labels are drawn more often, until at 1 all
    # labels are as frequent
    balance: float = 0.0
    gradient_clip: float = 1.0
    evaluate_every: int = 1  # epochs between evaluations on the validation split
    patience: int = 0  # evaluations without a better validation accuracy before stopping; 0 never stops early
    seed: int = 0
    # "no", "fp16" or "bf16", as Accelerate takes it
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    # on one GPU, without fp16: repeat recorded steps instead of launching every kernel
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected at least 1")
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected more than 0")
        for name in (
            "epochs",
            "max_steps",
            "weight_decay",
            "warmup_steps",
            "focal_gamma",
            "patience",
            "seed",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected at least 0")
        for name in ("learning_rate", "weight_decay", "gradient_clip", "focal_gamma"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name}: {getattr(self, name)}, expected a finite number")
        for name in ("epochs", "max_steps", "batch_size", "warmup_steps", "evaluate_every", "patience"):
            if getattr(self, name) > _MOST:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected at most {_MOST}")
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
