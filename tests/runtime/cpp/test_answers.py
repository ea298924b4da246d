"""The C library answers as Python does: labels, probabilities, reasons, batches, threads."""

from __future__ import annotations

import json
import math
import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from pages import blocks_of
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.verify import verify_bundle
from spoter_toolkit.faces._clibrary import onnxruntime_library
from spoter_toolkit.faces.c import CRecognizer, verify
from spoter_toolkit.parity.prove import prove_backends

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _library(c_library):
    """Each test here runs the library."""


@pytest.fixture
def clips(make_clip):
    return [make_clip(seed, frames) for seed, frames in enumerate((1, 2, 9, 44, 44, 99, 45, 60, 20, 21, 22))]


def check_same(found, expected):
    assert found.name.decode() == expected.label
    assert found.score == pytest.approx(expected.score, abs=1e-6)
    assert found.reason.decode() == expected.reason
    assert found.is_sign == {None: -1, False: 0, True: 1}[expected.is_sign]
    if expected.probability is None:
        assert math.isnan(found.probability)
    else:
        assert found.probability == pytest.approx(expected.probability, abs=1e-6)
    assert found.latency_ms > 0


@pytest.mark.slow
def test_parity_holds_for_the_face(exported, small_model, contract):
    (proof,), _ = prove_backends(exported.bundle, TorchRunner(small_model, contract), None, ["face-c"])
    assert proof.verdict.passed, proof.verdict.failures
    assert (proof.face, proof.artefact) == ("c", "model.ort.onnx")
    assert proof.facts.max_logit_diff < 1e-4
    assert {fact.change for fact in proof.facts.invariance if fact.runner == "face-c"} > {
        "padding nan",
        "batch order",
    }


@pytest.mark.parametrize("backend", ["ort-cpu-fused", "ort-cpu"])
def test_goldens_agree(bundle_folder, backend):
    python, ours = verify_bundle(bundle_folder, backend), verify(bundle_folder, backend=backend)
    assert ours.passed
    assert (ours.files, ours.clips, ours.labels_agree) == (
        python.files,
        python.replay.clips,
        python.replay.clips,
    )
    assert ours.max_logit_diff == pytest.approx(python.replay.max_logit_diff, abs=1e-6)


def test_one_clip_and_many_have_the_answers_of_python(bundle_folder, clips):
    python, ours = Recognizer.load(bundle_folder, threads=1), CRecognizer(bundle_folder, threads=1)
    assert (ours.backend, ours.contract()) == (python.runner.name, python.contract)
    expected = python.predict_many(clips)
    for found in (ours.predict_many(clips), [ours.predict_many([clip])[0] for clip in clips]):
        for one, other in zip(found, expected, strict=True):
            check_same(one, other)
    assert ours.predict_many([]) == []
    ours.close()


def test_a_lone_file_and_a_long_clip(bundle_folder, make_clip):
    long = make_clip(3, 250)
    python = Recognizer.load(bundle_folder / "model.onnx", long="resample")
    check_same(
        CRecognizer(bundle_folder / "model.onnx", resample=True).predict_many([long])[0], python.predict(long)
    )


RULES = [
    {"temperature": 0.5, "min_probability": 0.99, "min_margin": 0.0, "min_hand_share": 0.0},
    {"temperature": 2.0, "min_probability": 0.0, "min_margin": 0.3, "min_hand_share": 0.0},
    {"temperature": 1.0, "min_probability": 0.0, "min_margin": 0.0, "min_hand_share": 0.9},
    {
        "temperature": 1.5,
        "min_probability": 0.1,
        "min_margin": 0.0,
        "min_hand_share": 0.0,
        "background": ["dudh", "jol"],
    },
    {
        "temperature": 1.0,
        "min_probability": 0.0,
        "min_margin": 0.0,
        "min_hand_share": 0.0,
        "min_likeness": 0.9,
        "typical_logits": ["9 -1 0 2 1", "0 9 3 -2 1", "0 0 0 0 0", "1 2 3 9 4", "-5 0 1 2 9"],
    },
]


def test_a_calibrated_bundle_says_no_sign_for_the_same_reason(bundle_copy, clips, reseal):
    reasons = set()
    for rule in RULES:
        reseal(bundle_copy, lambda manifest, rule=rule: manifest.update(abstention={"target": 0.05, **rule}))
        python, ours = Recognizer.load(bundle_copy), CRecognizer(bundle_copy)
        for clip, found in zip(clips, ours.predict_many(clips), strict=True):
            expected = python.predict(clip)
            check_same(found, expected)
            reasons.add(expected.reason.partition(" ")[0])
    assert {"", "score", "margin", "no", "likeness"} < reasons


def test_threads_share_a_recogniser(bundle_folder, clips):
    ours = CRecognizer(bundle_folder, threads=1)
    expected = [found.name for found in ours.predict_many(clips)]
    wrong = []

    def answer():
        for _ in range(20):
            if [found.name for found in ours.predict_many(clips)] != expected:
                wrong.append(1)

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture
def clip_file(tmp_path, make_clip):
    path = tmp_path / "clip.f32"
    make_clip(4, 60).tofile(path)
    return path


def run(program, *arguments, onnxruntime=None, cwd=None):
    environment = os.environ | {"SPOTER_ONNXRUNTIME": str(onnxruntime or onnxruntime_library())}
    command = [program, *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_program_in_cpp_finds_the_library_by_cmake(
    bundle_folder, c_wheel, c_sources, clip_file, tmp_path, make_clip
):
    build = tmp_path / "build"
    configure = ("cmake", "-S", c_sources / "examples", "-B", build, f"-DCMAKE_PREFIX_PATH={c_wheel}")
    for command in (configure, ("cmake", "--build", build, "--target", "clips")):
        subprocess.run(command, check=True, capture_output=True)
    expected = Recognizer.load(bundle_folder).predict(make_clip(4, 60))
    done = run(build / "clips", bundle_folder, clip_file)
    assert done.stdout == f"{expected.label} ({expected.sign.bengali}) {expected.score:.2f}\n", done.stderr
    done = run(build / "clips", bundle_folder, clip_file, onnxruntime="/nowhere/libonnxruntime.so")
    assert done.returncode == 1
    assert (
        "ONNX Runtime cannot be loaded: /nowhere/libonnxruntime.so: no such file. Fix: name its lib"
        in done.stderr
    )


def test_a_client_in_c99_finds_it_by_pkg_config(
    bundle_folder, c_wheel, c_sources, clip_file, tmp_path, make_clip
):
    expected = Recognizer.load(bundle_folder).predict(make_clip(4, 60))
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "spoter"],
        env=os.environ | {"PKG_CONFIG_PATH": str(c_wheel / "lib" / "pkgconfig")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    client, source = tmp_path / "client", c_sources / "tests" / "client.c"
    strict = ("-std=c99", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-Wstrict-prototypes")
    rpath = f"-Wl,-rpath,{c_wheel}/lib"
    subprocess.run(["cc", *strict, source, *found, rpath, "-lm", "-o", client], check=True)
    done = run(client, bundle_folder, clip_file)
    goldens = len(read_bundle(bundle_folder).goldens().lengths_N)
    assert done.stdout.splitlines() == [
        f"verified: {goldens} of {goldens} goldens agree",
        f"{expected.label} {expected.score:.6f} -",
        "ready -",
        "sign_start -",
        "fault -",
        f"sign {expected.label}",
        f"{bundle_folder}: has no landmarker",
    ]


@pytest.mark.parametrize(
    ("language", "n", "compiler"),
    [("c", 0, "cc -std=c99"), ("cpp", 0, "c++ -std=c++17"), ("cpp", 1, "c++ -std=c++17")],
)
def test_the_programs_on_the_page_compile_and_run(language, n, compiler, bundle_folder, c_wheel, tmp_path):
    page = ROOT / "docs" / "how-to" / "cpp.md"
    block = [block for block in blocks_of(page) if block.language == language][n]
    source = tmp_path / f"program.{language}"
    source.write_text(block.text, encoding="utf-8")
    flags = ("-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror", f"-I{c_wheel}/include")
    link = (f"-L{c_wheel}/lib", "-lspoter", f"-Wl,-rpath,{c_wheel}/lib", "-o", "program")
    subprocess.run([*compiler.split(), *flags, source, *link], check=True, cwd=tmp_path)
    (tmp_path / "model.spoter").symlink_to(bundle_folder)
    done = run(tmp_path / "program", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if n == 0:
        names = [label.name for label in read_bundle(bundle_folder).contract.labels]
        assert done.stdout.split()[0] in names
    else:  # of the same frame again and again: nobody signs
        events = [json.loads(line)["type"] for line in done.stderr.splitlines()]
        assert events == ["ready", "tracking", "tracking"]


def test_the_library_is_small_and_brings_nothing_along(c_library):
    assert c_library.stat().st_size < 350_000
    needs = subprocess.run(["readelf", "-d", c_library], capture_output=True, text=True, check=True).stdout
    names = {line.partition("[")[2].rstrip("]") for line in needs.splitlines() if "NEEDED" in line}
    assert {name.partition(".")[0] for name in names} <= {
        "libstdc++",
        "libm",
        "libgcc_s",
        "libc",
        "libdl",
        "ld-linux-x86-64",
    }
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", c_library], capture_output=True, text=True, check=True
    ).stdout
    assert all(line.split()[2].startswith("spoter_") for line in symbols.splitlines())


def test_values_of_a_padding_change_nothing(bundle_folder, make_clip):
    ours = CRecognizer(bundle_folder)
    poses = np.full((2, 60, 108), np.nan, np.float32)
    for row, frames in zip(poses, (60, 20), strict=True):
        row[:frames] = make_clip(5, frames).reshape(frames, 108)
    lengths = np.array([60, 20], np.int32)
    expected = ours.infer(poses, lengths, 5)
    poses[1, 20:] = np.inf
    np.testing.assert_allclose(ours.infer(poses, lengths, 5), expected, atol=1e-6)
