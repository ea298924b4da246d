"""TorchRunner: the PyTorch module itself behind the same door as every engine; parity's reference."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from spoter_runtime.contract import GraphContract
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Int32Array, Runner


class TorchRunner(Runner):
    """Run any module ``forward(poses, lengths) -> logits`` in eval mode, on the device it is on."""

    def __init__(self, module: nn.Module, contract: GraphContract, *, name: str = "torch") -> None:
        self.module = module.eval()
        self.contract = contract
        self.name = name

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        device = next(self.module.parameters()).device
        # A copy only of what is read-only, such as a memory-mapped clip: torch has no read-only tensors.
        poses, lengths = (np.require(array, requirements="W") for array in (poses_NTD, lengths_N))
        with torch.inference_mode():
            logits = self.module(torch.from_numpy(poses).to(device), torch.from_numpy(lengths).to(device))
        # A copy: the caller may keep the array, and torch's memory may be reused.
        array: Float32Array = logits.to("cpu", torch.float32).numpy().copy()
        return array
