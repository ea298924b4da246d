"""Engines come into a bundle all or none, one process at a time, and say that they were only built."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spoter_export.__main__ import main
from spoter_export.bundle.engines import add_engines, plan_from_bundle, replace_bundle
from spoter_export.bundle.files import bundle_lock, read_proofs
from spoter_export.trt.to_tensorrt import RTX_COMPUTE_CAPABILITIES
from spoter_runtime.bundle.engine_spec import rtx_header
from spoter_runtime.bundle.manifest import MANIFEST, manifest_from_bundle, read_bundle
from spoter_runtime.contract import Profile
from spoter_runtime.decision import Abstention
from spoter_runtime.errors import BackendError, BundleError, ConfigError, ExportError, MissingExtraError
from spoter_runtime.files import write_json
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.verify import verify_bundle

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no engine can be built")


def no_gpu():
    try:
        find_gpu()
    except (BackendError, MissingExtraError):
        return True
    return False


without_gpu = pytest.mark.skipif(not no_gpu(), reason="says what happens where there is no GPU")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def with_engine(bundle_folder, made_once):
    """A copy of the small bundle with one engine, and what was said of it; not to be changed."""

    def make(folder):
        bundle = Path(shutil.copytree(bundle_folder, folder / "small.spoter"))
        (added,) = add_engines(bundle, library="tensorrt_rtx")
        return bundle, added

    return made_once("engine", make)


def test_an_engine_is_listed_with_what_it_needs_and_where_it_came_from(with_engine):
    folder, added = with_engine
    bundle = read_bundle(folder)
    assert bundle.artefacts == (bundle.onnx(), bundle.by_precision("ort")["fp32"], added.artefact)
    spec = added.artefact.engine
    assert spec.onnx_sha256 == bundle.onnx().sha256
    assert spec.compute_capabilities == RTX_COMPUTE_CAPABILITIES
    assert spec.profiles == added.plan.profiles
    header = rtx_header(bundle.read(added.artefact.path))
    assert (header.version, header.compute_capabilities) == (spec.version, spec.compute_capabilities)
    assert added.artefact.requires["tensorrt_rtx"] == spec.version
    assert added.artefact.max_logit_diff == bundle.onnx().max_logit_diff


@without_gpu
def test_built_is_not_executed(with_engine):
    folder, added = with_engine
    assert added.artefact.engine.executed is None
    assert added.proof is None
    assert "no NVIDIA driver" in added.not_executed
    row = next(
        line for line in (folder / "MODEL_CARD.md").read_text("utf-8").splitlines() if ".engine`" in line
    )
    assert "| tensorrt_rtx 1." in row
    assert "| **not executed** |" in row


@without_gpu
def test_a_device_without_a_gpu_runs_the_bundle_and_says_why_not_the_engine(with_engine):
    folder, _ = with_engine
    assert "no NVIDIA driver" in Recognizer.load(folder).why["trt-rtx"]
    assert verify_bundle(folder).backend == "ort-cpu-fused"
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        verify_bundle(folder, "trt-rtx")


def test_the_rest_of_the_bundle_stays_as_it_was(with_engine, bundle_folder):
    folder, _ = with_engine
    before, after = contents(bundle_folder), contents(folder)
    changed = {str(path) for path in before if after[path] != before[path]}
    assert changed == {"MODEL_CARD.md", "bundle.json"}
    assert read_proofs(read_bundle(folder)) == read_proofs(read_bundle(bundle_folder))
    assert read_bundle(folder).provenance == read_bundle(bundle_folder).provenance


def test_an_engine_that_is_there_is_built_anew_only_by_force(with_engine, tmp_path):
    folder, first = with_engine
    bundle_copy = Path(shutil.copytree(folder, tmp_path / "copy.spoter"))
    before = contents(bundle_copy)
    with pytest.raises(ExportError, match=r"has engines/fp32\..* already\. Fix: --force builds it anew"):
        add_engines(bundle_copy, library="tensorrt_rtx")
    assert contents(bundle_copy) == before
    (again,) = add_engines(bundle_copy, library="tensorrt_rtx", force=True)
    assert again.artefact.path == first.artefact.path
    bundle = read_bundle(bundle_copy)
    assert bundle.artefacts == (bundle.onnx(), bundle.by_precision("ort")["fp32"], again.artefact)
    assert bundle.check_files() == 6


def test_engines_for_other_gpus_lie_side_by_side(bundle_copy):
    for capability in ("8.6", "12.0"):
        add_engines(bundle_copy, library="tensorrt_rtx", compute_capabilities=(capability,))
    names = [path.name for path in (bundle_copy / "engines").iterdir()]
    assert len(names) == 2
    assert [a.engine.compute_capabilities for a in read_bundle(bundle_copy).artefacts[2:]] == [
        ("8.6",),
        ("12.0",),
    ]


def test_all_precisions_or_none(bundle_copy):
    before = contents(bundle_copy)
    missing = r"has no fp16 ONNX file, only fp32\. Fix: export the RUN again with --precision"
    with pytest.raises(BundleError, match=missing):
        add_engines(bundle_copy, library="tensorrt_rtx", precisions=("fp32", "fp16"))
    assert contents(bundle_copy) == before


def test_no_engine_is_built_from_int8_and_the_fix_names_what_can_be(bundle_copy, capsys):
    before = contents(bundle_copy)
    with pytest.raises(
        ConfigError, match=r"precision int8 is for CPUs, .* Fix: --precision fp16 for engines"
    ):
        add_engines(bundle_copy, library="tensorrt", precisions=("int8", "fp16"))
    assert main([str(bundle_copy), "--rtx", "--precision", "int8"]) == 2
    assert "error: precision int8 is for CPUs, no engine is built from it. Fix: " in capsys.readouterr().err
    assert contents(bundle_copy) == before


def test_shapes_come_from_the_lengths_that_the_bundle_remembers(bundle_copy, reseal):
    lengths = {"10": 5, "20": 90, "99": 5}
    reseal(bundle_copy, lambda manifest: manifest["provenance"]["data"].update(frame_counts=lengths))
    plan = plan_from_bundle(read_bundle(bundle_copy))
    assert plan.profiles[0] == Profile(batch=(1, 1, 1), frames=(1, 20, 99))
    assert {10, 20, 99} <= set(plan.buckets)
    assert plan.padding.single == 0.0


def test_profiles_that_leave_shapes_out_are_refused_before_anything_is_built(bundle_copy):
    narrow = Profile(batch=(1, 1, 1), frames=(1, 20, 60))
    with pytest.raises(ConfigError, match="1 clips × 61 frames"):
        add_engines(bundle_copy, library="tensorrt_rtx", profiles=[narrow])


@without_gpu
def test_tensorrt_without_a_gpu_leaves_the_bundle_alone(bundle_copy):
    before = contents(bundle_copy)
    with pytest.raises((BackendError, MissingExtraError), match="tensorrt"):
        add_engines(bundle_copy, library="tensorrt")
    assert contents(bundle_copy) == before


def test_no_lock_is_left_beside_what_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no such folder"):
        add_engines(tmp_path / "nowhere.spoter", library="tensorrt_rtx")
    assert list(tmp_path.iterdir()) == []


_BUILD = """
import sys
from spoter_export.bundle.engines import add_engines

def on_progress(done, total, what):
    print(what, flush=True)

add_engines(sys.argv[1], library="tensorrt_rtx", on_progress=on_progress)
"""


def start_build(folder):
    return subprocess.Popen(
        [sys.executable, "-c", _BUILD, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def test_a_killed_build_leaves_no_half_engine_and_lets_go_of_the_lock(bundle_copy):
    before = contents(bundle_copy)
    build = start_build(bundle_copy)
    build.stdout.readline()  # at work
    build.kill()
    build.communicate()
    assert build.returncode == -signal.SIGKILL
    assert contents(bundle_copy) == before
    # What a kill in the last moment would have left beside the bundle.
    rest = bundle_copy.with_name(f".{bundle_copy.name}.0a1b2c3d.tmp")
    rest.mkdir()
    began = time.monotonic()
    (added,) = add_engines(bundle_copy, library="tensorrt_rtx")
    assert time.monotonic() - began < 60
    assert not rest.exists()
    assert read_bundle(bundle_copy).check_files() == 6
    assert (bundle_copy / added.artefact.path).is_file()


def test_an_interrupted_build_leaves_the_bundle_as_it_was(bundle_copy, ctrl_c):
    before = contents(bundle_copy)
    build = start_build(bundle_copy)
    build.stdout.readline()
    build.send_signal(signal.SIGINT)
    _, errors = build.communicate()
    assert build.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert contents(bundle_copy) == before
    assert [path.name for path in bundle_copy.parent.iterdir() if "tmp" in path.name] == []


def test_a_second_build_waits_for_the_first(bundle_copy):
    with bundle_lock(bundle_copy):
        build = start_build(bundle_copy)
        assert build.stdout.readline() == f"waiting for another process that changes {bundle_copy.name}\n"
        assert build.poll() is None
        assert len(read_bundle(bundle_copy).artefacts) == 2
    _, errors = build.communicate()
    assert build.returncode == 0, errors
    assert len(read_bundle(bundle_copy).artefacts) == 3


def test_the_device_builds_engines_without_torch_onnx_or_typer(python, bundle_copy):
    absent = ("torch", "onnx", "onnxscript", "onnxruntime", "typer", "rich")
    options = (
        "--rtx",
        "--compute-capability",
        "8.6",
        "--profile",
        "1x1,1x20,1x99",
        "--profile",
        "1x1,8x40,8x99",
    )
    done = python("-m", "spoter_export", bundle_copy, *options, absent=absent)
    assert done.returncode == 0, done.stderr
    assert "100 %  " in done.stderr
    assert done.stdout.startswith("engines/fp32.tensorrt_rtx-")
    (_, _, artefact) = read_bundle(bundle_copy).artefacts
    assert artefact.engine.profiles[1] == Profile(batch=(1, 8, 8), frames=(1, 40, 99))
    again = python("-m", "spoter_export", bundle_copy, *options, absent=absent)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith(f"error: {bundle_copy.resolve()}: has engines/")


def test_a_manifest_with_an_engine_survives_reading_and_writing(with_engine):
    folder, added = with_engine
    listed = json.loads((folder / "bundle.json").read_text("utf-8"))["artefacts"]
    assert "engine" not in listed[0]  # an ONNX file's entry has the form that it always had
    assert listed[2]["engine"]["profiles"] == [
        {"batch": list(p.batch), "frames": list(p.frames)} for p in added.plan.profiles
    ]


def test_damaged_goldens_are_not_sealed_anew(bundle_copy):
    with (bundle_copy / "goldens.npz").open("ab") as file:
        file.write(b"\0")
    before = contents(bundle_copy)
    with pytest.raises(BundleError, match=r"goldens\.npz: sha256 is .* was changed or damaged"):
        add_engines(bundle_copy, library="tensorrt_rtx")
    assert contents(bundle_copy) == before


def test_a_bundle_of_another_name_stays_where_it_is(bundle_copy, monkeypatch):
    link = bundle_copy.with_name("link.spoter")
    link.symlink_to(bundle_copy)
    add_engines(link, library="tensorrt_rtx", compute_capabilities=("8.6",))
    assert link.is_symlink()
    monkeypatch.chdir(bundle_copy)
    add_engines(".", library="tensorrt_rtx", compute_capabilities=("8.9",))
    assert len(read_bundle(bundle_copy).artefacts) == 4


def test_a_bundle_that_a_kill_left_without_its_name_is_put_back(bundle_copy):
    bundle_copy.rename(bundle_copy.with_name(f".{bundle_copy.name}.0a1b2c3d.old"))
    with bundle_lock(bundle_copy):
        assert read_bundle(bundle_copy).check_files() == 5
    assert [path.name for path in bundle_copy.parent.iterdir() if "old" in path.name] == []


def test_a_precision_named_twice_is_built_once(bundle_copy):
    assert len(add_engines(bundle_copy, library="tensorrt_rtx", precisions=("fp32", "fp32"))) == 1
    assert len(read_bundle(bundle_copy).artefacts) == 3


@pytest.mark.parametrize("counts", [{"20": 10**12}, {"x": 1}, {"20": -1}, [20], "20"])
def test_a_bundle_with_impossible_lengths_is_refused(bundle_copy, reseal, counts):
    reseal(bundle_copy, lambda manifest: manifest["provenance"]["data"].update(frame_counts=counts))
    with pytest.raises(BundleError, match="frame_counts in its provenance"):
        plan_from_bundle(read_bundle(bundle_copy))


def test_a_bundle_keeps_its_calibration_when_engines_are_added(bundle_copy):
    rule = Abstention(
        temperature=0.6,
        min_probability=0.5,
        min_margin=0.1,
        min_hand_share=0.5,
        target=0.05,
        evidence={"signs": 7},
    )
    write_json(
        bundle_copy / MANIFEST,
        manifest_from_bundle(dataclasses.replace(read_bundle(bundle_copy), abstention=rule)),
    )
    replace_bundle(read_bundle(bundle_copy), [], [], {})
    assert read_bundle(bundle_copy).abstention == rule
    assert "Fitted on 7 clips of signs" in (bundle_copy / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_full_disk_is_said_by_the_devices_command(bundle_copy, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("spoter_export.__main__.add_engines", full)
    assert main([str(bundle_copy), "--rtx"]) == 1
    assert capsys.readouterr().err == f"error: {bundle_copy}: the disk is full. Fix: make room\n"
