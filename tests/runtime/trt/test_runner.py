"""The engine runner: which profile and padding serve a batch, and, where there is a GPU, the answers."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import logging
import platform
import subprocess
import sys
import threading
import weakref
from contextlib import ExitStack

import numpy as np
import pytest

from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.contract import GraphContract, Label, Profile
from spoter_runtime.errors import BackendError, MissingExtraError
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.gpu.graph_cache import GraphCache
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.trt.engine_check import difference, expected_engine
from spoter_runtime.trt.log import EngineLog, engine_runtime
from spoter_runtime.trt.runner import TrtRunner, _Execution
from spoter_runtime.trt.shape_choice import Shape, choose_shape

ONE = Profile(batch=(1, 1, 1), frames=(1, 40, 99))
MANY = Profile(batch=(1, 8, 8), frames=(1, 60, 99))
BUCKETS = (20, 50, 99)


def spec_of(library="tensorrt_rtx", **changes):
    values = {
        "library": library,
        "version": "1.7.1.116",
        "compute_capabilities": ("8.6",),
        "system": platform.system(),
        "machine": platform.machine(),
        "profiles": (ONE, MANY),
        "buckets": BUCKETS,
        "onnx_sha256": "0" * 64,
        "built": {},
    }
    return EngineSpec(**(values | changes))


def usable_gpu():
    try:
        return find_gpu()
    except (BackendError, MissingExtraError) as error:
        return error


GPU = usable_gpu()
LIBRARIES = ("tensorrt", "tensorrt_rtx")


# Which shape serves a batch.


@pytest.mark.parametrize(
    ("batch", "frames", "shape"),
    [
        (1, 1, Shape(0, 1, 20)),
        (1, 20, Shape(0, 1, 20)),
        (1, 21, Shape(0, 1, 50)),
        (1, 99, Shape(0, 1, 99)),
        (2, 1, Shape(1, 2, 20)),
        (8, 51, Shape(1, 8, 99)),
        (9, 1, None),
        (1, 100, None),
    ],
)
def test_a_batch_takes_the_tightest_profile_and_the_next_bucket(batch, frames, shape):
    assert choose_shape((ONE, MANY), BUCKETS, batch, frames) == shape
    swapped = choose_shape((MANY, ONE), BUCKETS, batch, frames)
    assert swapped == (shape and dataclasses.replace(shape, profile=1 - shape.profile))


def test_without_buckets_nothing_is_padded():
    assert choose_shape((ONE, MANY), (), 3, 37) == Shape(1, 3, 37)


def test_a_bucket_beyond_the_profile_is_not_used():
    short = Profile(batch=(1, 1, 1), frames=(1, 30, 45))
    assert choose_shape((short, MANY), BUCKETS, 1, 40) == Shape(0, 1, 40)
    assert choose_shape((short, MANY), BUCKETS, 1, 15) == Shape(0, 1, 20)
    assert choose_shape((short, MANY), BUCKETS, 1, 46) == Shape(1, 1, 50)


def test_of_equal_profiles_the_first_is_taken():
    assert choose_shape((MANY, MANY), (), 4, 4) == Shape(0, 4, 4)


# What the library says.


def test_errors_of_the_library_are_kept_and_warnings_are_logged(caplog):
    trt = pytest.importorskip("tensorrt_rtx", reason="the log is a class of the library: needs tensorrt-rtx")
    log = EngineLog(trt)
    with caplog.at_level(logging.INFO):
        log.logger.log(trt.ILogger.ERROR, "broken\n")
        log.logger.log(trt.ILogger.INTERNAL_ERROR, "much broken\n")
        log.logger.log(trt.ILogger.ERROR, "broken\n")
        log.logger.log(trt.ILogger.WARNING, "slow")
        log.logger.log(trt.ILogger.INFO, "chatter")
    assert [record.getMessage() for record in caplog.records] == ["tensorrt_rtx: slow"]
    assert log.take() == "broken; much broken"
    assert log.take() == "the library gave no reason"


def test_a_real_failure_of_the_library_arrives_in_its_own_words():
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    log = EngineLog(trt)
    runtime = trt.Runtime(log.logger)
    assert runtime.deserialize_cuda_engine(b"not an engine, really" * 10) is None
    assert "engine" in log.take().lower()


def test_a_runtime_that_cannot_be_made_is_an_error_with_the_librarys_reason():
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    log = EngineLog(trt)
    assert isinstance(engine_runtime(trt, log), trt.Runtime)
    log.logger.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
    log.logger = None  # pybind11 refuses it as it refuses a null pointer: with a TypeError
    message = (
        r"^tensorrt_rtx \S+ cannot make a runtime here: CUDA initialization failure .*35\. Fix: see what"
    )
    with pytest.raises(BackendError, match=message):
        engine_runtime(trt, log)


def test_only_the_first_of_many_errors_are_told():
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    log = EngineLog(trt)
    for text in ("one", "one", "two", "three\n  more", "four"):
        log.logger.log(trt.ILogger.ERROR, text)
    assert log.take() == "one; two; three more"
    assert log.take() == "the library gave no reason"


# What lives on the GPU, as far as it can be had without one.


class Execution(_Execution):
    """One that holds nothing but what is closed, and can neither make a context nor keep a cache."""

    def __init__(self, memory):
        self._memory, self._is_rtx, self._name = memory, True, "trt"
        self._engine = self._runtime = object()
        self._contexts = [object()]
        self._recorded = GraphCache(4)
        self.unrecorded = {}

    def _rtx_save_cache(self):
        raise RuntimeError("the cache cannot be serialized")

    def _new_context(self, profile):
        raise BackendError(f"no execution context for profile {profile}")


def test_a_cache_that_cannot_be_kept_does_not_keep_the_memory():
    freed = []
    with ExitStack() as memory:
        memory.callback(freed.append, "memory")
        execution = Execution(memory.pop_all())
    with pytest.raises(RuntimeError, match="the cache cannot be serialized"):
        execution.close()
    assert freed == ["memory"]
    assert (execution._contexts, execution._engine, execution._runtime) == ([], None, None)


def test_a_shape_that_cannot_be_recorded_is_remembered_with_the_reason(caplog):
    execution, shape = Execution(ExitStack()), Shape(0, 1, 20)
    execution._record(shape)
    assert execution.unrecorded == {shape: "no execution context for profile 0"}
    assert shape in execution._recorded
    assert "runs without a CUDA graph: no execution context" in caplog.text


@pytest.mark.skipif(not isinstance(GPU, BackendError), reason="a GPU is here, or no cuda-bindings")
def test_without_a_gpu_the_reason_is_the_gpus_not_the_librarys():
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    contract = GraphContract(labels=(Label(name="a"),), max_frames=99, max_batch=8)
    with pytest.raises(BackendError, match=r"^(no NVIDIA driver|NVIDIA's driver).* Fix: "):
        TrtRunner(b"", spec_of(), contract)


def test_importing_the_runner_imports_no_engine(python):
    code = "import sys, spoter_runtime.trt.runner, spoter_runtime.trt.preflight; print(*sys.modules)"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert not {"cuda", "tensorrt", "tensorrt_rtx", "onnxruntime", "torch"} & set(done.stdout.split())


# Whether an engine is what its bundle says: compared as plain text, so that it needs no GPU.


def test_the_expected_description_is_the_contracts():
    contract = GraphContract(labels=(Label(name="a"), Label(name="b")), max_frames=99, max_batch=8)
    assert expected_engine(spec_of(), contract) == {
        "poses": "INPUT FLOAT DEVICE ['batch', 'frames', 108]",
        "lengths": "INPUT INT32 DEVICE ['batch']",
        "logits": "OUTPUT FLOAT DEVICE ['batch', 2]",
        "profile 0": "[(1, 1, 108), (1, 40, 108), (1, 99, 108)], [(1,), (1,), (1,)]",
        "profile 1": "[(1, 1, 108), (8, 60, 108), (8, 99, 108)], [(1,), (8,), (8,)]",
    }


def test_the_first_difference_is_told_expected_against_got():
    expected = {"logits": "OUTPUT FLOAT", "profile 0": "(1, 1)"}
    assert difference(expected, dict(expected)) is None
    assert difference(expected | {"logits": "OUTPUT HALF"}, expected) == (
        "logits: expected OUTPUT FLOAT, got OUTPUT HALF"
    )
    assert difference({"logits": "OUTPUT FLOAT"}, expected) == "profile 0: expected (1, 1), got none"
    assert difference(expected | {"mask": "INPUT"}, expected) == "mask: expected none, got INPUT"


# With a GPU.


def engine_for(library, model, contract):
    """Build an engine for the GPU that is here."""
    from spoter_export.trt.profiles import plan_profiles
    from spoter_export.trt.to_tensorrt import engine_from_onnx

    extra = {"compute_capabilities": (GPU.compute_capability,)} if library == "tensorrt_rtx" else {}
    plan = plan_profiles(None, contract)
    return engine_from_onnx(model, library=library, contract=contract, plan=plan, **extra)


@pytest.fixture(scope="module", params=LIBRARIES)
def built(request):
    """The small bundle's model as an engine for the GPU here: (plan, spec, contract, ONNX bytes)."""
    if isinstance(GPU, Exception):
        pytest.skip(str(GPU))
    library = pytest.importorskip(request.param, reason=f"needs {request.param}")
    target = "SM" + GPU.compute_capability.replace(".", "")
    if request.param == "tensorrt_rtx" and not hasattr(library.ComputeCapability, target):
        pytest.skip(f"TensorRT-RTX {library.__version__} builds nothing for {GPU.compute_capability}")
    bundle = request.getfixturevalue(
        "exported"
    ).bundle  # not an argument: it takes seconds, and may be skipped
    model = bundle.read("model.onnx")
    engine = engine_for(request.param, model, bundle.contract)
    assert engine.spec.onnx_sha256 == hashlib.sha256(model).hexdigest()
    return engine.plan, engine.spec, bundle.contract, model


@pytest.fixture
def runner(built):
    plan, spec, contract, _ = built
    with TrtRunner(plan, spec, contract) as runner:
        yield runner


def batch_of(batch, frames, seed=0, ragged=False):
    from spoter_export.probes import generated_poses

    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, frames + 1, batch) if ragged else np.full(batch, frames)
    return generated_poses(rng, batch, frames), lengths.astype(np.int32)


@pytest.fixture
def close(request, built):
    """Return close(got, expected): within what the bundle claims for its fp32 model on any device."""
    tolerance = request.getfixturevalue("exported").bundle.onnx("fp32").max_logit_diff

    def close(got, expected):
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)

    return close


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 2, 7, 8])
def test_the_answers_are_onnx_runtimes(built, runner, batch, close):
    reference = OrtRunner(built[3])
    for frames in (1, 2, 37, 98, 99):
        for ragged in (False, True):
            poses, lengths = batch_of(batch, frames, ragged=ragged)
            expected = reference.infer(poses, lengths)
            for _ in range(3):  # as it is, then recorded, then from the graph
                close(runner.infer(poses, lengths), expected)


@pytest.mark.gpu
def test_what_is_returned_is_the_callers(runner):
    first = runner.infer(*batch_of(2, 30, seed=1))
    kept = first.copy()
    second = runner.infer(*batch_of(2, 30, seed=2))
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)


@pytest.mark.gpu
def test_a_graph_serves_every_length_of_its_bucket(built, close):
    plan, spec, contract, model = built
    if spec.library != "tensorrt":
        pytest.skip("TensorRT-RTX keeps its graphs itself")
    reference = OrtRunner(model)
    with TrtRunner(plan, spec, contract) as runner:
        recorded = runner._execution._recorded
        low, high = 1, spec.buckets[0]
        for frames in (high, low, high):
            poses, lengths = batch_of(1, frames, seed=frames)
            close(runner.infer(poses, lengths), reference.infer(poses, lengths))
        assert len(recorded) == 1
        assert runner.unrecorded == {}


@pytest.mark.gpu
def test_shapes_may_come_in_any_order_and_be_forgotten(built, close):
    plan, spec, contract, model = built
    reference = OrtRunner(model)
    with TrtRunner(plan, spec, contract, graphs=2) as runner:
        rng = np.random.default_rng(5)
        for step in range(40):
            batch, frames = int(rng.integers(1, 9)), int(rng.integers(1, 100))
            poses, lengths = batch_of(batch, frames, seed=step, ragged=True)
            close(runner.infer(poses, lengths), reference.infer(poses, lengths))
        assert len(runner._execution._recorded) <= 2


@pytest.mark.gpu
def test_graphs_change_nothing_but_the_time(built, close):
    plan, spec, contract, _ = built
    poses, lengths = batch_of(3, 41)
    with TrtRunner(plan, spec, contract, graphs=0) as plain, TrtRunner(plan, spec, contract) as graphs:
        expected = plain.infer(poses, lengths)
        assert not plain._execution._recorded
        for _ in range(3):
            close(graphs.infer(poses, lengths), expected)


@pytest.mark.gpu
def test_a_shape_outside_the_profiles_is_refused_with_both(built):
    plan, spec, contract, _ = built
    larger = GraphContract(labels=contract.labels, max_frames=500, max_batch=contract.max_batch)
    with TrtRunner(plan, spec, larger) as runner:
        with pytest.raises(
            BackendError, match=r"no profile of the engine takes 1 clips × 400 frames; it was"
        ):
            runner.infer(*batch_of(1, 400))
        assert runner.infer(*batch_of(1, 30)).shape == (1, contract.num_classes)


@pytest.mark.gpu
def test_threads_may_share_a_runner(runner, close):
    batches = [batch_of(1 + i % 3, 10 + i, seed=i) for i in range(12)]
    expected = [runner.infer(*batch) for batch in batches]
    wrong: list[int] = []

    def work(start):
        for i in range(start, start + 60):
            try:
                close(runner.infer(*batches[i % 12]), expected[i % 12])
            except (AssertionError, BackendError):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.gpu
def test_a_closed_runner_says_so_and_closes_twice(built):
    plan, spec, contract, _ = built
    runner = TrtRunner(plan, spec, contract)
    runner.infer(*batch_of(1, 5))
    runner.close()
    runner.close()
    with pytest.raises(BackendError, match=r"this runner is closed\. Fix: open the bundle again"):
        runner.infer(*batch_of(1, 5))


@pytest.mark.gpu
def test_opening_and_closing_gives_the_memory_back(built):
    from spoter_runtime.gpu.cuda import check, import_cudart

    cudart = import_cudart()
    plan, spec, contract, _ = built
    left = []
    for _ in range(6):
        runner = TrtRunner(plan, spec, contract)
        runner.infer(*batch_of(8, 99))
        gone = weakref.ref(runner)
        del runner  # without close: whoever forgets it loses no memory either
        gc.collect()
        assert gone() is None
        left.append(check("cudaMemGetInfo", cudart.cudaMemGetInfo())[0])
    assert left[-1] >= left[1] - (1 << 20)


@pytest.mark.gpu
def test_an_engine_of_other_profiles_or_classes_is_refused(built):
    plan, spec, contract, _ = built
    with pytest.raises(BackendError, match=r"profile 0: expected .*, got "):
        TrtRunner(plan, dataclasses.replace(spec, profiles=(MANY,)), contract)
    fewer = GraphContract(labels=contract.labels[:4], max_frames=99, max_batch=8)
    message = r"logits: expected OUTPUT FLOAT DEVICE \['batch', 4\], got OUTPUT FLOAT DEVICE \['batch', 5\]"
    with pytest.raises(BackendError, match=message):
        TrtRunner(plan, spec, fewer)


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_half_an_engine_is_refused_in_the_librarys_words(built, share):
    plan, spec, contract, _ = built
    with pytest.raises(BackendError, match=r"cannot load the engine: .+"):
        TrtRunner(plan[: int(share * len(plan))], spec, contract)


@pytest.mark.gpu
def test_the_runtime_cache_is_written_read_and_ignored_when_damaged(built, tmp_path, close):
    plan, spec, contract, _ = built
    if spec.library != "tensorrt_rtx":
        pytest.skip("only TensorRT-RTX compiles kernels where it runs")
    path, batch = tmp_path / "kernels.cache", batch_of(2, 30)
    with TrtRunner(plan, spec, contract, runtime_cache=path) as runner:
        expected = runner.infer(*batch)
    assert path.stat().st_size > 0
    for content in (path.read_bytes(), b"", b"damaged"):
        path.write_bytes(content)
        with TrtRunner(plan, spec, contract, runtime_cache=path) as runner:
            close(runner.infer(*batch), expected)
    assert path.stat().st_size > len(b"damaged")


@pytest.mark.gpu
def test_a_process_that_forgets_to_close_ends_quietly(built, tmp_path):
    plan, spec, _, model = built
    (tmp_path / "plan").write_bytes(plan)
    (tmp_path / "onnx").write_bytes(model)
    code = (
        "import json, sys, numpy as np; from pathlib import Path\n"
        "from spoter_runtime.bundle.engine_spec import EngineSpec\n"
        "from spoter_runtime.ort.runner import OrtRunner\n"
        "from spoter_runtime.trt.runner import TrtRunner\n"
        "folder = Path(sys.argv[1]); contract = OrtRunner(folder / 'onnx').contract\n"
        "spec = EngineSpec.from_json(json.loads(sys.argv[2]))\n"
        "runner = TrtRunner((folder / 'plan').read_bytes(), spec, contract)\n"
        "print(runner.infer(np.zeros((1, 9, 108), np.float32)).shape)\n"
    )
    command = [sys.executable, "-c", code, tmp_path, json.dumps(spec.as_json())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{(1, 5)}\n"
