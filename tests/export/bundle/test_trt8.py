"""Files for TensorRT 8.6 come into a bundle proven, or not at all; and an engine is built from them only."""

from __future__ import annotations

import sys
import types

import onnx
import pytest

from spoter_export.bundle import engines, trt8
from spoter_export.bundle.engines import source_of
from spoter_export.bundle.files import read_proofs
from spoter_export.bundle.trt8 import add_trt8_files
from spoter_export.trt.file_checks import check_readable
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.errors import BundleError, ConfigError, ExportError
from spoter_runtime.trt.versions import abilities
from spoter_runtime.verify import verify_bundle


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_are_added_proven_and_older_parts_stay(bundle_copy):
    before = files_of(bundle_copy)
    proofs = add_trt8_files(bundle_copy, precisions=("fp32", "fp16"))
    bundle = read_bundle(bundle_copy)
    assert bundle.check_files()
    assert list(bundle.by_precision("trt8")) == ["fp32", "fp16"]
    assert [proof.artefact for proof in proofs] == ["model.trt8.onnx", "model.fp16.trt8.onnx"]
    assert all(proof.verdict.passed for proof in proofs)
    assert read_proofs(bundle)[-2:] == proofs
    graphs = [onnx.load_from_string(bundle.read(proof.artefact)) for proof in proofs]
    assert [graph.opset_import[0].version for graph in graphs] == [17, 17]
    casts = [node for node in graphs[1].graph.node if node.op_type == "Cast"]
    assert len(casts) < 10
    head = next(node for node in reversed(graphs[1].graph.node) if node.op_type in ("Gemm", "MatMul"))
    weights = {tensor.name: tensor.data_type for tensor in graphs[1].graph.initializer}
    assert weights[head.input[1]] == onnx.TensorProto.FLOAT
    assert files_of(bundle_copy)["model.onnx"] == before["model.onnx"]
    assert verify_bundle(bundle_copy).backend == "ort-cpu-fused"
    add_trt8_files(bundle_copy)  # again: the file is replaced, not doubled
    assert sorted(read_bundle(bundle_copy).by_precision("trt8")) == ["fp16", "fp32"]


def test_wrong_answers_are_not_added(bundle_copy, monkeypatch):
    def off_by_one(model):
        rewritten = real(model)
        bias = next(t for t in rewritten.graph.initializer if list(t.dims) == [5])
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
        return rewritten

    real = trt8.opset_17
    monkeypatch.setattr(trt8, "opset_17", off_by_one)
    before = files_of(bundle_copy)
    with pytest.raises(ExportError, match=r"model\.trt8\.onnx: its answers are not the model's; it was not"):
        add_trt8_files(bundle_copy)
    assert files_of(bundle_copy) == before


def test_int8_is_not_for_it(bundle_copy):
    with pytest.raises(ConfigError, match=r"TensorRT 8\.6 gets no int8 file. Fix: --precision fp32,fp16"):
        add_trt8_files(bundle_copy, precisions=("fp32", "int8"))


@pytest.fixture
def installed(monkeypatch):
    """Return installed(version): let an empty module stand in for TensorRT, with that version."""

    def installed(version):
        module = types.ModuleType("tensorrt")
        module.__version__ = version
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr(engines, "import_engine_library", lambda library: module)

    return installed


def test_8_6_builds_from_its_own_file_and_10_from_the_other(bundle_copy, installed):
    installed("8.6.2")
    missing = r"has no fp16 ONNX file"
    with pytest.raises(BundleError, match=missing):
        source_of(read_bundle(bundle_copy), "tensorrt", "fp16")
    fix = r"which reads opset 17\. Fix: where PyTorch is: spoter-kit export copy\.spoter --trt8$"
    with pytest.raises(BundleError, match=fix):
        source_of(read_bundle(bundle_copy), "tensorrt", "fp32")
    add_trt8_files(bundle_copy)
    assert source_of(read_bundle(bundle_copy), "tensorrt", "fp32").path == "model.trt8.onnx"
    installed("10.3.0")
    assert source_of(read_bundle(bundle_copy), "tensorrt", "fp32").path == "model.onnx"


def test_a_file_of_opset_20_or_with_an_int64_input_is_refused_before_the_parser_narrows_it(exported):
    content = exported.bundle.read("model.onnx")
    old, new = abilities("tensorrt", "8.6.0"), abilities("tensorrt", "10.16.1.11")
    check_readable(content, new, "tensorrt 10.16.1.11")
    with pytest.raises(
        ExportError, match=r"^tensorrt 8\.6\.0 reads ONNX files up to opset 17, this one has opset 20"
    ):
        check_readable(content, old, "tensorrt 8.6.0")
    graph = trt8.opset_17(onnx.load_from_string(content))
    check_readable(graph.SerializeToString(), old, "tensorrt 8.6.0")
    graph.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    with pytest.raises(ExportError, match=r"the input lengths is int64, expected int32"):
        check_readable(graph.SerializeToString(), old, "tensorrt 8.6.0")
    with pytest.raises(ExportError, match=r"cannot read the ONNX file: truncated"):
        check_readable(content[:1000], old, "tensorrt 8.6.0")


def test_an_engine_of_8_6_needs_only_the_file_for_8_6(bundle_copy, installed):
    """Before, the bundle had to have an fp16 file for newer versions too."""
    add_trt8_files(bundle_copy, precisions=("fp16",))
    installed("8.6.2")
    assert source_of(read_bundle(bundle_copy), "tensorrt", "fp16").path == "model.fp16.trt8.onnx"
