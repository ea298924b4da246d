"""The library under sanitizers: any bytes for its readers, several threads, networks that fail."""

from __future__ import annotations

import io
import json
import os
import subprocess

import numpy as np
import pytest

from spoter_toolkit.faces._clibrary import onnxruntime_library


def stream_seed():
    """Return settings, and frames of 16 bytes: hands that rise and fall twice."""
    settings = {"tracking_ms": 500, "rest_ms": 90.0, "rest_by": "height", "window_ms": 200}
    height = [140 if n % 40 < 15 else 20 for n in range(90)]
    return json.dumps(settings).encode() + b"\0" + b"".join(bytes([1, 33, h, 0, *bytes(12)]) for h in height)


@pytest.fixture
def seeds(bundle_folder, tmp_path):
    """Files for each reader, which the fuzzer changes."""
    manifest = json.loads((bundle_folder / "bundle.json").read_text(encoding="utf-8"))
    engine = {
        **{"library": "tensorrt", "version": "10", "compute_capabilities": ["8.6"], "system": "Linux"},
        **{"machine": "x86_64", "profiles": [{"batch": [1, 2, 4], "frames": [1, 60, 99]}], "buckets": [60]},
        **{"onnx_sha256": "0" * 64, "built": {}},
    }
    shares = dict.fromkeys(("temperature", "min_probability", "min_margin", "min_hand_share", "target"), 0.5)
    shares |= {"min_likeness": 0.5, "typical_logits": ["1 2 3 4 5"] * 5}
    rich = manifest | {"abstention": shares, "artefacts": [manifest["artefacts"][0] | {"engine": engine}]}
    packed, clip = io.BytesIO(), np.random.default_rng(0).uniform(0, 1, (9, 54, 2)).astype(np.float32)
    np.savez_compressed(packed, poses=clip, lengths=np.ones(1, np.int32), logits=np.ones(5, np.float32))
    contents = [json.dumps(one).encode() for one in (manifest, rich, manifest["contract"])]
    contents += [packed.getvalue(), packed.getvalue()[39:], clip.tobytes()]
    contents.append((bundle_folder / "model.onnx").read_bytes()[:20_000])
    contents.append(stream_seed())
    landmarker = {"schema_version": 1, "sha256": "0" * 64, "source": "made", "files": {"hand.onnx": "1" * 64}}
    contents.append(json.dumps(landmarker).encode())
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    return [tmp_path / str(number) for number in range(len(contents))]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_threads_failures_and_random_bytes(
    sanitizers, bundle_folder, failing, c_sources, run_tool, seeds, tmp_path, make_clip
):
    build, clip = tmp_path / "build", tmp_path / "clip.f32"
    make_clip(0, 60).tofile(clip)
    options = (f"-DSPOTER_SANITIZE={sanitizers}", "-DSPOTER_TESTS=ON", "-DCMAKE_BUILD_TYPE=Debug")
    run_tool("cmake", "-S", c_sources, "-B", build, *options)
    run_tool("cmake", "--build", build, "-j", "2")
    environment = os.environ | {"SPOTER_ONNXRUNTIME": str(onnxruntime_library())}
    environment["SPOTER_FUZZ_BUNDLE"] = str(bundle_folder)
    commands = [(build / "threads", bundle_folder, clip)]
    if "address" in sanitizers:
        commands += [(build / "failures", bundle_folder, failing), (build / "fuzz", "5", *seeds)]
    for command in commands:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
