"""TrtRunner: a TensorRT or TensorRT-RTX engine on an NVIDIA GPU.

Per call: one copy to the GPU, the engine, one copy back.
"""

from __future__ import annotations

import logging
import threading
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.bundle.libraries import BACKEND_OF, Library
from spoter_runtime.contract import LENGTHS, LOGITS, POSES, GraphContract
from spoter_runtime.errors import BackendError
from spoter_runtime.files import replacing
from spoter_runtime.gpu.cuda import DeviceBuffer, Graph, PinnedArray, Stream
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.gpu.graph_cache import GraphCache
from spoter_runtime.gpu.packages import import_engine_library
from spoter_runtime.landmarks import NUM_FEATURES, Float32Array
from spoter_runtime.runner import Int32Array, Runner
from spoter_runtime.trt.engine_check import check_engine
from spoter_runtime.trt.log import EngineLog, engine_runtime
from spoter_runtime.trt.shape_choice import Shape, choose_shape
from spoter_runtime.trt.versions import abilities

_log = logging.getLogger(__name__)

_BYTES: Final = 4  # size of a float32 and of an int32


class TrtRunner(Runner):
    """Run an engine on the first GPU that CUDA shows.

    Thread-safe: one batch at a time, because all share buffers and a stream.
    """

    def __init__(
        self,
        plan: bytes,
        spec: EngineSpec,
        contract: GraphContract,
        *,
        library: Library | None = None,
        graphs: int = 16,
        runtime_cache: Path | None = None,
        allow_host_code: bool = False,
    ) -> None:
        """Load an engine and allocate all memory that it needs.

        Args:
            plan: bytes of the engine; check it with `spoter_runtime.trt.preflight` first.
            spec: the bundle's description of the engine.
            contract: contract of the model.
            library: the library to run it, ``"tensorrt_lean"`` for a version-compatible plan; None means the
                one that built it.
            graphs: largest number of CUDA graphs, one per shape; frames are padded up to the spec's buckets,
                so that few shapes occur. 0 turns graphs and padding off. TensorRT-RTX manages its own graphs;
                any number above 0 turns them on.
            runtime_cache: file for the kernels that TensorRT-RTX compiles on this machine, read now and
                written by `close`; None compiles them in every process. TensorRT ignores it.
            allow_host_code: let the engine run code that it brings on the CPU of this process; only for a
                file whose author you trust.

        Raises:
            MissingExtraError: the library, or cuda-bindings, is not installed.
            BackendError: no usable GPU, too little memory, or the engine cannot be loaded or does not match
                `spec` and `contract`.
        """
        name = library or spec.library
        self.name = BACKEND_OF[name]
        self.contract = contract
        self._lock = threading.Lock()
        module = import_engine_library(name)
        sized_memory = abilities(name, module.__version__).sized_memory
        find_gpu()  # its errors name the missing part; the libraries' errors do not
        try:
            execution = _Execution(
                module, plan, spec, contract, name=self.name, graphs=graphs, cache_path=runtime_cache,
                allow_host_code=allow_host_code, sized_memory=sized_memory,
            )  # fmt: skip
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"{self.name}: cannot load the engine: {error}") from error
        self._execution = execution
        # Free the GPU memory even if nobody calls `close`.
        self._release = weakref.finalize(self, execution.close)

    @property
    def unrecorded(self) -> dict[Shape, str]:
        """Shape → why no CUDA graph could be recorded for it; empty if all could.

        Always empty for TensorRT-RTX, which manages its graphs itself.
        """
        with self._lock:
            return dict(self._execution.unrecorded)

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        with self._lock:
            if not self._release.alive:
                raise BackendError(f"{self.name}: this runner is closed", fix="open the bundle again")
            try:
                return self._execution.run(poses_NTD, lengths_N)
            except BackendError:
                raise
            except Exception as error:
                raise BackendError(f"{self.name}: failed on poses {poses_NTD.shape}: {error}") from error

    def close(self) -> None:
        """Free the GPU memory; a second call does nothing, and `infer` raises from now on."""
        with self._lock:
            self._release()


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A CUDA graph with an execution context of its own: changing a context's shape would break the graph."""

    context: Any
    graph: Graph


class _Execution:
    """The GPU resources of one engine; not thread-safe, and without a reference to its runner."""

    def __init__(
        self,
        library: Any,
        plan: bytes,
        spec: EngineSpec,
        contract: GraphContract,
        *,
        name: str,
        graphs: int,
        cache_path: Path | None,
        allow_host_code: bool,
        sized_memory: bool,
    ) -> None:
        self._name = name
        self._sized_memory = sized_memory
        self._spec = spec
        self._classes = contract.num_classes
        self._library = library
        self._is_rtx = spec.library == "tensorrt_rtx"
        self._buckets = spec.buckets if graphs else ()
        self._rtx_graphs = graphs > 0
        self._log = EngineLog(library)
        self._contexts: list[Any] = []
        # TensorRT-RTX compiles kernels for a shape while it runs: only it knows when to record.
        self._records = graphs > 0 and not self._is_rtx
        self._recorded: GraphCache[Shape, _Recorded] = GraphCache(
            graphs, discard=lambda recorded: recorded.graph.close()
        )
        self.unrecorded: dict[Shape, str] = {}
        self._cache: Any = None
        self._cache_path = cache_path
        self._runtime, self._engine = self._deserialized(plan, allow_host_code)
        check_engine(library, self._engine, spec, contract)
        with ExitStack() as stack:
            self._allocate(stack)
            if self._is_rtx:
                self._cache = self._rtx_cache()
            self._contexts = [self._new_context(i) for i in range(len(spec.profiles))]
            self._memory = stack.pop_all()

    def _deserialized(self, plan: bytes, allow_host_code: bool) -> tuple[Any, Any]:
        runtime = engine_runtime(self._library, self._log)
        if allow_host_code:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            version = f"{self._library.__name__} {self._library.__version__}"
            raise BackendError(f"{version} cannot load the engine: {self._log.take()}")
        return runtime, engine

    def _allocate(self, stack: ExitStack) -> None:
        """Allocate buffers for the largest batch of any profile."""
        most_clips = max(profile.batch[2] for profile in self._spec.profiles)
        most = max(profile.batch[2] * profile.frames[2] for profile in self._spec.profiles) * NUM_FEATURES
        self._stream = Stream()
        stack.callback(self._stream.close)
        sizes = {POSES: most, LENGTHS: most_clips, LOGITS: most_clips * self._classes}
        self._on_gpu: dict[str, DeviceBuffer] = {}
        self._on_host: dict[str, PinnedArray] = {}
        for name, size in sizes.items():
            self._on_gpu[name] = DeviceBuffer(size * _BYTES, name)
            stack.callback(self._on_gpu[name].close)
            dtype = np.int32 if name == LENGTHS else np.float32
            self._on_host[name] = PinnedArray(size, dtype, name)
            stack.callback(self._on_host[name].close)
        if not self._is_rtx:
            # One buffer for all contexts: only one context runs at a time.
            engine = self._engine
            size_bytes = engine.device_memory_size_v2 if self._sized_memory else self._size_trt8()
            self._scratch = DeviceBuffer(max(size_bytes, 1), "the engine's activations")
            stack.callback(self._scratch.close)

    def _new_context(self, profile: int) -> Any:
        engine = self._engine
        if self._is_rtx:
            context = engine.create_execution_context(self._rtx_config())
        elif not self._sized_memory:
            context = self._context_trt8()
        else:
            user_managed = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
            context = engine.create_execution_context(user_managed)
        if context is None:
            raise self._failed(f"no execution context for profile {profile}, mostly for want of GPU memory")
        if not self._is_rtx and self._sized_memory:
            context.set_device_memory(self._scratch.address, self._scratch.size_bytes)
        if not context.set_optimization_profile_async(profile, self._stream.handle):
            raise self._failed(f"profile {profile} cannot be set")
        self._stream.synchronize()
        for name, buffer in self._on_gpu.items():
            if not context.set_tensor_address(name, buffer.address):
                raise self._failed(f"the address of {name} cannot be set")
        return context

    def _size_trt8(self) -> int:
        """Return the bytes of an execution context's memory, as TensorRT 8.6 tells it."""
        size: int = self._engine.device_memory_size
        return size

    def _context_trt8(self) -> Any:
        """Return an execution context in the shared memory, as TensorRT 8.6 makes it; None without one."""
        context = self._engine.create_execution_context_without_device_memory()
        if context is not None:
            context.device_memory = self._scratch.address
        return context

    def _rtx_config(self) -> Any:
        config = self._engine.create_runtime_config()
        strategies = self._library.CudaGraphStrategy
        config.cuda_graph_strategy = (
            strategies.WHOLE_GRAPH_CAPTURE if self._rtx_graphs else strategies.DISABLED
        )
        if self._cache is not None and not config.set_runtime_cache(self._cache):
            raise self._failed("the runtime cache cannot be set")
        return config

    def _rtx_cache(self) -> Any:
        """Return the cache of compiled kernels, read or empty; None without `runtime_cache`."""
        if self._cache_path is None:
            return None
        config = self._engine.create_runtime_config()
        cache = config.create_runtime_cache()
        if cache is None:
            raise self._failed("no runtime cache")
        try:
            kept = self._cache_path.read_bytes()
        except FileNotFoundError:
            return cache
        except OSError as error:
            _log.warning("%s: cannot be read, kernels are compiled anew: %s", self._cache_path, error)
            return cache
        # False for a cache of another version, GPU or driver; `close` writes a new one.
        if not kept or not cache.deserialize(kept):
            _log.info("%s: not for this machine, kernels are compiled anew", self._cache_path)
        return cache

    def _rtx_save_cache(self) -> None:
        cache, path = self._cache, self._cache_path
        self._cache = None
        if cache is None or path is None:
            return
        content = cache.serialize()
        if content is None:
            _log.warning("%s: not written: %s", path, self._log.take())
            return
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(memoryview(content))
        except OSError as error:
            _log.warning("%s: cannot be written, kernels will be compiled again: %s", path, error)

    def run(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        """Return the logits (N, C) of a checked batch, in a fresh array."""
        batch, frames, _ = poses_NTD.shape
        shape = choose_shape(self._spec.profiles, self._buckets, batch, frames)
        if shape is None:
            profiles = " or ".join(map(str, self._spec.profiles))
            raise BackendError(
                f"{self._name}: no profile of the engine takes {batch} clips × {frames} frames; it was built "
                f"for {profiles}",
                fix="export the bundle again",
            )
        self._fill(poses_NTD, lengths_N, shape)
        recorded = self._recorded.get(shape)
        if recorded is not None:
            recorded.graph.launch(self._stream)
        else:
            context = self._contexts[shape.profile]
            self._set_shape(context, shape)
            self._enqueue(context, shape)
        self._stream.synchronize()
        logits = self._on_host[LOGITS].array[: batch * self._classes]
        answer: Float32Array = logits.reshape(batch, self._classes).copy()
        if self._records and self._recorded.is_due(shape):
            self._record(shape)
        return answer

    def _fill(self, poses_NTD: Float32Array, lengths_N: Int32Array, shape: Shape) -> None:
        """Copy a batch into the pinned buffers, padded with zeros."""
        batch, frames, _ = poses_NTD.shape
        size = batch * shape.frames * NUM_FEATURES
        padded = self._on_host[POSES].array[:size].reshape(batch, shape.frames, NUM_FEATURES)
        padded[:, :frames] = poses_NTD
        padded[:, frames:] = 0
        self._on_host[LENGTHS].array[:batch] = lengths_N
        # NaN detects work that never ran; otherwise the previous batch's answer would be returned.
        self._on_host[LOGITS].array[: batch * self._classes] = np.nan

    def _set_shape(self, context: Any, shape: Shape) -> None:
        shapes = {POSES: (shape.batch, shape.frames, NUM_FEATURES), LENGTHS: (shape.batch,)}
        for name, dimensions in shapes.items():
            if not context.set_input_shape(name, dimensions):
                raise self._failed(f"{name} cannot be {dimensions}")
        unset = context.infer_shapes()
        if unset:
            raise self._failed(f"shapes are missing for {', '.join(unset)}")
        logits = tuple(context.get_tensor_shape(LOGITS))
        if logits != (shape.batch, self._classes):
            raise self._failed(f"logits: expected {(shape.batch, self._classes)}, the engine gives {logits}")

    def _enqueue(self, context: Any, shape: Shape) -> None:
        """Queue the copy to the GPU, the engine, and the copy back."""
        stream, sizes = self._stream, {POSES: shape.batch * shape.frames * NUM_FEATURES, LENGTHS: shape.batch}
        for name, size in sizes.items():
            stream.to_device(self._on_gpu[name], self._on_host[name], size * _BYTES)
        if not context.execute_async_v3(stream.handle):
            raise self._failed(f"failed on poses {(shape.batch, shape.frames, NUM_FEATURES)}")
        size_bytes = shape.batch * self._classes * _BYTES
        stream.to_host(self._on_host[LOGITS], self._on_gpu[LOGITS], size_bytes)

    def _record(self, shape: Shape) -> None:
        """Record a CUDA graph for the shape that has just run; on failure, remember to run it without one."""
        self._recorded[shape] = None
        try:
            context = self._new_context(shape.profile)
            self._set_shape(context, shape)
            self._enqueue(context, shape)  # a shape's first run does one-time work, not to be recorded
            self._stream.synchronize()
            graph = Graph(self._stream, lambda: self._enqueue(context, shape))
            self._recorded[shape] = _Recorded(context, graph)
            self.unrecorded.pop(shape, None)
        except Exception as error:  # noqa: BLE001  (the batch has its answer already)
            self.unrecorded[shape] = str(error)
            _log.warning("%s: %s runs without a CUDA graph: %s", self._name, shape, error)

    def _failed(self, what: str) -> BackendError:
        return BackendError(f"{self._name}: {what}: {self._log.take()}")

    def close(self) -> None:
        """Free everything: graphs, contexts, the engine, then their memory."""
        with self._memory:
            self._recorded.clear()
            try:
                if self._is_rtx:
                    self._rtx_save_cache()
            finally:
                self._contexts.clear()
                self._engine = self._runtime = None
