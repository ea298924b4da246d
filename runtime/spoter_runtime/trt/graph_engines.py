"""Run several small engines on one GPU, by the names of their inputs and outputs, with shapes that change."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.bundle.libraries import BACKEND_OF, Library
from spoter_runtime.errors import BackendError
from spoter_runtime.gpu.cuda import DeviceBuffer, PinnedArray, Stream
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.gpu.packages import import_engine_library
from spoter_runtime.trt.log import EngineLog, engine_runtime

Array = npt.NDArray[Any]
_FLOAT_BYTES: Final = 4


class GraphEngines:
    """Engines whose outputs are float32; one call at a time, on the first GPU that CUDA shows.

    Tensors of one name share their memory: an input that is the very same array as in the call before is not
    copied again, so a frame goes to the GPU once for all engines.
    """

    def __init__(self, builder: Library, plans: Mapping[str, bytes]) -> None:
        """Load engines, by name; check each with `spoter_runtime.trt.preflight` first.

        Raises:
            MissingExtraError: the library, or cuda-bindings, is not installed.
            BackendError: no usable GPU, too little memory, or an engine cannot be loaded.
        """
        self._name = BACKEND_OF[builder]
        library: Any = import_engine_library(builder)
        find_gpu()  # its errors name the missing part; the libraries' errors do not
        self._log = EngineLog(library)
        self._lock = threading.Lock()
        self._rooms: dict[str, _Room] = {}
        self._last: dict[str, Array] = {}  # held, so that no new array has its identity
        runtime = engine_runtime(library, self._log)
        output = library.TensorIOMode.OUTPUT
        with ExitStack() as stack:
            self._stream = Stream()
            stack.callback(self._stream.close)
            self._engines = {}
            for name, plan in plans.items():
                engine = runtime.deserialize_cuda_engine(plan)
                if engine is None:
                    raise self._failed(f"cannot load {name}")
                context = engine.create_execution_context()
                if context is None:
                    raise self._failed(f"no execution context for {name}, mostly for want of GPU memory")
                names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
                outputs = [each for each in names if engine.get_tensor_mode(each) == output]
                self._engines[name] = (context, outputs, engine)
            # Free the GPU memory even if nobody closes it: contexts first, then what they use.
            stack.callback(_free, self._rooms)
            stack.callback(self._engines.clear)
            weakref.finalize(self, stack.pop_all().close)

    def run(self, engine: str, **inputs: Array) -> list[Array]:
        """Return an engine's outputs, in its order.

        Raises:
            BackendError: a shape that it was not built for, too little memory, or it failed.
        """
        with self._lock:
            context, names, _ = self._engines[engine]
            for name, value in inputs.items():
                if not context.set_input_shape(name, value.shape):
                    raise self._failed(f"{engine}: {name} cannot be {value.shape}")
                self._give(context, name, value)
            if unset := context.infer_shapes():
                raise self._failed(f"{engine}: shapes are missing for {', '.join(unset)}")
            shapes = {name: tuple(context.get_tensor_shape(name)) for name in names}
            for name, shape in shapes.items():
                self._last.pop(name, None)  # an input of another engine may have its name
                room = self._room(name, int(np.prod(shape)), np.float32)
                room.host.array[:] = np.nan  # detects work that never ran
                self._point(context, name, room)
            if not context.execute_async_v3(self._stream.handle):
                raise self._failed(f"{engine}: failed")
            sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
            for name, size in sizes.items():
                room = self._rooms[name]
                self._stream.to_host(room.host, room.device, size * _FLOAT_BYTES)
            self._stream.synchronize()
            return [
                self._rooms[name].host.array[: sizes[name]].reshape(shape).copy()
                for name, shape in shapes.items()
            ]

    def _give(self, context: Any, name: str, value: Array) -> None:
        room = self._room(name, value.size, value.dtype)
        if self._last.get(name) is not value:
            room.host.array[: value.size] = value.reshape(-1)
            self._stream.to_device(room.device, room.host, value.nbytes)
            self._last[name] = value
        self._point(context, name, room)

    def _point(self, context: Any, name: str, room: _Room) -> None:
        if not context.set_tensor_address(name, room.device.address):
            raise self._failed(f"the address of {name} cannot be set")

    def _room(self, name: str, size: int, dtype: npt.DTypeLike) -> _Room:
        """Return memory for a tensor; a larger one than before gets a new place."""
        room = self._rooms.get(name)
        if room is None or room.host.array.size < size:
            self._last.pop(name, None)
            if room is not None:
                room.close()
                del self._rooms[name]
            room = self._rooms[name] = _Room(name, size, dtype)
        return room

    def _failed(self, what: str) -> BackendError:
        return BackendError(f"{self._name}: {what}: {self._log.take()}")


class _Room:
    """A tensor's memory on the GPU, and pinned memory to copy from and to."""

    def __init__(self, name: str, size: int, dtype: npt.DTypeLike) -> None:
        size = max(size, 1)
        self.device = DeviceBuffer(size * np.dtype(dtype).itemsize, name)
        try:
            self.host = PinnedArray(size, dtype, name)
        except BaseException:
            self.device.close()
            raise

    def close(self) -> None:
        self.device.close()
        self.host.close()


def _free(rooms: dict[str, _Room]) -> None:
    for room in rooms.values():
        room.close()
