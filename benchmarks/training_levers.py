"""The parts that make our training fast, each as a patch that takes it away again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from notebook import FRAMES
from torch import Tensor
from torch.nn import functional as F

from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.model import dropout
from spoter_toolkit.model import spoter as models
from spoter_toolkit.model.spoter import CulturalAttention
from spoter_toolkit.training import batches
from spoter_toolkit.training import epochs as training
from spoter_toolkit.training.augment import augment
from spoter_toolkit.training.batches import Batch, Take, plan_epoch, played_frames, read_batch
from spoter_toolkit.training.config import TrainConfig

Patches = tuple[Callable[[], AbstractContextManager[object]], ...]


def exchanged(owner: object, name: str, value: object) -> Callable[[], AbstractContextManager[object]]:
    """Return a function that opens a context in which a module or class has another attribute."""
    return lambda: patch.object(owner, name, value)


def plan_with_speeds_drawn_late(clips: tuple[Clip, ...], config: TrainConfig, epoch: int) -> list[list[Take]]:
    """Plan by recorded length, then draw the speeds."""
    still = replace(config, augment=replace(config.augment, time_scale=0.0))
    generator = np.random.default_rng((config.seed, epoch, 1))

    def played(take: Take) -> Take:
        recorded, strength = np.array([take.frames]), config.augment.time_scale
        frames = played_frames(recorded, strength, generator, max_frames=config.model.max_frames)
        return replace(take, frames=int(frames[0]))

    return [[played(take) for take in batch] for batch in plan_epoch(clips, still, epoch)]


def read_padded_to_100(
    dataset: Dataset, takes: list[Take], device: torch.device, frames: int | None = None
) -> Batch:
    """Read a batch padded or cut to the notebook's number of frames."""
    batch = read_batch(dataset, takes, device)
    poses = F.pad(batch.poses_NTL2[:, :FRAMES], (0, 0, 0, 0, 0, max(0, FRAMES - batch.poses_NTL2.shape[1])))
    return replace(batch, poses_NTL2=poses, lengths_N=batch.lengths_N.clamp(max=FRAMES))


def augment_clip_by_clip(poses_NTL2: Tensor, lengths_N: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Augment each clip by itself, as a Dataset of single clips would."""
    return torch.cat(
        [
            augment(poses_NTL2[i : i + 1], lengths_N[i : i + 1], *arguments, **options)
            for i in range(len(poses_NTL2))
        ]
    )


def torchs_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, dropped: float) -> Tensor:
    """Attend through torch's own function, which is not fused on a CPU when it drops weights."""
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropped)


def every_token_attends(self: CulturalAttention, class_N1E: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Compute the rows of the "cultural" attention that nobody reads."""
    return _cultural_attention(self, tokens, tokens, mask)[:, :1]


_cultural_attention = CulturalAttention.forward


def levers(device: torch.device) -> dict[str, Patches]:
    """Return name of a lever → the patches that train without it."""
    found: dict[str, Patches] = {
        "speeds drawn after the batches are made": (
            exchanged(training, "plan_epoch", plan_with_speeds_drawn_late),
        ),
        "batches shuffled, padded to their longest clip": (exchanged(batches, "WINDOW", 1),),
        "batches shuffled, padded or cut to 100 frames": (
            exchanged(batches, "WINDOW", 1),
            exchanged(training, "read_batch", read_padded_to_100),
        ),
        "augmentation clip by clip": (exchanged(training, "augment", augment_clip_by_clip),),
        "every token in the cultural attention": (
            exchanged(CulturalAttention, "forward", every_token_attends),
        ),
    }
    if device.type == "cpu":
        torchs_dropout = tuple(exchanged(m, "dropout", F.dropout) for m in (dropout, models))
        found |= {
            "torch's attention": (exchanged(models, "_attend_with_dropout", torchs_attention),),
            "torch's dropout": torchs_dropout,
        }
    return found
