"""CUDA graphs through ONNX Runtime: the kernels of a model, recorded once for each shape.

A model of this size has three hundred kernels of a few microseconds each, and launching them one by one takes
longer than running them: one clip of 60 frames takes 2.2 ms on an H100, 0.75 ms as a graph.
"""

from __future__ import annotations

import itertools
import logging
import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from spoter_runtime.contract import LENGTHS, LOGITS, POSES, GraphContract
from spoter_runtime.gpu.graph_cache import GraphCache
from spoter_runtime.landmarks import NUM_FEATURES, Float32Array
from spoter_runtime.runner import Int32Array

_log = logging.getLogger(__name__)

# Frames are padded up to a multiple of this, so that few shapes occur.
BUCKET: Final = 16

# Largest batch to record, in clips × padded frames: 1.8 MB of landmarks, which stay on the GPU. In larger
# batches the launch of kernels matters less.
MOST_FRAMES: Final = 4096

_NOT_RECORDED: Final = "-1"  # ONNX Runtime's own word for a call without a graph


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The buffers of a recorded graph; the graph holds their addresses, so they are never freed."""

    poses: Any
    lengths: Any
    logits: Any
    binding: Any
    options: Any


class GraphedSession:
    """Run an ``onnxruntime.InferenceSession`` as CUDA graphs, one for each shape of its inputs.

    A single clip is recorded at the first call of each padded length. Batches of several clips have many
    shapes that never recur, so they are recorded at a shape's second call. ONNX Runtime cannot free a graph;
    at most `most` are kept. All other batches run without a graph. Thread-safe: one call at a time, because a
    graph has one set of buffers.
    """

    def __init__(
        self, ort: Any, session: Any, contract: GraphContract, *, most: int, device: str = "cuda"
    ) -> None:
        """Wrap a session; nothing is recorded yet.

        Args:
            ort: the module `onnxruntime`.
            session: made with the provider's option ``enable_cuda_graph``.
            contract: contract of the model.
            most: largest number of graphs for batches of several clips.
            device: the session's device, in ONNX Runtime's words.
        """
        self._ort = ort
        self._session = session
        self._contract = contract
        self._device = device
        self._alone: GraphCache[tuple[int, int], _Recorded] = GraphCache()
        self._several: GraphCache[tuple[int, int], _Recorded] = GraphCache(most, calls_before=1, evicts=False)
        # Never reuse a number, not even of an interrupted first call: its graph may exist already, and would
        # read freed buffers.
        self._numbers = itertools.count(1)
        self._staged = np.zeros(MOST_FRAMES * NUM_FEATURES, np.float32)
        self._apart = self._options(_NOT_RECORDED)
        self._lock = threading.Lock()

    def run(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        """Return the logits (N, C) of a checked batch, in a fresh array."""
        batch, frames, _ = poses_NTD.shape
        shape = batch, padded_frames(frames, self._contract.max_frames)
        graphs = self._alone if batch == 1 else self._several
        with self._lock:
            recorded = graphs.get(shape)
            if recorded is not None:
                return self._replay(recorded, shape, poses_NTD, lengths_N)
            if batch * shape[1] <= MOST_FRAMES and graphs.is_due(shape):
                graphs[shape], logits_NC = self._record(shape, poses_NTD, lengths_N)
                return logits_NC
            return self._run_apart(poses_NTD, lengths_N)

    def _record(
        self, shape: tuple[int, int], poses_NTD: Float32Array, lengths_N: Int32Array
    ) -> tuple[_Recorded | None, Float32Array]:
        """Return a shape's graph, None if recording fails, and the logits of its first batch."""
        try:
            recorded = self._bound(*shape)
            return recorded, self._replay(recorded, shape, poses_NTD, lengths_N)
        except Exception as error:  # noqa: BLE001  (fall back to running without a graph)
            logits_NC = self._run_apart(poses_NTD, lengths_N)
            _log.warning("%d clips of %d frames run without a CUDA graph: %s", *shape, error)
            return None, logits_NC

    def _bound(self, batch: int, frames: int) -> _Recorded:
        options = self._options(str(next(self._numbers)))
        value_of = self._ort.OrtValue
        empty_NTD = np.zeros((batch, frames, NUM_FEATURES), np.float32)
        poses = value_of.ortvalue_from_numpy(empty_NTD, self._device, 0)
        lengths = value_of.ortvalue_from_numpy(np.ones(batch, np.int32), self._device, 0)
        logits = value_of.ortvalue_from_shape_and_type(
            [batch, self._contract.num_classes], np.float32, self._device, 0
        )
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(POSES, poses)
        binding.bind_ortvalue_input(LENGTHS, lengths)
        binding.bind_ortvalue_output(LOGITS, logits)
        return _Recorded(poses, lengths, logits, binding, options)

    def _replay(
        self,
        recorded: _Recorded,
        shape: tuple[int, int],
        poses_NTD: Float32Array,
        lengths_N: Int32Array,
    ) -> Float32Array:
        batch, frames = shape
        size = batch * frames * NUM_FEATURES
        staged_NTD = self._staged[:size].reshape(batch, frames, NUM_FEATURES)
        given = poses_NTD.shape[1]
        staged_NTD[:, :given] = poses_NTD
        staged_NTD[:, given:] = 0
        recorded.poses.update_inplace(staged_NTD)
        recorded.lengths.update_inplace(lengths_N)
        self._session.run_with_iobinding(recorded.binding, recorded.options)
        logits_NC: Float32Array = recorded.logits.numpy().copy()  # on a CPU, numpy() is the buffer itself
        return logits_NC

    def _run_apart(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        inputs = {POSES: poses_NTD, LENGTHS: lengths_N}
        logits_NC: Float32Array = self._session.run([LOGITS], inputs, self._apart)[0]
        return logits_NC

    def _options(self, graph: str) -> Any:
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph)
        return options


def padded_frames(frames: int, max_frames: int) -> int:
    """Return the padded length of a batch: a multiple of `BUCKET`, at most `max_frames`."""
    return min(-(-frames // BUCKET) * BUCKET, max_frames)
