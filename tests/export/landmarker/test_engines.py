from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest

from spoter_export.landmarker import engines
from spoter_export.landmarker.engines import FRAMES, gpu_form, write_engines
from spoter_runtime.camera.files import GRAPHS, MANIFEST, copy_landmarker, read_landmarker
from spoter_runtime.camera.goldens import golden_inputs
from spoter_runtime.camera.landmarker import Landmarker
from spoter_runtime.errors import BundleError, ConfigError, ExportError
from spoter_runtime.ort.installed import import_onnxruntime
from spoter_runtime.ort.session import SessionSettings, cpu_session


def run_of(models):
    """Return run(graph, **inputs) of ONNX files in memory."""
    ort = import_onnxruntime()
    options = SessionSettings(threads=1, spin=False).options(ort)
    sessions = {
        name: cpu_session(ort, model.SerializeToString(), options, (), name)[0]
        for name, model in models.items()
    }
    return lambda graph, **inputs: sessions[graph].run(None, inputs)


@pytest.fixture(scope="module")
def both(landmarker_folder):
    """The graphs as they are, and as TensorRT reads them."""
    models = {name: onnx.load(landmarker_folder / f"{name}.onnx") for name in GRAPHS}
    return run_of(models), run_of({name: gpu_form(model) for name, model in models.items()})


def test_the_form_for_tensorrt_gives_the_same_answers_to_the_bit(both):
    for graph, inputs in golden_inputs().items():
        for one, other in zip(*(run(graph, **inputs) for run in both), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_signer_is_seen_alike_to_the_bit(both, signing_video):
    pytest.importorskip("av", reason="PyAV reads the video")
    from spoter_runtime.camera.video import video_frames

    frames = [frame.rgb for frame in video_frames(signing_video())][:8]
    one, other = (np.stack([*map(Landmarker(run, ""), frames)]) for run in both)
    assert np.isfinite(one).mean() > 0.6
    np.testing.assert_array_equal(one, other)


@pytest.fixture
def copied(landmarker_folder, tmp_path):
    return shutil.copytree(landmarker_folder, tmp_path / "landmarker")


@pytest.fixture(scope="module")
def recrop_engine(made_once, landmarker_folder):
    """The plan and description of the smallest graph's engine, built by TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no engine can be built")
    model = (landmarker_folder / "recrop.onnx").read_bytes()
    return made_once(
        "recrop-engine", lambda folder: engines.build_engine("recrop", model, "tensorrt_rtx", ["8.9"])
    )


def test_an_engine_says_what_it_is_for_and_what_it_is_made_of(recrop_engine, landmarker_folder):
    plan, spec = recrop_engine
    assert spec.onnx_sha256 == read_landmarker(landmarker_folder).hashes["recrop.onnx"]
    assert (spec.library, spec.compute_capabilities, spec.profiles) == ("tensorrt_rtx", ("8.9",), ())
    assert spec.built["frames"] == [list(size) for size in FRAMES]
    assert len(plan) > 100_000


def test_engines_are_listed_and_the_landmarker_keeps_its_name(copied, recrop_engine, tmp_path, monkeypatch):
    before = read_landmarker(copied)
    monkeypatch.setattr(engines, "build_engine", lambda *_: recrop_engine)
    for _ in range(2):  # the second build replaces the first
        built = write_engines(read_landmarker(copied), "tensorrt_rtx")
    after = read_landmarker(copied)
    assert after.engines == built
    assert [engine.graph for engine in built] == list(GRAPHS)
    assert (after.sha256, after.hashes) == (before.sha256, before.hashes)
    copy_landmarker(after, tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {path.name for path in copied.iterdir()}
    (copied / built[0].path).write_bytes(b"x")
    with pytest.raises(BundleError, match=r"pose_detection\.tensorrt_rtx\.engine: sha256 is"):
        copy_landmarker(after, tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "../hand.engine"}, "no name of an engine"),
        ({"size_bytes": "many"}, r"engines\[0\].size_bytes"),
        ({"more": 1}, r"engines\[0\]"),
    ],
)
def test_a_damaged_entry_is_refused(copied, recrop_engine, monkeypatch, change, message):
    monkeypatch.setattr(engines, "build_engine", lambda *_: recrop_engine)
    write_engines(read_landmarker(copied), "tensorrt_rtx")
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["engines"][0] |= change
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        read_landmarker(copied)


def test_what_cannot_be_built_is_said_before_anything_is(copied):
    with pytest.raises(ConfigError, match="GPU of this machine"):
        write_engines(read_landmarker(copied), "tensorrt", compute_capabilities=["8.9"])
    (copied.parent / "bundle.json").touch()
    with pytest.raises(ExportError, match="the landmarker of a bundle is not changed"):
        write_engines(read_landmarker(copied), "tensorrt_rtx")
