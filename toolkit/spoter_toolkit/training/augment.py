"""Seeded augmentations of a batch of raw clips, on whatever device the batch is.

Shapes: N clips, T frames, L landmarks.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from spoter_runtime.landmarks import LEFT_HAND, MIRRORED, RIGHT_HAND
from spoter_toolkit.model.normalize import SIGNING_SPACE_CENTRE, SIGNING_SPACE_SCALE
from spoter_toolkit.training.config import AugmentConfig


def augment(
    poses_NTL2: Tensor,
    lengths_N: Tensor,
    config: AugmentConfig,
    generator: torch.Generator,
    *,
    centre: tuple[float, float] = (0.5, 0.5),
) -> Tensor:
    """Return changed copies of a batch's clips, each as long as it was.

    Args:
        poses_NTL2: (N, T, 54, 2) float32, NaN = not detected; padding may hold anything.
        lengths_N: (N,) int32.
        config: strengths and probabilities.
        generator: of the same device; equal seeds give equal batches.
        centre: the middle of the coordinates: (0.5, 0.5) for image, (0, 0) for normalised ones.

    Returns:
        Poses (N, T, 54, 2) with NaN = not detected and zeros as padding.
    """
    draw = _Draw(generator, len(poses_NTL2), poses_NTL2.device)
    missing = torch.isnan(poses_NTL2) | (poses_NTL2 == 0).all(3, keepdim=True)
    poses = torch.where(missing, torch.nan, poses_NTL2)
    padding_NT = torch.arange(poses.shape[1], device=poses.device) >= lengths_N[:, None]
    poses = poses.masked_fill(padding_NT[:, :, None, None], torch.nan)  # no mean may read it
    if config.hand_dropout:
        poses = _hands_dropped(poses, lengths_N, config.hand_dropout, draw)
    if config.frame_dropout:
        lost = draw.uniform(poses.shape[1]) < config.frame_dropout
        lost[:, 0] = False  # a clip of which nothing is left teaches nothing
        poses = torch.where(lost[:, :, None, None], torch.nan, poses)
    poses = _moved(poses, lengths_N, config, draw, centre)
    return poses.masked_fill(padding_NT[:, :, None, None], 0.0)


class _Draw:
    """Random numbers for a batch of clips, from one generator."""

    def __init__(self, generator: torch.Generator, batch: int, device: torch.device) -> None:
        self._generator, self._batch, self._device = generator, batch, device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        unit = torch.rand(self._batch, *shape, generator=self._generator, device=self._device)
        return low + (high - low) * unit

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self._batch, *shape, generator=self._generator, device=self._device)


def _hands_dropped(poses: Tensor, lengths_N: Tensor, probability: float, draw: _Draw) -> Tensor:
    frames = torch.arange(poses.shape[1], device=poses.device)
    poses = poses.clone()
    for hand in (LEFT_HAND, RIGHT_HAND):
        happens = draw.uniform() < probability
        span = draw.uniform(high=0.5) * lengths_N
        start = draw.uniform() * (lengths_N - span)
        gone = (frames >= start[:, None]) & (frames < (start + span)[:, None]) & happens[:, None]
        poses[:, :, hand] = poses[:, :, hand].masked_fill(gone[:, :, None, None], torch.nan)
    return poses


def _moved(
    poses: Tensor, lengths_N: Tensor, config: AugmentConfig, draw: _Draw, centre: tuple[float, float]
) -> Tensor:
    """Change where the landmarks are; NaN stays NaN through arithmetic."""
    middle = _constant(centre, poses.device)
    if config.amplitude:
        frame = (draw.uniform() * lengths_N).long()
        pose = poses[torch.arange(len(poses), device=poses.device), frame][:, None]
        pose = torch.where(pose.isnan(), poses.nanmean(1, keepdim=True), pose)
        factor = draw.uniform(1, 1, 1, low=1 - config.amplitude, high=1 + config.amplitude)
        poses = pose + (poses - pose) * factor
    if config.body_noise:
        width = (poses[:, :, 6] - poses[:, :, 7]).norm(dim=2).nanmedian(1).values.nan_to_num(0.0)
        offset = draw.normal(1, 12, 2) * (config.body_noise * width)[:, None, None, None]
        poses = torch.cat((poses[:, :, :12] + offset, poses[:, :, 12:]), dim=2)
    if config.hand_noise:
        hands = poses[:, :, LEFT_HAND.start : RIGHT_HAND.stop]
        noisy = hands + draw.normal(*hands.shape[1:]) * config.hand_noise
        poses = torch.cat((poses[:, :, : LEFT_HAND.start], noisy), dim=2)
    if config.rotation_deg:
        poses = _turned(poses - middle, config.rotation_deg, draw) + middle
    if config.stretch:
        factor = draw.uniform(1, 1, 2, low=1 - config.stretch, high=1 + config.stretch)
        poses = (poses - middle) * factor + middle
    if config.signing_space:
        happens = draw.uniform(1, 1, 1) < config.signing_space
        space = _constant(SIGNING_SPACE_CENTRE, poses.device) - 0.5 + middle
        poses = torch.where(happens, (poses - space) * SIGNING_SPACE_SCALE + space, poses)
    if config.mirror:
        happens = draw.uniform(1, 1, 1) < config.mirror
        mirrored = poses[:, :, _constant(MIRRORED, poses.device)]
        mirrored = torch.stack((2 * middle[0] - mirrored[..., 0], mirrored[..., 1]), dim=3)
        poses = torch.where(happens, mirrored, poses)
    return poses


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers on a device, brought there once: a GPU would finish all its work before each copy."""
    return torch.tensor(values, device=device)


def _turned(offsets: Tensor, degrees: float, draw: _Draw) -> Tensor:
    angle = draw.uniform(1, 1, low=-1, high=1) * math.radians(degrees)
    cos, sin = angle.cos(), angle.sin()
    x, y = offsets[..., 0], offsets[..., 1]
    return torch.stack((cos * x - sin * y, sin * x + cos * y), dim=3)
