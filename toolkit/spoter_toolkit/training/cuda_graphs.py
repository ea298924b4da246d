"""Steps of a training as CUDA graphs: recorded once for each shape, then repeated as one launch.

A step of these models is some 670 kernels of a few microseconds each. Launched one by one they take the CPU
20 ms, of which the GPU works 2.4 (16 clips on an H200).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from spoter_runtime.gpu.graph_cache import GraphCache
from spoter_toolkit.training.batches import Batch

# Batches are padded to a multiple of so many frames: a recording is of one shape, and takes some 0.1 s.
FRAMES_STEP: Final = 16

Step = Callable[[Batch], Tensor]


class StepGraphs:
    """The recordings of one training's step. Not thread-safe; they share their memory, and run in turn."""

    def __init__(self, generator: torch.Generator) -> None:
        """Begin without recordings.

        Args:
            generator: the one that the step draws from, besides torch's own of that GPU.
        """
        self._generator = generator
        # A shape's first call runs as it is: the shape may be rare, and libraries set themselves up.
        self._recordings: GraphCache[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Batch, Tensor]] = (
            GraphCache(calls_before=1)
        )
        self._memory: Any = None

    def run(self, step: Step, batch: Batch) -> Tensor:
        """Take a step on a batch; return what the step returns, in memory of its own.

        Args:
            step: work on the GPU alone, without waiting for it; the same at every call.
            batch: on the GPU.
        """
        shape = tuple(batch.poses_NTL2.shape)
        recording = self._recordings.get(shape)
        if recording is None:
            if not self._recordings.is_due(shape):
                return step(batch)
            given = Batch(*(tensor.clone() for tensor in batch))
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self._generator)
            with torch.cuda.graph(graph, pool=self._memory):
                result = step(given)
            self._memory = graph.pool()
            recording = self._recordings[shape] = graph, given, result
        graph, given, result = recording
        for place, tensor in zip(given, batch, strict=True):
            place.copy_(tensor)
        graph.replay()
        return result.clone()


def make_recordable(optimizer: Any, device: torch.device, *, recordable: bool) -> None:
    """Let an optimiser's steps be recorded, or take that back: a resumed one may come from another machine.

    Args:
        optimizer: one of torch's, or Accelerate's around it.
        device: of its parameters.
        recordable: keep the learning rate on the GPU, where a recording reads it; else as a number.
    """
    for group in optimizer.param_groups:
        group["capturable"] = recordable
        rate = float(group["lr"])
        group["lr"] = torch.tensor(rate, device=device) if recordable else rate
