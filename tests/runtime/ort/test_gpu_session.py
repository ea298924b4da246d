"""ONNX Runtime's GPU providers: who really computes, and what is said where they cannot."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from spoter_runtime.contract import METADATA_KEY, Profile
from spoter_runtime.errors import BackendError, BundleError, is_installed, pip_fix
from spoter_runtime.model_file.graph import OnnxGraph, read_onnx
from spoter_runtime.ort.gpu_session import (
    check_driver,
    check_installed,
    cpu_fallback_nodes,
    provider_options,
)
from spoter_runtime.ort.installed import PROVIDER_NAMES
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import pad_clips

PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
ON_GPU = {provider: name for provider, name in PROVIDER_NAMES.items() if provider != "cpu"}
CUDA = PROVIDER_NAMES["cuda"]
NO_NAMES = OnnxGraph(metadata={}, names=frozenset(), float_names=frozenset())


def _cpu_assignment(content):
    """Return what a real session on the CPU says of where its nodes run."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.get_provider_graph_assignment_info()


@pytest.fixture(scope="module")
def content(bundle_folder):
    return (bundle_folder / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def assignment(content):
    return _cpu_assignment(content)


@pytest.mark.parametrize("provider", ON_GPU.values())
def test_every_float_node_on_the_cpu_falls_back_and_no_shape_is(content, assignment, provider):
    graph = read_onnx(content)
    fallback = cpu_fallback_nodes(assignment, graph, provider)
    nodes = [node for part in assignment for node in part.get_nodes()]
    assert fallback == [
        f"{node.op_type} {node.name!r} (CPUExecutionProvider)"
        for node in nodes
        # Transpositions are moved by an optimiser, which gives them other names.
        if node.name in graph.float_names or (node.name not in graph.names and node.op_type == "Transpose")
    ]
    kinds = {text.partition(" ")[0] for text in fallback}
    assert kinds >= {"MatMul", "Gemm", "LayerNormalization", "Softmax", "Add", "Concat", "Slice"}
    assert "Shape" not in kinds
    assert len(fallback) < len(nodes)


def test_a_kind_of_node_with_two_roles_is_told_by_its_name(content, assignment):
    fallback = set(cpu_fallback_nodes(assignment, read_onnx(content), CUDA))
    kinds = {"Concat": set(), "Slice": set()}
    for node in (node for part in assignment for node in part.get_nodes()):
        if node.op_type in kinds:
            kinds[node.op_type].add(f"{node.op_type} {node.name!r} (CPUExecutionProvider)" in fallback)
    assert kinds == {"Concat": {True, False}, "Slice": {True, False}}


def test_a_node_that_the_file_has_not_is_told_by_its_kind(assignment):
    fallback = {text.partition(" ")[0] for text in cpu_fallback_nodes(assignment, NO_NAMES, CUDA)}
    assert fallback >= {"MatMul", "Add", "Reshape", "Transpose"}
    assert not fallback & {"Shape", "Gather", "Concat", "Slice"}


def test_arithmetic_on_shapes_alone_strands_nothing(onnx_model):
    model = onnx_model(
        [
            helper.make_node("Shape", ["x"], ["shape"], name="shape"),
            helper.make_node("Mul", ["shape", "shape"], ["y"], name="twice"),
        ],
        {"x": (TensorProto.FLOAT, ["n", "t"])},
        {"y": (TensorProto.INT64, [2])},
    )
    content = model.SerializeToString()
    assert {node.name for part in _cpu_assignment(content) for node in part.get_nodes()} == {"shape", "twice"}
    assert cpu_fallback_nodes(_cpu_assignment(content), read_onnx(content), CUDA) == []


PROFILE = Profile(batch=(1, 2, 8), frames=(1, 60, 99))


def test_cuda_computes_in_the_precision_of_the_file(tmp_path):
    assert provider_options("cuda", PROFILE, tmp_path / "cache") == {"use_tf32": "0"}
    assert provider_options("cuda", graphs=True) == {"use_tf32": "0", "enable_cuda_graph": "1"}
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("provider", "prefix"), [("tensorrt", "trt"), ("tensorrt-rtx", "nv")])
def test_tensorrt_builds_for_the_profile(provider, prefix):
    assert provider_options(provider, PROFILE) == {
        f"{prefix}_profile_min_shapes": "poses:1x1x108,lengths:1",
        f"{prefix}_profile_opt_shapes": "poses:2x60x108,lengths:2",
        f"{prefix}_profile_max_shapes": "poses:8x99x108,lengths:8",
    }


def test_a_cache_is_a_folder_that_is_made(tmp_path):
    folder = tmp_path / "new" / "cache"
    options = provider_options("tensorrt", None, folder)
    assert options == {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(folder)}
    assert folder.is_dir()
    assert provider_options("tensorrt-rtx", None, folder) == {"nv_runtime_cache_path": str(folder)}


@pytest.mark.parametrize("provider", ["tensorrt", "tensorrt-rtx"])
def test_a_cache_that_cannot_be_made_is_done_without(provider, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert provider_options(provider, None, tmp_path / "file" / "cache") == {}
    assert "cannot be made, engines are built anew in every process" in caplog.text


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_this_build_has_not_is_named_with_what_it_has(bundle_folder, provider):
    name = PROVIDER_NAMES[provider]
    if name in ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {name}")
    message = (
        rf"{name}: not in onnxruntime \S+, which has .*CPUExecutionProvider\. "
        rf"Fix: pip uninstall -y onnxruntime && {re.escape(pip_fix('gpu'))}$"
    )
    with pytest.raises(BackendError, match=message):
        OrtRunner(bundle_folder / "model.onnx", provider=provider)


def test_a_plugin_that_is_not_installed_is_named(bundle_folder):
    if is_installed(PLUGIN):
        pytest.skip("the plug-in is installed")
    message = (
        r"plug-in is not installed\. Fix: (pip uninstall -y onnxruntime-gpu && )?"
        rf"{re.escape(pip_fix('ort-rtx'))}; for CUDA 12 (pip uninstall -y onnxruntime-gpu && )?"
        rf"{re.escape(pip_fix('cpu'))} onnxruntime-ep-nv-tensorrt-rtx-cu12$"
    )
    with pytest.raises(BackendError, match=message):
        OrtRunner(bundle_folder / "model.onnx", provider="tensorrt-rtx")


def test_a_machine_without_a_driver_is_told_so():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        message = r"CUDAExecutionProvider: no NVIDIA driver on this machine \(.+\). Fix: install the driver"
        with pytest.raises(BackendError, match=message):
            check_driver("cuda")
    else:
        pytest.skip("this machine has NVIDIA's driver")


def test_a_file_is_judged_before_a_gpu_is_asked_for(bundle_folder, tmp_path, content):
    path = tmp_path / "alone.onnx"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=r"alone.onnx: refused: truncated"):
        OrtRunner(path, provider="cuda")
    model = onnx.load(bundle_folder / "model.onnx")
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=rf"alone.onnx: no '{METADATA_KEY}' in its metadata"):
        OrtRunner(path, provider="cuda")


@pytest.fixture(params=ON_GPU)
def gpu_runner(request, bundle_folder, tmp_path):
    """A runner on the GPU; the test is skipped where provider or driver is not here, and only then."""
    try:
        check_installed(ort, request.param)
        check_driver(request.param)
    except BackendError as error:
        pytest.skip(str(error))
    try:
        return OrtRunner(bundle_folder / "model.onnx", provider=request.param, cache=tmp_path / "cache")
    except BackendError as error:
        if "libnvinfer" in str(error):  # the provider comes with ONNX Runtime, TensorRT does not
            pytest.skip(str(error))
        raise


@pytest.mark.gpu
def test_a_gpu_gives_the_answers_of_the_cpu_for_every_shape(gpu_runner, bundle_folder, make_clip):
    cpu = OrtRunner(bundle_folder / "model.onnx")
    assert gpu_runner.contract == cpu.contract
    for lengths in ([1], [2], [99], [20, 3], [5] * 8, [99, 1, 50]):
        batch = pad_clips([make_clip(seed, frames) for seed, frames in enumerate(lengths)])
        np.testing.assert_allclose(gpu_runner.infer(*batch), cpu.infer(*batch), atol=1e-3)


@pytest.mark.gpu
def test_a_second_runner_needs_no_second_registration(gpu_runner, bundle_folder, make_clip):
    provider = gpu_runner.name.removeprefix("ort-")
    batch = pad_clips([make_clip()])
    again = OrtRunner(bundle_folder / "model.onnx", provider=provider)
    np.testing.assert_allclose(again.infer(*batch), gpu_runner.infer(*batch), atol=1e-4)
