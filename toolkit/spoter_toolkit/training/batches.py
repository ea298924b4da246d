"""The batches of an epoch: which clips meet, how fast each is played, and how they are read.

Shapes: N clips, T frames, L landmarks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spoter_runtime.landmarks import NUM_LANDMARKS
from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.length import takes_in_epoch

# Clips are sorted by length within windows of so many batches: the order stays random, the padding small.
WINDOW: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One showing of a clip: in `frames` frames, however many it was recorded in."""

    clip: Clip
    frames: int


class Batch(NamedTuple):
    """Takes read into tensors."""

    poses_NTL2: Tensor  # (N, T, 54, 2) float32, NaN = not detected, zeros as padding
    lengths_N: Tensor  # (N,) int32, real frames
    labels_N: Tensor  # (N,) int64, columns of the logits


def plan_epoch(clips: tuple[Clip, ...], config: TrainConfig, epoch: int) -> list[list[Take]]:
    """Return an epoch's batches: shuffled, but with takes of similar length together.

    Speeds are drawn before the batches are made: drawn after, a batch of clips of one length is padded for
    its slowest clip (3,133 real clips of 20 frames at a time scale of 0.2: 15 % padding, and 1.4 % as here).

    Args:
        clips: the train split.
        config: its seed, batch size, balance and time scale count.
        epoch: from 0; equal (seed, epoch) give equal plans.
    """
    generator = np.random.default_rng((config.seed, epoch))
    order = drawn_clips(clips, config, generator)
    frames = played_frames(
        np.array([clips[i].frames for i in order]), config, generator, max_frames=config.model.max_frames
    )
    takes = [Take(clip=clips[i], frames=int(n)) for i, n in zip(order, frames, strict=True)]
    size = config.batch_size
    window = WINDOW * size
    ordered = [
        take
        for start in range(0, len(takes), window)
        for take in sorted(takes[start : start + window], key=lambda take: take.frames)
    ]
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def drawn_clips(
    clips: tuple[Clip, ...], config: TrainConfig, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the clips of an epoch in random order, each as often as it should be, to within one."""
    total = takes_in_epoch(config, len(clips))
    counts = Counter(clip.label for clip in clips)
    weights = np.array([counts[clip.label] ** -config.balance for clip in clips])
    expected = total * weights / weights.sum()
    whole = np.floor(expected + 1e-9).astype(np.int64)
    order = np.repeat(np.arange(len(clips)), whole)
    if rest := total - len(order):
        parts = (expected - whole).clip(1e-9)
        drawn = generator.choice(len(clips), rest, replace=False, p=parts / parts.sum())
        order = np.concatenate((order, drawn))
    return generator.permutation(order)


def share_of(batches: list[list[Take]], process: int, processes: int) -> list[list[Take]]:
    """Return one process's batches: as many as every other one has, and at least one."""
    usable = len(batches) - len(batches) % processes if len(batches) > processes else len(batches)
    return batches[process:usable:processes] or batches[:1]


def played_frames(
    recorded_N: npt.NDArray[np.int64],
    config: TrainConfig,
    generator: np.random.Generator,
    *,
    max_frames: int,
) -> npt.NDArray[np.int64]:
    """Draw how long each clip is shown: its frames times a factor that the settings allow, 1..max_frames."""
    longer = config.augment.time_scale
    shorter = max(longer, config.augment.shorten)
    if not shorter:
        return recorded_N
    factors = generator.uniform(1 - shorter, 1 + longer, len(recorded_N))
    return (recorded_N * factors).round().clip(1, max_frames).astype(np.int64)


def longest(takes: list[Take]) -> int:
    """Return the frames of the longest take."""
    return max(take.frames for take in takes)


def read_batch(dataset: Dataset, takes: list[Take], device: torch.device, frames: int | None = None) -> Batch:
    """Read takes from the dataset's memory map into one batch on a device.

    A clip is played faster or slower by taking the nearest frame: interpolation would invent places.

    Args:
        dataset: where the clips are.
        takes: one or more.
        device: where the batch goes.
        frames: to pad to, at least the longest take's; None for those.
    """
    index = dataset.label_index()
    lengths_N = np.array([take.frames for take in takes], np.int32)
    poses_NTL2 = np.zeros((len(takes), frames or longest(takes), NUM_LANDMARKS, 2), np.float32)
    for row, take in zip(poses_NTL2, takes, strict=True):
        poses_TL2 = dataset.poses_of(take.clip)
        if take.frames != take.clip.frames:
            steps = (np.arange(take.frames) + 0.5) * (take.clip.frames / take.frames)
            poses_TL2 = poses_TL2[np.minimum(steps.astype(np.int64), take.clip.frames - 1)]
        row[: take.frames] = poses_TL2
    labels_N = np.array([index[take.clip.label] for take in takes])
    tensors = [torch.from_numpy(array) for array in (poses_NTL2, lengths_N, labels_N)]
    if device.type == "cuda":  # from pinned memory the copy runs beside the GPU's work
        tensors = [tensor.pin_memory() for tensor in tensors]
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))
