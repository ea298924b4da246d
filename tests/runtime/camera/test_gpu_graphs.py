"""The landmarker's graphs on a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil

import numpy as np
import pytest

from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.camera.files import GRAPHS, MANIFEST, LandmarkerEngine, read_landmarker
from spoter_runtime.camera.gpu_graphs import CudaGraphs, load_engines
from spoter_runtime.camera.landmarker import Landmarker
from spoter_runtime.errors import BackendError, BundleError, MissingExtraError, pip_fix
from spoter_runtime.gpu.device import Gpu, find_gpu
from spoter_runtime.ort.installed import import_onnxruntime
from spoter_runtime.ort.session import SessionSettings, cpu_session
from spoter_runtime.trt.preflight import Machine


def usable_gpu():
    try:
        return find_gpu()
    except (BackendError, MissingExtraError) as error:
        return error


VERSION = "1.7.1.116"
ADA = Gpu(name="Ada", compute_capability="8.9", memory_bytes=1, driver_cuda="13.0")
MACHINE = Machine(
    system=platform.system(),
    machine=platform.machine(),
    libraries={"tensorrt_rtx": VERSION},
    missing={},
    gpu=ADA,
)


@pytest.fixture(scope="module")
def graphs(landmarker_folder):
    """The class for the GPU, with sessions on the CPU."""
    ort = import_onnxruntime()
    options = SessionSettings(threads=1, spin=False).options(ort)
    sessions = {
        name: cpu_session(ort, landmarker_folder / f"{name}.onnx", options, (), name)[0] for name in GRAPHS
    }
    return CudaGraphs(ort, sessions, "cpu")


def test_a_frame_is_uploaded_once_and_its_memory_may_be_used_again(
    graphs, landmarker_folder, signing_video, monkeypatch
):
    pytest.importorskip("av", reason="PyAV reads the video")
    from spoter_runtime.camera.video import video_frames

    frames = [frame.rgb for frame in video_frames(signing_video())][:4]
    usual = Landmarker.load(landmarker_folder)
    expected = [usual(frame) for frame in frames]
    uploads = []
    values = graphs._ort.OrtValue
    upload = values.ortvalue_from_numpy
    monkeypatch.setattr(
        values,
        "ortvalue_from_numpy",
        lambda value, *device: uploads.append(value.shape) or upload(value, *device),
    )
    memory = np.empty_like(frames[0])
    landmarker = Landmarker(graphs.run, "")
    for frame, wanted in zip(frames, expected, strict=True):
        memory[:] = frame
        np.testing.assert_array_equal(landmarker(memory), wanted)
    assert sum(shape == memory.shape for shape in uploads) == len(frames)


def test_without_a_gpu_cuda_is_refused_as_for_a_model(landmarker_folder):
    if not isinstance(usable_gpu(), Exception):
        pytest.skip("there is a GPU")
    with pytest.raises((BackendError, MissingExtraError)) as caught:
        Landmarker.load(landmarker_folder, device="cuda")
    assert caught.value.fix
    with pytest.raises(BackendError, match="device 'tpu': expected cpu or cuda"):
        Landmarker.load(landmarker_folder, device="tpu")


@pytest.fixture
def with_engines(landmarker_folder, tmp_path):
    """Return with_engines(**changes of the description): a landmarker with engines that are none."""
    folder = shutil.copytree(landmarker_folder, tmp_path / "landmarker")
    files = read_landmarker(folder)

    def with_engines(**changes):
        engines = []
        for name in GRAPHS:
            values = {
                "library": "tensorrt_rtx",
                "version": VERSION,
                "compute_capabilities": ("8.9",),
                "system": platform.system(),
                "machine": platform.machine(),
                "profiles": (),
                "buckets": (),
                "onnx_sha256": files.hashes[f"{name}.onnx"],
                "built": {},
            }
            path = f"{name}.tensorrt_rtx.engine"
            (folder / path).write_bytes(b"vtrt")
            engine = LandmarkerEngine(
                graph=name,
                path=path,
                sha256="0" * 64,
                size_bytes=4,
                spec=EngineSpec(**(values | changes)),
            )
            engines.append(engine.as_json())
        manifest = json.loads((folder / MANIFEST).read_text()) | {"engines": engines}
        (folder / MANIFEST).write_text(json.dumps(manifest))
        return read_landmarker(folder)

    return with_engines


@pytest.mark.parametrize(
    ("changes", "machine", "reason", "fix"),
    [
        ({"version": "1.6.0.1"}, {}, "built by tensorrt_rtx 1.6.0.1, installed is", "fetch --rtx"),
        ({"compute_capabilities": ("8.6",)}, {}, "Ada has 8.9", "--rtx --compute-capability 8.9"),
        ({"system": "Plan9"}, {}, "built for Plan9", "spoter-kit landmarker fetch --rtx"),
        ({"onnx_sha256": "0" * 64}, {}, "built from another pose_detection.onnx", "fetch --rtx"),
        ({}, {"gpu": None}, "no GPU", "see what `nvidia-smi` says"),
        ({}, {"libraries": {}}, "tensorrt_rtx is not installed", pip_fix("rtx")),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_with_the_fix(with_engines, changes, machine, reason, fix):
    files = with_engines(**changes)
    with pytest.raises(BackendError, match=reason) as caught:
        load_engines(files, "tensorrt_rtx", dataclasses.replace(MACHINE, **machine))
    assert caught.value.message.startswith(str(files.folder / "pose_detection.tensorrt_rtx.engine"))
    assert caught.value.fix.endswith(fix)


def test_an_engine_that_was_changed_or_never_built_is_named(with_engines, landmarker_folder):
    with pytest.raises(BundleError, match=r"pose_detection\.tensorrt_rtx\.engine: sha256 is"):
        load_engines(with_engines(), "tensorrt_rtx", MACHINE)
    with pytest.raises(BackendError, match="has no tensorrt_rtx engine of pose_detection, pose") as caught:
        Landmarker.load(landmarker_folder, engine="tensorrt_rtx")
    assert caught.value.fix == "spoter-kit landmarker fetch --rtx"
