"""PyTorch modules as `Runner`: parity's reference, and backends of the bench."""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import BackendError
from spoter_runtime.gpu.graph_cache import GraphCache
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Int32Array, Runner

_GRAPHS: Final = 16  # largest number of CUDA graphs, one per shape


class TorchRunner(Runner):
    """Runs any module ``forward(poses, lengths) -> logits`` in eval mode, on the module's device.

    Attributes:
        dtype: float type of the module; ``torch.float64`` makes a reference for GPUs.
    """

    def __init__(
        self,
        module: nn.Module,
        contract: GraphContract,
        *,
        name: str = "torch",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.module = module.eval()
        self.contract = contract
        self.name = name
        self.dtype = dtype
        self.device = next(self.module.parameters()).device

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        # Copies only read-only arrays, such as a memory-mapped clip: torch has no read-only tensors.
        poses, lengths = (
            torch.from_numpy(np.require(array, requirements="W")) for array in (poses_NTD, lengths_N)
        )
        try:
            with torch.inference_mode():
                logits = self._forward(poses.to(self.device, self.dtype), lengths.to(self.device))
                # The transfer waits for a GPU. A copy, because torch may reuse the memory.
                array: Float32Array = logits.to("cpu", torch.float32).numpy().copy()
        except Exception as error:  # out of memory, no compiler for Inductor, a capture that fails, …
            raise BackendError(
                f"{self.name}: failed on poses {poses_NTD.shape}: {type(error).__name__}: {error}"
            ) from error
        return array

    def close(self) -> None:
        """Free the module and torch's cached GPU memory."""
        del self.module
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, poses: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self.module(poses, lengths)
        return logits


class CompiledTorchRunner(TorchRunner):
    """Runs the module through ``torch.compile`` with dynamic shapes: the first calls compile for seconds."""

    def __init__(self, module: nn.Module, contract: GraphContract, *, name: str) -> None:
        super().__init__(module, contract, name=name)
        # Otherwise torch falls back to eager mode after some shapes, and the bench would not notice.
        self._compiled = torch.compile(self.module, dynamic=True, fullgraph=True)

    def _forward(self, poses: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self._compiled(poses, lengths)
        return logits


class CapturedGraph(NamedTuple):
    """A CUDA graph of the module for one shape, and its buffers."""

    graph: torch.cuda.CUDAGraph
    poses: Tensor
    lengths: Tensor
    logits: Tensor


class GraphedTorchRunner(TorchRunner):
    """Runs the module as CUDA graphs, one per shape, in an LRU cache.

    Thread-safe: one call at a time, because a graph has one set of buffers.
    """

    def __init__(self, module: nn.Module, contract: GraphContract, *, name: str) -> None:
        super().__init__(module, contract, name=name)
        self._captured: GraphCache[tuple[int, ...], CapturedGraph] = GraphCache(_GRAPHS)
        self._lock = threading.Lock()

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        with self._lock:
            return super()._infer(poses_NTD, lengths_N)

    def close(self) -> None:
        """Free the graphs and the module."""
        self._captured.clear()
        super().close()

    def _forward(self, poses: Tensor, lengths: Tensor) -> Tensor:
        shape = tuple(poses.shape)
        captured = self._captured.get(shape)
        if captured is None:
            captured = self._captured[shape] = self._capture(*shape)
        captured.poses.copy_(poses)
        captured.lengths.copy_(lengths)
        captured.graph.replay()
        return captured.logits

    def _capture(self, clips: int, frames: int, features: int) -> CapturedGraph:
        poses = torch.zeros(clips, frames, features, dtype=self.dtype, device=self.device)
        lengths = torch.full((clips,), frames, dtype=torch.int32, device=self.device)
        # Run once outside the graph, on the stream that capturing needs: libraries initialise at the first
        # call.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.module(poses, lengths)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self.module(poses, lengths)
        return CapturedGraph(graph=graph, poses=poses, lengths=lengths, logits=logits)
