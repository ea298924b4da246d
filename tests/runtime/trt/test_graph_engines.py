"""Engines with named tensors, on stand-ins for the library and for CUDA: what is copied, and when."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest

from spoter_runtime.errors import BackendError
from spoter_runtime.trt import graph_engines
from spoter_runtime.trt.graph_engines import GraphEngines


class Gpu:
    """Memory by address, and what was copied to it."""

    def __init__(self):
        self.memory, self.copied = {}, []

    def buffer(self, size_bytes, name):
        address = max(self.memory, default=0) + 1
        self.memory[address] = np.zeros(size_bytes, np.uint8)
        return SimpleNamespace(address=address, close=lambda: self.memory.pop(address))

    def to_device(self, buffer, host, size_bytes):
        self.copied.append(size_bytes)
        self.memory[buffer.address][:size_bytes] = host.array.view(np.uint8)[:size_bytes]

    def to_host(self, host, buffer, size_bytes):
        host.array.view(np.uint8)[:size_bytes] = self.memory[buffer.address][:size_bytes]


class Context:
    """An engine frame, add → sums (N,): the sum of the frame's bytes plus each number."""

    def __init__(self, gpu):
        self.gpu, self.shapes, self.at = gpu, {}, {}

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return max(shape) <= 100

    def infer_shapes(self):
        return [name for name in ("frame", "add") if name not in self.shapes]

    def get_tensor_shape(self, name):
        return self.shapes["add"]

    def set_tensor_address(self, name, address):
        self.at[name] = address
        return True

    def execute_async_v3(self, stream):
        memory = {name: self.gpu.memory[address] for name, address in self.at.items()}
        frame = memory["frame"][: np.prod(self.shapes["frame"])]
        sums = memory["add"].view(np.float32)[: self.shapes["add"][0]] + frame.sum()
        memory["sums"].view(np.float32)[: sums.size] = sums
        return True


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    engine = SimpleNamespace(
        num_io_tensors=3,
        get_tensor_name=["frame", "add", "sums"].__getitem__,
        get_tensor_mode=lambda name: "out" if name == "sums" else "in",
        create_execution_context=lambda: Context(gpu),
    )
    library = SimpleNamespace(TensorIOMode=SimpleNamespace(OUTPUT="out"))
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if plan else None)
    stream = SimpleNamespace(
        handle=1,
        to_device=gpu.to_device,
        to_host=gpu.to_host,
        synchronize=lambda: None,
        close=lambda: None,
    )
    stand_ins = {
        "import_engine_library": lambda name: library,
        "find_gpu": lambda: None,
        "EngineLog": lambda library: SimpleNamespace(take=lambda: "its reason"),
        "engine_runtime": lambda library, log: runtime,
        "Stream": lambda: stream,
        "DeviceBuffer": gpu.buffer,
        "PinnedArray": lambda size, dtype, name: SimpleNamespace(
            array=np.zeros(size, dtype), close=lambda: None
        ),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(graph_engines, name, stand_in)
    return gpu


def test_a_frame_goes_to_the_gpu_once_for_all_engines_and_memory_grows(gpu):
    engines = GraphEngines("tensorrt_rtx", {"one": b"1", "other": b"2"})
    add = np.float32([0, 1])
    for side in (2, 5, 3):
        frame = np.ones((side, side, 3), np.uint8)
        for name in ("one", "other"):
            (sums,) = engines.run(name, frame=frame, add=add[: side - 1].copy())
            np.testing.assert_array_equal(sums, 3 * side**2 + add[: side - 1])
    assert [size for size in gpu.copied if size > 8] == [12, 75, 27]
    del engines
    gc.collect()
    assert not gpu.memory


def test_what_the_engine_does_not_take_is_named_with_the_librarys_reason(gpu):
    engines = GraphEngines("tensorrt_rtx", {"one": b"1"})
    with pytest.raises(BackendError, match=r"trt-rtx: one: frame cannot be \(101, 1, 3\): its reason"):
        engines.run("one", frame=np.ones((101, 1, 3), np.uint8))
    with pytest.raises(BackendError, match="shapes are missing for add"):
        engines.run("one", frame=np.ones((1, 1, 3), np.uint8))
    with pytest.raises(BackendError, match="cannot load two: its reason"):
        GraphEngines("tensorrt_rtx", {"two": b""})
