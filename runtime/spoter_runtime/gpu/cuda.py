"""CUDA's runtime through cuda-bindings, every call checked: memory, a stream, captured graphs."""

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
    """Import `cuda.bindings.runtime`, which needs no GPU and no driver to be imported.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
    """
    # The namespace first: other distributions share the folder `cuda`, and an absent `cuda.bindings` would be
    # taken for a broken one.
    require("cuda.bindings", extra="trt")
    return require("cuda.bindings.runtime", extra="trt")


def check(call: str, result: tuple[Any, ...]) -> Any:
    """Return what a CUDA call gave beside its error code: None, the one value, or a tuple of them.

    Args:
        call: what was called, for the message.
        result: what cuda-bindings returned: the code, then the values.

    Raises:
        BackendError: the code is not success; the message has CUDA's name and text for it.
    """
    error, *values = result
    if int(error) != _SUCCESS:
        raise BackendError(f"{call}: {error.name}: {_text(error)}")
    return values[0] if len(values) == 1 else tuple(values) or None


def _text(error: Any) -> str:
    text = import_cudart().cudaGetErrorString(error)[1]
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _release(call: str, result: tuple[Any, ...]) -> None:
    """Report a failed release, and go on: there is more to release, and mostly an error being raised."""
    try:
        check(call, result)
    except BackendError as error:
        _log.warning("%s", error)


class DeviceBuffer:
    """Memory on the GPU.

    Attributes:
        address: where it begins, aligned to 256 bytes.
        size_bytes: as asked for.
    """

    def __init__(self, size_bytes: int, what: str) -> None:
        """Allocate.

        Args:
            size_bytes: at least 1.
            what: it is for, for the message.

        Raises:
            BackendError: the GPU has not that much left, or cannot be used.
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
    """Memory on the host that the GPU copies from and to by itself.

    Attributes:
        array: one-dimensional view of it; it must not be used after `close`.
    """

    def __init__(self, size: int, dtype: npt.DTypeLike, what: str) -> None:
        """Allocate `size` elements.

        Raises:
            BackendError: there is not that much pinned memory, or CUDA cannot be used.
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
    """A queue of work on the GPU that does not wait for the default stream.

    Attributes:
        handle: the number that engines take.
    """

    def __init__(self) -> None:
        """Create it.

        Raises:
            BackendError: CUDA cannot be used.
        """
        cudart = import_cudart()
        result = cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking)
        self.handle: int = int(check("cudaStreamCreateWithFlags", result))
        self._open = True

    def synchronize(self) -> None:
        """Wait until all of its work is done.

        Raises:
            BackendError: some of that work failed.
        """
        check("cudaStreamSynchronize", import_cudart().cudaStreamSynchronize(self.handle))

    def to_device(self, buffer: DeviceBuffer, source: PinnedArray, size_bytes: int) -> None:
        """Queue a copy of the first `size_bytes` to the GPU.

        Raises:
            BackendError: it cannot be queued.
        """
        cudart = import_cudart()
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        result = cudart.cudaMemcpyAsync(buffer.address, source.address, size_bytes, kind, self.handle)
        check("cudaMemcpyAsync to the GPU", result)

    def to_host(self, target: PinnedArray, buffer: DeviceBuffer, size_bytes: int) -> None:
        """Queue a copy of the first `size_bytes` from the GPU.

        Raises:
            BackendError: it cannot be queued.
        """
        cudart = import_cudart()
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        result = cudart.cudaMemcpyAsync(target.address, buffer.address, size_bytes, kind, self.handle)
        check("cudaMemcpyAsync from the GPU", result)

    def close(self) -> None:
        """Destroy it; a second call does nothing."""
        if self._open:
            self._open = False
            _release("cudaStreamDestroy", import_cudart().cudaStreamDestroy(self.handle))


class Graph:
    """Work that was recorded once and is launched as a whole: same shapes, same addresses."""

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        """Record what `work` queues on the stream; nothing of it runs.

        Raises:
            BackendError: some of the work cannot be recorded; the stream can be used again.
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
            BackendError: it cannot be queued.
        """
        check("cudaGraphLaunch", import_cudart().cudaGraphLaunch(self._executable, stream.handle))

    def close(self) -> None:
        """Destroy it; no launch of it may be running. A second call does nothing."""
        if self._executable is not None:
            executable, self._executable = self._executable, None
            _release("cudaGraphExecDestroy", import_cudart().cudaGraphExecDestroy(executable))


def _record(cudart: Any, stream: Stream, work: Callable[[], None]) -> Any:
    # Thread-local: what other threads do with CUDA meanwhile neither enters the graph nor spoils it.
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
    """End a recording that failed, or the stream stays in capture mode for ever."""
    error, recorded = cudart.cudaStreamEndCapture(stream.handle)
    if int(error) == _SUCCESS and int(recorded):
        _release("cudaGraphDestroy", cudart.cudaGraphDestroy(recorded))
    _forget_last_error(cudart)


def _forget_last_error(cudart: Any) -> None:
    # Or a later call may report this failure as its own. The engine library may have a CUDA runtime of its
    # own inside, as cuda-bindings may have: there this reaches only what cuda-bindings remembers.
    cudart.cudaGetLastError()
