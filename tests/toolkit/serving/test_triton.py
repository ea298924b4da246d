"""A Triton model repository: configurations by Triton's own schema, files, the Python backend's model."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import types

import numpy as np
import pytest

from in_process import spoter_kit
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.errors import ConfigError, DataError
from spoter_runtime.recognizer import Recognizer
from spoter_toolkit.export import export
from spoter_toolkit.serving.models import sources_from
from spoter_toolkit.serving.triton import write_repository

MODELS = ("small", "small_tensorrt", "small_python")


@pytest.fixture(scope="module")
def repository(bundle_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton") / "repository"
    assert write_repository(read_bundle(bundle_folder), folder).models == MODELS
    return folder


def parsed(folder):
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="Triton's schema is not installed: tritonclient, grpcio"
    )
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


@pytest.mark.parametrize("name", MODELS)
def test_each_configuration_is_one_of_tritons_schema(repository, contract, name):
    config = parsed(repository / name)
    assert (config.name, config.max_batch_size) == (name, contract.max_batch)
    poses, lengths = config.input
    assert (list(poses.dims), list(lengths.dims)) == ([-1, 108], [1])
    assert list(config.output[0].dims) == [5]
    assert (repository / name / "labels.txt").read_text().splitlines()[0] == "cha"
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert config.instance_group[0].kind == (1 if name == "small_tensorrt" else 2)  # KIND_GPU, KIND_CPU
    for one in config.model_warmup:
        for key, kind in (("poses", np.float32), ("lengths", np.int32)):
            asked = one.inputs[key]
            found = np.fromfile(repository / name / "warmup" / asked.input_data_file, kind)
            assert found.size == np.prod(list(asked.dims))
    assert len(config.model_warmup) == 2


def test_each_engine_has_what_it_needs(repository, bundle_folder):
    onnx, accelerated, python = (parsed(repository / name) for name in MODELS)
    assert onnx.backend == accelerated.backend == "onnxruntime"
    assert list(onnx.input[1].reshape.shape) == []
    assert onnx.input[1].HasField("reshape")
    assert accelerated.optimization.execution_accelerators.gpu_execution_accelerator[0].name == "tensorrt"
    assert python.input[0].allow_ragged_batch
    model = (bundle_folder / "model.onnx").read_bytes()
    assert all((repository / name / "1" / "model.onnx").read_bytes() == model for name in MODELS[:2])
    assert (repository / "small_python" / "1" / "spoter_runtime" / "recognizer.py").is_file()


def test_tensorrt_engines_are_taken_by_the_gpu_they_are_for(bundle_folder, tmp_path):
    from spoter_runtime.bundle.engine_spec import EngineSpec

    bundle = read_bundle(bundle_folder)
    spec = EngineSpec(
        **{
            "library": "tensorrt",
            "version": "10.3.0",
            "system": "Linux",
            "machine": "x86_64",
            "profiles": (),
        },
        **{"buckets": (), "onnx_sha256": "", "built": {}, "compute_capabilities": ("8.6", "8.9")},
    )
    engine = dataclasses.replace(bundle.onnx(), kind="engine", engine=spec)  # any file that is there
    with_engine = dataclasses.replace(bundle, artefacts=(*bundle.artefacts, engine))
    write_repository(with_engine, tmp_path / "repository")
    config = parsed(tmp_path / "repository" / "small_tensorrt")
    assert config.platform == "tensorrt_plan"
    assert dict(config.cc_model_filenames) == {"8.6": "model-8.6.plan", "8.9": "model-8.9.plan"}
    assert {path.name for path in (tmp_path / "repository" / "small_tensorrt" / "1").iterdir()} == set(
        config.cc_model_filenames.values()
    )


def test_a_renamed_bundle_has_the_same_name_here_and_in_serve(bundle_copy, tmp_path):
    renamed = bundle_copy.rename(tmp_path / "letters.spoter")
    written = write_repository(read_bundle(renamed), tmp_path / "repository")
    assert written.models == ("letters", "letters_tensorrt", "letters_python")
    assert list(sources_from([str(renamed)])) == [("letters", "1")]
    spaced = renamed.rename(tmp_path / "my letters.spoter")
    with pytest.raises(ConfigError, match=r"'my letters' is more than.*Fix: mv '.*spoter' letters\.spoter"):
        write_repository(read_bundle(spaced), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_repository_is_replaced_only_where_it_is_one(repository, bundle_folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for force in (False, True):
        with pytest.raises(DataError, match=r"exists already\. Fix: choose another"):
            write_repository(read_bundle(bundle_folder), other, force=force)
    with pytest.raises(DataError, match="Fix: --force replaces it"):
        write_repository(read_bundle(bundle_folder), repository)
    with pytest.raises(DataError, match="Fix: --force replaces it"):  # before anything else is done
        export(bundle_folder, camera=True, triton=repository)
    asked = ("export", bundle_folder, "--triton", repository)
    done = spoter_kit(tmp_path, *asked, "--force", "--json")
    assert done.returncode == 0, done.stderr
    assert "written, not loaded" in done.stderr
    written = json.loads(done.stdout)
    models = sorted(path.name for path in repository.iterdir() if path.is_dir())
    assert written["bundle"] == str(bundle_folder)
    assert written["triton"]["repository"] == str(repository)
    assert sorted(written["triton"]["models"]) == models
    refused = spoter_kit(tmp_path, *asked)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Fix: --force replaces it" in refused.stderr


class Tensor:
    def __init__(self, name, array):
        self.name, self._array = name, array

    def as_numpy(self):
        return self._array


@dataclasses.dataclass
class Response:
    output_tensors: list = dataclasses.field(default_factory=list)
    error: str | None = None


def test_the_python_backends_model_answers_ragged_requests_and_fails_a_bad_one_alone(
    repository, bundle_folder, make_clip, monkeypatch
):
    """In a stand-in for the module that only Triton has; PyTriton's Triton was asked by hand."""
    stand_in = types.ModuleType("triton_python_backend_utils")
    stand_in.Tensor, stand_in.InferenceResponse, stand_in.TritonError = Tensor, Response, str
    stand_in.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    file = repository / "small_python" / "1" / "model.py"
    module = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("model", file))
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_repository": str(repository / "small_python"), "model_version": "1"})

    clips = [make_clip(seed, frames).astype(np.float32) for seed, frames in ((1, 30), (2, 9), (3, 28))]
    requests = [
        {"poses": clip.reshape(1, -1, 108), "lengths": np.array([[len(clip)]], np.int32)} for clip in clips
    ]
    requests.insert(1, {"poses": np.full((1, 3, 108), np.nan, np.float32), "lengths": np.int32([[3]])})
    first, bad, *others = model.execute(requests)
    assert bad.error.startswith("clip: no landmark is detected in any of its 3 frames")
    expected = Recognizer.load(bundle_folder).predict_many(clips)
    for response, prediction in zip([first, *others], expected, strict=True):
        (logits,) = response.output_tensors
        np.testing.assert_allclose(logits.as_numpy(), [prediction.logits_C], atol=1e-4)
