"""Dropout whose random numbers cost little on a CPU."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Sixteen random bits decide about one value: a probability is kept to within 1 / 2**17 (0.1 is 0.100006).
_STEPS: Final = 2**16


class Dropout(nn.Dropout):
    """`nn.Dropout`, with `dropout` in its place while training."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with some values at 0 and the others scaled up; in eval mode, the input."""
        return dropout(input, self.p) if self.training else input


def dropout(values: Tensor, probability: float) -> Tensor:
    """Return values of which each is 0 with a probability, and the others are scaled to keep the mean.

    Torch draws a CPU's mask one number a value, on one core: a sixth of a training step of these models.
    Here every number of numpy's fastest generator (SFC64) decides about four. Its seed is drawn from
    torch's generator, so `torch.manual_seed` decides as always. On a GPU torch's own dropout is the fast one.

    Args:
        values: any shape, floats.
        probability: 0 to less than 1.
    """
    if not probability:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, probability)
    threshold = min(round(probability * _STEPS), _STEPS - 1)
    scale = np.float32(_STEPS / (_STEPS - threshold))
    seed = int(torch.randint(2**63 - 1, ()))
    count = values.numel()
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, -(-count // 4), np.uint64)
    kept = words.view(np.uint16)[:count] >= threshold
    return values * torch.from_numpy(kept * scale).view(values.shape).to(values.dtype)
