"""CUDA's runtime through cuda-bindings, every call checked: memory, streams, graphs."""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import BackendError, require

_log = logging.getLogger(__name__)

_SUCCESS: Final = 0
_OUT_OF_MEMORY: Final = "cudaErrorMemoryAllocation"


@functools.cache  # asked for in every call
def import_cudart() -> Any:
    """Import `cuda.bindings.runtime`; needs neither a GPU nor a driver.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
    """
    # First `cuda.bindings`: other distributions share the namespace `cuda`, and `require` would report an
    # absent `cuda.bindings` as a broken one.
    require("cuda.bindings", extra="trt")
    return require("cuda.bindings.runtime", extra="trt")


def check(call: str, result: tuple[Any, ...]) -> Any:
    """Check a CUDA call's error code; return its values: None, a single one, or a tuple.

    Args:
        call: name of the function, for the message.
        result: the error code, then the values, as cuda-bindings returns them.

    Raises:
        BackendError: the call failed; the message has CUDA's name and text of the error.
    """
    error, *values = result
    if int(error) != _SUCCESS:
        raise BackendError(f"{call}: {error.name}: {_text(error)}")
    return values[0] if len(values) == 1 else tuple(values) or None


def _text(error: Any) -> str:
    text = import_cudart().cudaGetErrorString(error)[1]
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _release(call: str, result: tuple[Any, ...]) -> None:
    """Log a failed release instead of raising: the remaining resources must be released too."""
    try:
        check(call, result)
    except BackendError as error:
        _log.warning("%s", error)


class DeviceBuffer:
    """Memory on the GPU.

    Attributes:
        address: its first byte, aligned to 256.
        size_bytes: the requested size.
    """

    def __init__(self, size_bytes: int, what: str) -> None:
        """Allocate the memory.

        Args:
            size_bytes: at least 1.
            what: purpose of the buffer, for the message.

        Raises:
            BackendError: too little free memory, or the GPU cannot be used.
        """
        cudart = import_cudart()
        result = cudart.cudaMalloc(size_bytes)
        self.size_bytes = size_bytes
        self.address: int | None = int(_allocated("cudaMalloc", result, size_bytes, what, "GPU memory"))

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if self.address is not None:
            address, self.address = self.address, None
            _release("cudaFree", import_cudart().cudaFree(address))


class PinnedArray:
    """Pinned host memory, for asynchronous copies.

    Attributes:
        array: one-dimensional view of the memory; invalid after `close`.
    """

    def __init__(self, size: int, dtype: npt.DTypeLike, what: str) -> None:
        """Allocate `size` elements.

        Raises:
            BackendError: too little pinned memory, or CUDA cannot be used.
        """
        cudart = import_cudart()
        size_bytes = size * np.dtype(dtype).itemsize
        result = cudart.cudaHostAlloc(size_bytes, cudart.cudaHostAllocDefault)
        address = _allocated("cudaHostAlloc", result, size_bytes, what, "pinned host memory")
        self.address: int | None = int(address)
        memory = (ctypes.c_byte * size_bytes).from_address(self.address)
        self.array = np.frombuffer(memoryview(memory), dtype)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if self.address is not None:
            address, self.address = self.address, None
            self.array = self.array[:0]
            _release("cudaFreeHost", import_cudart().cudaFreeHost(address))


def _allocated(call: str, result: tuple[Any, ...], size_bytes: int, what: str, where: str) -> Any:
    if result[0].name != _OUT_OF_MEMORY:
        return check(call, result)
    raise BackendError(
        f"{call}: out of memory: {what} takes {size_bytes / 1e6:.1f} MB of {where}{_left()}",
        fix="close other programs that use the GPU, or export with a smaller --max-batch",
    )


def _left() -> str:
    error, free, total = import_cudart().cudaMemGetInfo()
    return "" if int(error) != _SUCCESS else f"; the GPU has {free / 1e6:.1f} of {total / 1e6:.1f} MB left"


class Stream:
    """A non-blocking CUDA stream: its work does not wait for the default stream.

    Attributes:
        handle: the stream as an integer, for engines.
    """

    def __init__(self) -> None:
        """Create the stream.

        Raises:
            BackendError: CUDA cannot be used.
        """
        cudart = import_cudart()
        result = cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking)
        self.handle: int = int(check("cudaStreamCreateWithFlags", result))
        self._open = True

    def synchronize(self) -> None:
        """Wait until all queued work is done.

        Raises:
            BackendError: some of the work failed.
        """
        check("cudaStreamSynchronize", import_cudart().cudaStreamSynchronize(self.handle))

    def to_device(self, buffer: DeviceBuffer, source: PinnedArray, size_bytes: int) -> None:
        """Copy the first `size_bytes` bytes of `source` to `buffer`, asynchronously on this stream.

        Raises:
            BackendError: the copy cannot be queued.
        """
        cudart = import_cudart()
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        result = cudart.cudaMemcpyAsync(buffer.address, source.address, size_bytes, kind, self.handle)
        check("cudaMemcpyAsync to the GPU", result)

    def to_host(self, target: PinnedArray, buffer: DeviceBuffer, size_bytes: int) -> None:
        """Copy the first `size_bytes` bytes of `buffer` to `target`, asynchronously on this stream.

        Raises:
            BackendError: the copy cannot be queued.
        """
        cudart = import_cudart()
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        result = cudart.cudaMemcpyAsync(target.address, buffer.address, size_bytes, kind, self.handle)
        check("cudaMemcpyAsync from the GPU", result)

    def close(self) -> None:
        """Destroy the stream; a second call does nothing."""
        if self._open:
            self._open = False
            _release("cudaStreamDestroy", import_cudart().cudaStreamDestroy(self.handle))


class Graph:
    """A CUDA graph: work recorded once and launched as a whole, with the same shapes and addresses."""

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        """Record the work that `work` queues on the stream, without running it.

        Raises:
            BackendError: the work cannot be recorded; the stream stays usable.
        """
        self._executable: Any = None
        cudart = import_cudart()
        recorded = _record(cudart, stream, work)
        try:
            self._executable = check("cudaGraphInstantiate", cudart.cudaGraphInstantiate(recorded, 0))
        finally:
            _release("cudaGraphDestroy", cudart.cudaGraphDestroy(recorded))

    def launch(self, stream: Stream) -> None:
        """Queue the recorded work on a stream.

        Raises:
            BackendError: the launch cannot be queued.
        """
        check("cudaGraphLaunch", import_cudart().cudaGraphLaunch(self._executable, stream.handle))

    def close(self) -> None:
        """Destroy the graph, which must not be running; a second call does nothing."""
        if self._executable is not None:
            executable, self._executable = self._executable, None
            _release("cudaGraphExecDestroy", import_cudart().cudaGraphExecDestroy(executable))


def _record(cudart: Any, stream: Stream, work: Callable[[], None]) -> Any:
    # Thread-local: CUDA calls of other threads are neither recorded nor do they spoil the recording.
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    check("cudaStreamBeginCapture", cudart.cudaStreamBeginCapture(stream.handle, mode))
    try:
        work()
    except BaseException:
        _abandon(cudart, stream)
        raise
    try:
        return check("cudaStreamEndCapture", cudart.cudaStreamEndCapture(stream.handle))
    except BackendError:
        _forget_last_error(cudart)
        raise


def _abandon(cudart: Any, stream: Stream) -> None:
    """End a failed recording; otherwise the stream stays in capture mode."""
    error, recorded = cudart.cudaStreamEndCapture(stream.handle)
    if int(error) == _SUCCESS and int(recorded):
        _release("cudaGraphDestroy", cudart.cudaGraphDestroy(recorded))
    _forget_last_error(cudart)


def _forget_last_error(cudart: Any) -> None:
    # Clear the sticky error, or a later call reports it as its own. The engine library may contain a CUDA
    # runtime of its own, as may cuda-bindings: then this clears only the error that cuda-bindings keeps.
    cudart.cudaGetLastError()
