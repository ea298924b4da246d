"""The GPU is found, or its absence explained; CUDA's errors are raised; bad installations are named."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from spoter_runtime.errors import BackendError, MissingExtraError, pip_fix
from spoter_runtime.gpu import cuda
from spoter_runtime.gpu.device import find_gpu, no_gpu_error
from spoter_runtime.gpu.packages import import_engine_library, mixed_cuda_packages


def _gpu_reason():
    try:
        return find_gpu().name
    except (BackendError, MissingExtraError) as error:
        return error


FOUND = _gpu_reason()
needs_cuda = pytest.mark.skipif(isinstance(FOUND, MissingExtraError), reason=str(FOUND))
needs_no_gpu = pytest.mark.skipif(
    not isinstance(FOUND, BackendError), reason="a GPU is here, or no cuda-bindings"
)
needs_gpu = pytest.mark.skipif(isinstance(FOUND, Exception), reason=str(FOUND))


@needs_no_gpu
def test_a_machine_without_a_driver_is_told_so():
    with pytest.raises(BackendError, match=r"^(no NVIDIA driver on this machine|NVIDIA's driver .*)\. Fix: "):
        find_gpu()


@pytest.mark.gpu
@needs_gpu
def test_the_gpu_is_described():
    gpu = find_gpu()
    assert gpu.name
    assert "\0" not in gpu.name
    assert re.fullmatch(r"\d+\.\d", gpu.compute_capability)
    assert gpu.memory_bytes > 1 << 30
    assert re.fullmatch(r"1\d\.\d", gpu.driver_cuda)
    with pytest.raises(BackendError, match=r"^GPU 99: this machine has \d+, counted from 0\. Fix: "):
        find_gpu(99)


@pytest.mark.parametrize(
    ("error", "driver", "count", "index", "message"),
    [
        ("", 0, 0, 0, "no NVIDIA driver on this machine. Fix: install the driver"),
        (
            "cudaErrorInsufficientDriver",
            12040,
            0,
            0,
            "takes CUDA up to 12.4, cuda-bindings is of CUDA 13.5. Fix: update the driver, or for its CUDA "
            "pip install 'cuda-bindings==12.*'",
        ),
        ("cudaErrorNoDevice", 12040, 0, 0, "NVIDIA's driver (CUDA 12.4) finds no GPU"),
        ("cudaSuccess", 12040, 0, 0, "NVIDIA's driver (CUDA 12.4) finds no GPU"),
        ("cudaErrorSystemNotReady", 13000, 0, 0, "CUDA cannot be used: cudaErrorSystemNotReady (driver 13.0"),
        ("cudaSuccess", 13000, 2, 2, "GPU 2: this machine has 2, counted from 0"),
        ("cudaSuccess", 13000, 2, -1, "GPU -1: this machine has 2, counted from 0"),
    ],
)
def test_every_way_to_have_no_gpu_has_its_words(error, driver, count, index, message):
    reason = no_gpu_error(error, driver=driver, runtime=13050, count=count, index=index)
    assert message in str(reason)


def test_an_older_driver_of_the_same_major_version_is_no_reason():
    assert no_gpu_error("cudaSuccess", driver=13000, runtime=13050, count=1) is None


def test_a_hidden_gpu_is_told_with_what_hides_it(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    reason = no_gpu_error("cudaErrorNoDevice", driver=13000, runtime=13050, count=0)
    assert "finds no GPU; CUDA_VISIBLE_DEVICES is ''" in str(reason)


def test_without_cuda_bindings_the_extra_is_named(python):
    done = python("-c", "from spoter_runtime.gpu.device import find_gpu; find_gpu()", absent=["cuda"])
    assert "MissingExtraError: this needs the Python module 'cuda.bindings'" in done.stderr
    assert done.stderr.endswith(f"Fix: {pip_fix('trt')}\n")


def test_another_owner_of_the_folder_cuda_does_not_hide_what_is_missing(python, tmp_path):
    # As cuda-pathfinder alone leaves it: the namespace is there, the bindings are not.
    (tmp_path / "other" / "cuda").mkdir(parents=True)
    (tmp_path / "other" / "cuda" / "__init__.py").touch()
    code = "from spoter_runtime.gpu.device import find_gpu; find_gpu()"
    done = python("-c", code, path=[tmp_path / "other"])
    assert "MissingExtraError: this needs the Python module 'cuda.bindings'" in done.stderr


# Errors of the CUDA runtime, from real calls.


@needs_cuda
def test_check_unpacks_what_a_call_gave():
    cudart = cuda.import_cudart()
    assert cuda.check("cudaRuntimeGetVersion", cudart.cudaRuntimeGetVersion()) >= 12000
    success = cudart.cudaError_t.cudaSuccess
    assert cuda.check("nothing", (success,)) is None
    assert cuda.check("two", (success, 1, 2)) == (1, 2)


@needs_cuda
def test_an_error_carries_cudas_name_and_text():
    cudart = cuda.import_cudart()
    code = cudart.cudaError_t.cudaErrorIllegalAddress
    message = r"^cudaFree: cudaErrorIllegalAddress: an illegal memory access was encountered$"
    with pytest.raises(BackendError, match=message):
        cuda.check("cudaFree", (code,))


@needs_no_gpu
@pytest.mark.parametrize(
    ("make", "call"),
    [
        (lambda: cuda.DeviceBuffer(1024, "poses"), "cudaMalloc"),
        (lambda: cuda.PinnedArray(16, np.float32, "poses"), "cudaHostAlloc"),
        (cuda.Stream, "cudaStreamCreateWithFlags"),
    ],
)
def test_no_failing_call_is_passed_over(make, call):
    with pytest.raises(BackendError, match=rf"^{call}: cudaError(InsufficientDriver|NoDevice): "):
        make()


@needs_cuda
def test_out_of_memory_says_what_for_how_much_and_what_to_do():
    code = cuda.import_cudart().cudaError_t.cudaErrorMemoryAllocation
    message = (
        r"^cudaMalloc: out of memory: the engine's activations takes 4096\.0 MB of GPU memory.*"
        r"\. Fix: close other programs that use the GPU, or export with a smaller --max-batch$"
    )
    with pytest.raises(BackendError, match=message):
        cuda._allocated("cudaMalloc", (code, None), 4_096_000_000, "the engine's activations", "GPU memory")


@pytest.mark.gpu
@needs_gpu
def test_memory_goes_there_and_back_and_is_given_back():
    stream = cuda.Stream()
    host, buffer = cuda.PinnedArray(1000, np.float32, "test"), cuda.DeviceBuffer(4000, "test")
    back = cuda.PinnedArray(1000, np.float32, "test")
    host.array[:] = np.arange(1000)
    back.array[:] = 0
    stream.to_device(buffer, host, 4000)
    stream.to_host(back, buffer, 4000)
    stream.synchronize()
    np.testing.assert_array_equal(back.array, np.arange(1000))
    for owned in (back, host, buffer, stream):
        owned.close()
        owned.close()


@pytest.mark.gpu
@needs_gpu
def test_a_graph_repeats_what_was_recorded_and_recording_runs_nothing():
    stream = cuda.Stream()
    host, buffer = cuda.PinnedArray(4, np.float32, "test"), cuda.DeviceBuffer(16, "test")
    back = cuda.PinnedArray(4, np.float32, "test")
    back.array[:] = -1

    def work():
        stream.to_device(buffer, host, 16)
        stream.to_host(back, buffer, 16)

    graph = cuda.Graph(stream, work)
    stream.synchronize()
    assert (back.array == -1).all()
    for value in (3, 5):
        host.array[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert (back.array == value).all()
    for owned in (graph, graph, back, host, buffer, stream):
        owned.close()


@pytest.mark.gpu
@needs_gpu
def test_a_recording_that_fails_leaves_the_stream_usable():
    stream = cuda.Stream()

    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cuda.Graph(stream, fails)
    with pytest.raises(BackendError, match="cudaStreamSynchronize"):
        cuda.Graph(stream, stream.synchronize)  # forbidden while recording
    stream.synchronize()
    stream.close()


@pytest.mark.gpu
@needs_gpu
def test_more_memory_than_the_gpu_has_is_refused_with_the_numbers():
    asked = find_gpu().memory_bytes * 4
    message = r"out of memory: a test takes .* MB of GPU memory; the GPU has .* of .* MB left\. Fix: "
    with pytest.raises(BackendError, match=message):
        cuda.DeviceBuffer(asked, "a test")


# Installations.


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return installed(name=version): let these look installed, as pip records it, and no others."""

    def installed(**versions):
        for name, version in versions.items():
            info = tmp_path / f"{name}-{version}.dist-info"
            info.mkdir()
            metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
            (info / "METADATA").write_text(metadata)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    return installed


def module(tmp_path, name, text=""):
    (tmp_path / f"{name}.py").write_text(text)


def test_packages_for_one_cuda_are_no_problem(installed, tmp_path):
    module(tmp_path, "tensorrt")
    installed(tensorrt="11.4.0.106", tensorrt_cu13="11.4.0.106", cuda_bindings="13.5.0")
    assert mixed_cuda_packages() == []


def test_jetsons_own_package_is_no_problem(installed, tmp_path):
    module(tmp_path, "tensorrt")
    installed(tensorrt="10.3.0", cuda_bindings="12.6.2")
    assert mixed_cuda_packages() == []


def test_the_packages_of_tensorrt_8_6_fit_each_other(installed, tmp_path):
    module(tmp_path, "tensorrt")
    cuda = {"nvidia_cublas_cu12": "12.1.3.1", "nvidia_cudnn_cu12": "8.9.7.29", "cuda_bindings": "12.9.4"}
    installed(tensorrt="8.6.0", **cuda)
    assert mixed_cuda_packages() == []


def test_a_placeholder_of_nvidias_is_no_cuda(installed, tmp_path):
    module(tmp_path, "tensorrt")
    installed(tensorrt_cu12="10.16.1.11", nvidia_cublas="0.0.1.dev5")
    assert mixed_cuda_packages() == []


def test_an_empty_environment_is_no_problem(installed):
    installed()
    assert mixed_cuda_packages() == []


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        (
            {"tensorrt_cu13_libs": "11.4.0.106", "cuda_bindings": "12.9.1"},
            "packages for CUDA 12 (cuda-bindings 12.9.1) and for CUDA 13 (tensorrt-cu13-libs 11.4.0.106) are "
            "mixed. Fix: pip install 'cuda-bindings==13.*'",
        ),
        (
            {"tensorrt_cu12_libs": "10.16.1.11", "cuda_bindings": "13.5.0"},
            "packages for CUDA 12 (tensorrt-cu12-libs 10.16.1.11) and for CUDA 13 (cuda-bindings 13.5.0) are "
            "mixed. Fix: pip install 'cuda-bindings==12.*'",
        ),
        (
            {"tensorrt_cu12": "10.16.1.11", "tensorrt_cu13": "11.4.0.106", "cuda_bindings": "13.5.0"},
            "are mixed. Fix: pip uninstall -y tensorrt-cu12 && pip install --force-reinstall --no-deps "
            "'cuda-bindings==13.5.0' 'tensorrt-cu13==11.4.0.106'",
        ),
        (
            {"tensorrt": "8.6.0", "nvidia_cublas_cu11": "11.11.3.6"},
            "packages for CUDA 11 (nvidia-cublas-cu11 11.11.3.6) and for CUDA 12 (tensorrt 8.6.0) are mixed",
        ),
        (
            {"tensorrt": "8.6.0", "cuda_bindings": "11.8.7"},
            "are mixed. Fix: pip install 'cuda-bindings==12.*'",
        ),
        (
            {"tensorrt": "8.6.0", "nvidia_cudnn_cu12": "9.10.2.21"},
            "tensorrt 8.6.0 needs cuDNN 8, nvidia-cudnn-cu12 9.10.2.21 is installed. Fix: pip install "
            "'nvidia-cudnn-cu12==8.9.*'; give torch an environment of its own",
        ),
        (
            {"tensorrt_lean_cu12": "10.16.1.11", "cuda_bindings": "13.5.0"},
            "packages for CUDA 12 (tensorrt-lean-cu12 10.16.1.11) and for CUDA 13 (cuda-bindings 13.5.0)",
        ),
        (
            {"tensorrt_rtx_cu12": "1.6.0.1", "tensorrt_rtx_cu13": "1.7.1.116"},
            "Fix: pip uninstall -y tensorrt-rtx-cu12 && pip install --force-reinstall --no-deps "
            "'tensorrt-rtx-cu13==1.7.1.116'",
        ),
        (
            {"tensorrt_cu13": "11.4.0.106", "nvidia_cuda_runtime_cu12": "12.8.90"},
            "packages for CUDA 12 (nvidia-cuda-runtime-cu12 12.8.90) and for CUDA 13 "
            "(tensorrt-cu13 11.4.0.106) are mixed. Fix: give the engine an environment of its own",
        ),
        (
            {"tensorrt_cu12": "10.16.1.11", "nvidia_cublas": "13.10.0.20", "nvidia_cuda_runtime": "13.5.37"},
            "packages for CUDA 12 (tensorrt-cu12 10.16.1.11) and for CUDA 13 (nvidia-cublas 13.10.0.20, "
            "nvidia-cuda-runtime 13.5.37) are mixed. Fix: give the engine an environment of its own, or "
            "install that framework's build for CUDA 12",
        ),
    ],
)
def test_packages_for_two_cudas_are_told_with_the_command_that_mends_it(
    installed, tmp_path, versions, problem
):
    module(tmp_path, "tensorrt")
    module(tmp_path, "tensorrt_lean")
    module(tmp_path, "tensorrt_rtx")
    installed(**versions)
    (found,) = mixed_cuda_packages()
    assert problem in str(found)


def test_metadata_without_the_module_is_half_an_installation(installed):
    installed(tensorrt_cu13_bindings="11.4.0.106")
    (found,) = mixed_cuda_packages()
    assert str(found) == (
        "tensorrt-cu13-bindings 11.4.0.106: installed, but the module 'tensorrt' is not: only a part was "
        f"installed. Fix: pip uninstall -y tensorrt-cu13-bindings && {pip_fix('trt')}"
    )
    with pytest.raises(BackendError, match=re.escape(str(found))):
        import_engine_library("tensorrt")


def test_a_library_that_does_not_load_shows_the_loaders_own_words(installed, tmp_path):
    module(tmp_path, "tensorrt", "raise ImportError('libnvinfer.so.11: cannot open shared object file')")
    installed(tensorrt_cu13="11.4.0.106")
    message = (
        r"^tensorrt-cu13 11\.4\.0\.106: installed, but does not load: libnvinfer\.so\.11: cannot open shared "
        rf"object file\. Fix: {re.escape(pip_fix('trt', option='--force-reinstall'))}$"
    )
    with pytest.raises(BackendError, match=message):
        import_engine_library("tensorrt")


def test_tensorrt_8_6_without_cublas_gets_cublas_and_stays_8_6(installed, tmp_path):
    module(tmp_path, "tensorrt", "raise ImportError('libcublas.so.12: cannot open shared object file')")
    installed(tensorrt="8.6.0")
    with pytest.raises(BackendError, match=r"Fix: pip install 'nvidia-cublas-cu12==12\.1\.\*'"):
        import_engine_library("tensorrt")


def test_a_library_that_is_not_there_names_its_extra(installed):
    installed()
    with pytest.raises(MissingExtraError, match=rf"'tensorrt', .* Fix: {re.escape(pip_fix('trt'))}"):
        import_engine_library("tensorrt")


@pytest.mark.slow
def test_tensorrts_bindings_alone_are_named_as_half_an_installation(pip_target, python):
    """The real package: on a machine that reaches no NVIDIA host, pip may install this much and no more."""
    folder = pip_target("tensorrt-cu13-bindings==11.4.0.106")
    code = "from spoter_runtime.gpu.packages import *; import_engine_library('tensorrt')"
    done = python("-c", code, path=[folder])
    assert "BackendError: tensorrt-cu13-bindings 11.4.0.106: installed, but the module" in done.stderr
    (folder / "tensorrt.py").write_text("from tensorrt_bindings import *\n")  # as the package tensorrt does
    done = python("-c", code, path=[folder])
    assert "installed, but does not load: lib" in done.stderr
    assert "cannot open shared object file" in done.stderr


@pytest.fixture
def pip_target(tmp_path):
    """Return pip_target(requirement): install one distribution into a folder of its own, or skip."""

    def pip_target(requirement):
        folder = tmp_path / "target"
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot get {requirement}: {done.stderr.strip().splitlines()[-1]}")
        return folder

    return pip_target
