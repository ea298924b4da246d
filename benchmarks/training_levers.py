"""What makes our training fast, each part exchanged for what stood in its place or might."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from notebook import FRAMES
from torch import Tensor, nn
from torch.nn import functional as F

from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.model import dropout
from spoter_toolkit.model import spoter as models
from spoter_toolkit.model.spoter import CulturalAttention
from spoter_toolkit.training import batches
from spoter_toolkit.training import loop as training
from spoter_toolkit.training.augment import augment
from spoter_toolkit.training.batches import Batch, Take, plan_epoch, played_frames, read_batch
from spoter_toolkit.training.config import TrainConfig

Patches = tuple[Callable[[], AbstractContextManager[object]], ...]


def exchanged(owner: object, name: str, value: object) -> Callable[[], AbstractContextManager[object]]:
    """Return a context in which a module or class has another attribute."""
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
    """Read a batch as long as the notebook's, whatever it holds."""
    batch = read_batch(dataset, takes, device)
    poses = F.pad(batch.poses_NTL2[:, :FRAMES], (0, 0, 0, 0, 0, max(0, FRAMES - batch.poses_NTL2.shape[1])))
    return replace(batch, poses_NTL2=poses, lengths_N=batch.lengths_N.clamp(max=FRAMES))


def augment_clip_by_clip(poses_NTL2: Tensor, lengths_N: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Augment as a Dataset of single clips would."""
    return torch.cat(
        [
            augment(poses_NTL2[i : i + 1], lengths_N[i : i + 1], *arguments, **options)
            for i in range(len(poses_NTL2))
        ]
    )


def torchs_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, dropped: float) -> Tensor:
    """Attend through torch's own function, which is not fused where weights are dropped on a CPU."""
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropped)


def clip_at_once(parameters: Iterable[Tensor], norm: float) -> Tensor:
    """Clip all tensors together, as torch does on a GPU of itself."""
    return nn.utils.clip_grad_norm_(parameters, norm, foreach=True)


def every_token_attends(self: CulturalAttention, class_N1E: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Compute the rows of the "cultural" attention that nobody reads."""
    return _cultural_attention(self, tokens, tokens, mask)[:, :1]


_cultural_attention = CulturalAttention.forward


_attention = models.Attention.forward


def one_projection(
    self: models.Attention, asking_NQE: Tensor, tokens_NSE: Tensor, mask_N11S: Tensor
) -> Tensor:
    """Project queries, keys and values in one product, where every token asks."""
    if asking_NQE is not tokens_NSE:
        return _attention(self, asking_NQE, tokens_NSE, mask_N11S)
    parts = (self.W_q, self.W_k, self.W_v)
    weight, bias = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
    queries, keys, values = F.linear(tokens_NSE, weight, bias).chunk(3, 2)
    output: Tensor = self.W_o(models._attend(queries, keys, values, mask_N11S, self.num_heads, self.dropout))
    return output


def levers(device: torch.device) -> dict[str, Patches]:
    """Return what ours is without: in words → what is exchanged."""
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


def before() -> Patches:
    """Return what makes ours the loop that it was, but for the kernel of AdamW."""
    found = levers(torch.device("cpu"))
    late, attention, drop = (
        found[name]
        for name in ("speeds drawn after the batches are made", "torch's attention", "torch's dropout")
    )
    return (exchanged(batches, "WINDOW", 16), *late, *attention, *drop)
