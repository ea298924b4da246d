"""The verbs from end to end on a tiny dataset, as a user types them, and what they say of mistakes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch

from in_process import Done, spoter_kit
from spoter_export.to_onnx import onnx_from_module
from spoter_runtime import Recognizer, read_bundle
from spoter_runtime.errors import is_installed, pip_fix
from spoter_runtime.tuning.store import tuned_path
from spoter_toolkit.data.dataset import Dataset


def answer(done: Done) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def bundle_of(home: Path) -> Path:
    return next((home / "bundles").iterdir())


@pytest.mark.parametrize(
    "arguments", [["trian"], ["predict", "nowhere.npy"], ["predict", "clip.npy"], ["eval", "--json"]]
)
def test_the_command_says_in_this_process_what_it_says_in_its_own(
    home: Path, tiny: Dataset, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """Exit code and both streams, to the letter; or the tests here would prove something else."""
    np.save(home / "clip.npy", tiny.poses_of(tiny.clips[0]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    tuned = tuned_path(read_bundle(bundle_of(home)), "fp32")
    tuned.parent.mkdir(parents=True)
    tuned.write_text("{}")
    here = spoter_kit(home, *arguments)
    own = subprocess.run(
        [sys.executable, "-m", "spoter_toolkit", *arguments],
        cwd=home,
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | {"COLUMNS": "120", "PYTHONIOENCODING": "utf-8"},
    )
    assert (here.returncode, here.stdout) == (own.returncode, own.stdout)
    assert here.stderr == own.stderr.replace("python -m spoter_toolkit", "spoter-kit")  # as typer names it
    assert here.stderr.count("warning: ") == (arguments == ["predict", "clip.npy"])


def test_a_command_in_this_process_leaves_it_as_it_was(home: Path, tiny: Dataset) -> None:
    def state() -> list[object]:
        handlers = [*logging.getLogger().handlers], signal.getsignal(signal.SIGINT)
        shown = warnings.formatwarning, warnings.showwarning, [*warnings.filters]
        streams = sys.stdout, sys.stderr, sys.argv, Path.cwd(), dict(os.environ)
        return [*handlers, *shown, *streams, torch.get_num_threads(), dict(matplotlib.rcParams)]

    before = state()
    np.save(home / "clip.npy", tiny.poses_of(tiny.clips[0]))
    for arguments in (["eval", "-o", "confusion.png"], ["predict", "clip.npy"], ["predict", "nowhere.npy"]):
        spoter_kit(home, *arguments)
    assert state() == before


def test_each_verb_finds_what_the_one_before_it_made(home: Path, tiny: Dataset) -> None:
    np.save(home / "clip.npy", tiny.poses_of(tiny.clips[0]))
    scores = answer(spoter_kit(home, "eval", "--json"))
    assert scores["clips"] == len(tiny.clips_in("test"))
    assert scores["split_made"] == tiny.split
    assert scores["synthetic"] is True
    on_ort = answer(spoter_kit(home, "eval", str(bundle_of(home)), "--backend", "ort-cpu", "--json"))
    assert on_ort["backend"] == "ort-cpu"
    assert on_ort["top1"] == scores["top1"]
    answered = answer(spoter_kit(home, "parity", "--all", "--json"))
    assert set(answered["not_run"]) == {
        "trt",
        "trt-lean",
        "trt-rtx",
        "ort-tensorrt",
        "ort-tensorrt-rtx",
        "ort-cuda",
    }
    goldens = len(read_bundle(bundle_of(home)).goldens().lengths_N)
    assert [proof["artefact"] for proof in answered["proofs"]] == ["model.ort.onnx", "model.onnx"]
    for proof in answered["proofs"]:
        assert proof["passed"] is True
        groups = {group["source"]: len(group["clips"]) for group in proof["facts"]["clips"]}
        assert groups == {"generated": 15, "synthetic, all clips": len(tiny.clips), "goldens": goldens}
    assert answer(spoter_kit(home, "verify", "--json"))["passed"] is True
    found = answer(spoter_kit(home, "predict", "clip.npy", "--top", "2", "--json"))["predictions"][0]
    expected = Recognizer.load(bundle_of(home)).predict(tiny.poses_of(tiny.clips[0]))
    assert found["top"][0][0] == expected.label
    assert len(found["top"]) == 2


def test_predict_takes_a_dataset_and_names_its_clips(home: Path, tiny: Dataset) -> None:
    found = answer(spoter_kit(home, "predict", str(tiny.folder), "--json"))["predictions"]
    assert [row["clip"] for row in found] == [clip.id for clip in tiny.clips]


def test_predict_takes_a_bundle_before_the_clips(home: Path, tiny: Dataset) -> None:
    np.save(home / "clip.npy", tiny.poses_of(tiny.clips[0]))
    bundle = bundle_of(home).rename(home / "elsewhere.spoter").name
    asked = (["predict", bundle, "clip.npy"], ["predict", "clip.npy", "--bundle", bundle])
    first, second = (answer(spoter_kit(home, *arguments, "--json")) for arguments in asked)
    assert first["bundle"] == second["bundle"] == bundle
    assert [row["clip"] for row in first["predictions"]] == ["clip.npy"]
    assert first["predictions"][0]["top"] == second["predictions"][0]["top"]
    alone = spoter_kit(home, "predict", bundle)
    assert alone.returncode == 2
    assert f"{bundle}: is a BUNDLE, expected clips after it. Fix: spoter-kit predict {bundle}" in alone.stderr


def test_predict_names_its_bundle_and_a_newer_run_without_one(home: Path, tiny: Dataset) -> None:
    np.save(home / "clip.npy", tiny.poses_of(tiny.clips[0]))
    bundle, run = bundle_of(home), home / "runs/last"
    said = f'answered by bundles/{bundle.name} on ort-cpu-fused, which never says "no sign"'
    assert spoter_kit(home, "predict", "clip.npy").stderr == f"{said}\n"
    shutil.copytree(run.resolve(), home / "runs/new")
    weights = home / "runs/new/model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    run.unlink()
    run.symlink_to("new")
    newer = f"{said}; the newest run, runs/new, has no bundle. Fix: spoter-kit export runs/new\n"
    assert spoter_kit(home, "predict", "clip.npy").stderr == newer
    assert spoter_kit(home, "predict", f"bundles/{bundle.name}", "clip.npy").stderr == f"{said}\n"
    run.unlink()
    shutil.rmtree(home / "runs" / bundle.stem)
    (home / "runs/new").rename(home / "runs" / bundle.stem)  # trained again
    run.symlink_to(bundle.stem)
    older = f"the newest run, runs/{bundle.stem}, was trained after its bundle was exported. Fix: "
    command = f"spoter-kit export runs/{bundle.stem} --force\n"
    assert spoter_kit(home, "predict", "clip.npy").stderr.endswith(older + command)


def test_doctor_goes_on_with_what_was_made_last(tmp_path: Path) -> None:
    said = []
    for made in (".", "datasets/my set/dataset.json", "runs/a/run.json", "bundles/a.spoter/bundle.json"):
        (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).touch()
        if made.startswith("runs"):
            (tmp_path / "runs/last").symlink_to("a")
        said.append(spoter_kit(tmp_path, "doctor").stderr.removeprefix("next: spoter-kit ").strip())
    assert said == ["demo", "data show 'datasets/my set'", "export --onnx runs/a", "verify bundles/a.spoter"]


def test_a_file_that_is_no_clip_is_told_before_a_missing_bundle(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    done = spoter_kit(tmp_path, "predict", "video.mp4")
    assert done.returncode == 1
    assert "error: video.mp4: cannot be opened as a video" in done.stderr
    (tmp_path / "video.dat").write_bytes(b"\0\0\0\x18ftypmp42")
    assert "error: video.dat: not a clip" in spoter_kit(tmp_path, "predict", "video.dat").stderr
    np.save(tmp_path / "clip.npy", np.ones((9, 54, 2), np.float32))
    assert "bundles/: no bundle there" in spoter_kit(tmp_path, "predict", "clip.npy").stderr


def test_a_run_to_resume_may_be_named_like_any_other_run(home: Path) -> None:
    run = next(path for path in (home / "runs").iterdir() if not path.is_symlink()).rename(home / "mine")
    (home / "runs" / "last").unlink()
    for named in (["mine"], ["-o", "mine"]):
        assert answer(spoter_kit(home, "train", "--resume", *named, "--json"))["run"] == run.name


def test_what_people_read_names_the_split_and_the_next_command(home: Path, tiny: Dataset) -> None:
    done = spoter_kit(home, "eval", "-o", "confusion.png", "--force")
    assert tiny.split in done.stdout
    assert "the data is synthetic" in done.stderr
    assert "next: spoter-kit export --onnx" in done.stderr  # not eval again
    assert (home / "confusion.png").read_bytes().startswith(b"\x89PNG")
    done = spoter_kit(home, "parity", "--backend", "ort-cpu", "-o", "proof.json", "--force")
    assert "parity holds" in done.stdout
    assert json.loads((home / "proof.json").read_text())["passed"] is True


def test_exporting_the_same_run_again_gives_the_same_bytes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spoter_export.bundle.writer.onnx_from_module", onnx_from_module)  # traced anew
    first = {path.name: path.read_bytes() for path in bundle_of(home).iterdir()}
    answer(spoter_kit(home, "export", "--max-batch", "3", "--no-tune", "--force", "--json"))
    assert {path.name: path.read_bytes() for path in bundle_of(home).iterdir()} == first


def test_goldens_without_real_clips_on_request(home: Path, tiny: Dataset) -> None:
    out = home / "bundles-apart" / "private.spoter"
    wanted = ("--max-batch", "1", "--no-real-goldens", "--no-tune")
    answer(spoter_kit(home, "export", *wanted, "-o", str(out), "--json"))
    with np.load(out / "goldens.npz") as goldens:
        assert len(goldens["lengths"]) == 15  # the generated ones alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere"], "nowhere: no such folder. Fix: spoter-kit data import"),
        (["train", "{data}", "-o", "runs/{run}"], "exists already. Fix: choose another -o"),
        (["train", "--resume", "-o", "nowhere"], "nowhere: no such folder"),
        (["eval", "nowhere"], "nowhere: no such folder"),
        (["eval", "--backend", "ort-cpu"], "a RUN runs on torch; ort-cpu needs a BUNDLE"),
        (["export"], "exists already. Fix: choose another -o, or replace it with --force"),
        (
            ["export", "-o", "clip.npy/x.spoter"],
            "clip.npy/x.spoter: clip.npy is a file, expected a folder. Fix: choose another -o",
        ),
        (["parity", "-o", "runs"], "runs: is a folder, expected a file to write. Fix: -o runs/NAME"),
        (
            ["parity", "--html", "clip.npy/x.html"],
            "clip.npy is a file, expected a folder. Fix: choose another --html",
        ),
        (["parity", "--policy", "nowhere.toml"], "nowhere.toml: no such file, expected TOML with thresholds"),
        (["parity", "--judge", "nowhere.json"], "nowhere.json: no such file, expected the facts of a parity"),
        (["parity", "--judge", "{bundle}/bundle.json"], "bundle.json: is the manifest of a BUNDLE, expected"),
        (["verify", "--backend", "trt-rtx"], "has no fp32 engine for tensorrt_rtx. Fix: spoter-kit export"),
        (["verify", "--precision", "fp16"], "has no fp16 ONNX file, only fp32"),
        (["predict", "clip.npy", "--backend", "ort-cpu:int8"], "has no int8 ONNX file, only fp32"),
        (["parity", "--run", "nowhere"], "nowhere: no such folder"),
        (
            ["parity", "nowhere.spoter"],
            "nowhere.spoter: no such folder. Fix: check the path, or spoter-kit export",
        ),
        (["predict", "nowhere.npy"], "nowhere.npy: cannot be read: No such file or directory"),
        (["predict", "long.npy"], "long.npy: 400 frames, the model takes 1..299. Fix:"),
        (["predict", "depth.npy"], "depth.npy: expected 54×2 values a frame, got 54×3"),
        (["predict", "nobody.npy"], "nobody.npy: no landmark is detected in any of its 5 frames"),
        (["predict", "infinite.npy"], "infinite.npy: value inf at index"),
        (["verify", "nowhere"], "nowhere: no such folder"),
        (["import-checkpoint", "nowhere.pth"], "nowhere.pth: no such file"),
        (["demo", "-o", "runs", "--force"], "runs: exists already and was not made by the demo"),
        (["train", "{data}", "-o", "runs", "--force"], "runs: exists already and is no run"),
        (["export", "-o", "other.spoter", "--force"], "other.spoter: exists already and is no bundle"),
        (["eval", "-o", "clip.npy"], "clip.npy: exists already"),
        (["parity", "-o", "clip.npy"], "clip.npy: exists already"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_1(
    home: Path, tiny: Dataset, arguments: list[str], message: str
) -> None:
    check_refused(home, tiny, arguments, message, code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{data}", "--recipe", "storng"], "no recipe 'storng'; there are"),
        (["train", "{data}", "--set", "epoch=1"], "did you mean 'epochs'"),
        (["eval", "--split", "dev"], "no split 'dev'; there are train, val, test and all"),
        (["eval", "{bundle}", "--backend", "tpu"], "unknown backend 'tpu'; there are torch, "),
        (["export", "-o", "model"], "a bundle's name ends in .spoter. Fix: -o model.spoter"),
        (
            ["export", "{bundle}"],
            "is a BUNDLE already. Fix: --trt or --rtx adds engines to it, --camera the landmarker",
        ),
        (["export", "--precision", "fp8"], "precision 'fp8': expected one of fp32, fp16, int8"),
        (
            ["export", "--rtx", "--precision", "fp16,int8"],
            "int8 is for CPUs, no engine is built from it. Fix:",
        ),
        (["export", "{bundle}", "--trt", "--precision", "int8"], "Fix: --precision fp32 for engines"),
        (["export", "--compute-capability", "8.6"], "TensorRT builds for the GPU at hand. Fix: add --rtx"),
        (["export", "--profile", "1x1,1x2,1x3"], "only engines have profiles. Fix: add --trt or --rtx"),
        (["export", "{bundle}", "--rtx", "--profile", "1x9,1x3,1x5"], "does not contain its opt shape 1x3"),
        (["parity", "--backend", "torch"], "the others are compared with torch"),
        (["parity", "--backend", "torch:fp16"], "torch runs the RUN's own fp32 weights"),
        (["predict", "clip.npy", "--long", "cut"], "--long cut: expected error or resample"),
        (["train", "{data}", "--set", "learning_rate=inf"], "learning_rate: inf, expected a finite number"),
        (["eval", "{bundle}", "--backend", "ort_cpu"], "'ort_cpu'; did you mean 'ort-cpu'?"),
        (["verify", "--backend", "tpu"], "unknown backend 'tpu'; there are torch, "),
        (["verify", "--backend", "ort-cpu:int8", "--precision", "fp32"], "which of the two? Fix: name one"),
        (["parity", "--backend", "ort-gpu"], "unknown backend 'ort-gpu'; did you mean 'ort-cpu'?"),
        (["bench", "--scenario", "ofline"], "unknown scenario 'ofline'; did you mean 'offline'?"),
        (["bench", "--fail-if", "p50 > 1"], "--fail-if: compares with an earlier run. Fix: --against REPORT"),
        (
            ["bench", "--against", "nowhere", "--fail-if", "p50"],
            "--fail-if 'p50': expected p50 or clips_per_s",
        ),
        (
            ["parity", "--judge", "{bundle}", "--seed", "0", "--all"],
            "--all and --seed are for a run, --judge runs nothing. Fix: leave --all and --seed out",
        ),
    ],
)
def test_a_wrong_option_value_gets_one_message_and_exit_2(
    home: Path, tiny: Dataset, arguments: list[str], message: str
) -> None:
    check_refused(home, tiny, arguments, message, code=2)


def check_refused(home: Path, tiny: Dataset, arguments: list[str], message: str, *, code: int) -> None:
    """Check that a command leaves everything as it was, and says one thing."""
    rng = np.random.default_rng(0)
    clips = {
        "clip": rng.random((9, 54, 2)),
        "long": rng.random((400, 54, 2)),
        "depth": rng.random((9, 54, 3)),
        "nobody": np.full((5, 54, 2), np.nan),
        "infinite": np.full((5, 54, 2), np.inf),
    }
    for name, clip in clips.items():
        np.save(home / f"{name}.npy", clip)
    (home / "other.spoter").mkdir(exist_ok=True)
    (home / "other.spoter" / "thesis.txt").write_text("three years of work")
    run = (home / "runs" / "last").resolve().name
    before = sorted(home.rglob("*"))
    filled = [a.format(data=tiny.folder, run=run, bundle=bundle_of(home)) for a in arguments]
    done = spoter_kit(home, *filled)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert sorted(home.rglob("*")) == before


@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="TensorRT-RTX is not installed")
def test_an_engine_is_added_to_a_bundle_for_the_gpus_that_were_named(home: Path) -> None:
    bundle = str(bundle_of(home))
    refused = spoter_kit(home, "export", bundle, "--rtx", "--compute-capability", "9.0")
    assert (refused.returncode, "9.0" in refused.stderr) == (1, True)
    done = spoter_kit(home, "export", bundle, "--rtx", "--compute-capability", "8.6")
    assert done.returncode == 0, done.stderr
    artefacts = read_bundle(bundle_of(home)).artefacts
    assert [artefact.kind for artefact in artefacts] == ["onnx", "ort", "engine"]
    assert artefacts[-1].engine.compute_capabilities == ("8.6",)
    verdict, engine, *rest = done.stdout.splitlines()
    assert verdict == f"{bundle}: engines built and added"
    if artefacts[-1].engine.executed is None:  # no GPU: that is no failure
        assert engine.endswith("; built, not run here")
        assert rest[0].startswith("not run here: no NVIDIA driver on this machine; before its first use")
        assert "Fix: " not in done.stdout + done.stderr


@pytest.mark.skipif(is_installed("tensorrt"), reason="TensorRT is installed")
def test_an_engine_that_cannot_be_built_here_is_an_error_without_a_verdict(home: Path) -> None:
    done = spoter_kit(home, "export", bundle_of(home), "--trt")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Fix: {pip_fix('trt')}" in done.stderr


@pytest.mark.slow
def test_one_export_makes_onnx_fp16_and_engines_and_says_what_is_missing(home: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no engine can be built")
    if is_installed("tensorrt"):
        pytest.skip("says what happens where TensorRT is not installed")
    out = "bundles-apart/all.spoter"
    wanted = ("--onnx", "--trt", "--rtx", "--precision", "fp32,fp16", "--max-batch", "2", "-o", out)
    done = spoter_kit(home, "export", *wanted)
    assert done.returncode == 1
    assert "--trt: this needs the Python module 'tensorrt', which is not installed" in done.stderr
    then = f"spoter-kit export {out} --trt --precision fp32,fp16"
    assert f"{out} is complete otherwise. Then: {then}\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("; built, not run here") == 2  # the engines
    assert "not run here: no NVIDIA driver on this machine; before its first use" in done.stdout
    made = [(a.kind, a.precision) for a in read_bundle(home / out).artefacts]
    kinds = ("onnx", "fp32"), ("ort", "fp32"), ("onnx", "fp16"), ("engine", "fp32"), ("engine", "fp16")
    assert made == list(kinds)
    assert answer(spoter_kit(home, "verify", out, "--precision", "fp16", "--json"))["precision"] == "fp16"
    refused = spoter_kit(home, "export", out, "--rtx", "--compute-capability", "9.0")
    assert (refused.returncode, "9.0" in refused.stderr) == (1, True)
    again = answer(spoter_kit(home, "export", out, "--rtx", "--compute-capability", "8.6", "--json"))
    (engine,) = again["engines"]
    assert engine["engine"]["compute_capabilities"] == ["8.6"]
    assert len(read_bundle(home / out).artefacts) == 6


def test_stored_facts_are_judged_again_by_other_thresholds(home: Path) -> None:
    answer(spoter_kit(home, "parity", "--backend", "ort-cpu", "-o", "facts.json", "--force", "--json"))
    policy = home / "strict.toml"
    policy.write_text("[fp32]\nmax_logit_diff = 1e-12\n")
    strict = spoter_kit(home, "parity", "--judge", "facts.json", "--policy", "strict.toml")
    assert strict.returncode == 3
    assert "PARITY FAILS:" in strict.stdout
    assert "allowed 1e-12" in strict.stdout
    assert spoter_kit(home, "parity", "--judge", "facts.json").returncode == 0
    of_this = spoter_kit(home, "parity", str(bundle_of(home)), "--judge", "facts.json", "--json")
    assert answer(of_this)["passed"] is True
    its_own = answer(spoter_kit(home, "parity", "--judge", str(bundle_of(home)), "--json"))
    assert (its_own["name"], its_own["passed"]) == (read_bundle(bundle_of(home)).name, True)
    policy.write_text("[fp32]\nmin_clips = 100000\n")
    few = spoter_kit(home, "parity", "--judge", "facts.json", "--policy", "strict.toml")
    assert (few.returncode, "100000 are needed" in few.stdout) == (3, True)
    facts = json.loads((home / "facts.json").read_text())
    facts["proofs"][0]["sha256"] = "0" * 64
    (home / "other.json").write_text(json.dumps(facts))
    other = spoter_kit(home, "parity", str(bundle_of(home)), "--judge", "other.json")
    assert (other.returncode, "facts of another bundle" in other.stderr) == (1, True)
    (home / "old.json").write_text(json.dumps(facts | {"schema_version": 1}))
    old = spoter_kit(home, "parity", "--judge", "old.json")
    assert (old.returncode, "schema version 1, this spoter-kit reads 4" in old.stderr) == (1, True)
    policy.write_text("[fp32]\nmax_logit_dif = 1\n")
    typo = spoter_kit(home, "parity", "--policy", "strict.toml")
    assert (typo.returncode, "did you mean 'max_logit_diff'" in typo.stderr) == (1, True)


def test_parity_names_the_step_the_tensor_and_the_module_where_a_bundle_leaves_its_model(
    home: Path, tmp_path: Path, plant: Callable[..., Any]
) -> None:
    from spoter_toolkit.runs.run import read_run

    run = home / "runs" / "last"
    model = read_run(run).load_model()
    model.positional_encoding.pe = model.positional_encoding.pe.roll(1, dims=0)  # the fault
    folder = Path(shutil.copytree(bundle_of(home), tmp_path / "faulty.spoter"))
    contract = read_bundle(folder).contract
    plant(folder, onnx_from_module(model, contract).SerializeToString(deterministic=True))
    command = ("parity", str(folder), "--backend", "ort-cpu", "--run", str(run.resolve()), "--bisect")
    done = spoter_kit(tmp_path, *command, "-o", "facts.json")
    assert done.returncode == 3, done.stderr
    assert "PARITY FAILS:" in done.stdout
    assert "it breaks at model.onnx: differs from ONNX exported now, lowered by" in done.stdout
    assert "module positional_encoding, reads positional_encoding.pe): by" in done.stdout
    (written,) = (tmp_path / "bisect").iterdir()
    assert sorted(file.name for file in written.iterdir()) == [
        "divergence.json",
        "smallest.onnx",
        "tensors.npz",
    ]
    assert json.loads((written / "divergence.json").read_text())["nodes"] == 1
    again = spoter_kit(tmp_path, *command)
    assert (again.returncode, "--force replaces it" in again.stderr) == (1, True)
    pages = ("-o", "again.json", "--html", "page.html")
    judged = spoter_kit(tmp_path, "parity", "--judge", "facts.json", *pages)
    assert judged.returncode == 3, judged.stderr
    assert judged.stdout == done.stdout  # the blame and what bisecting found are stored with the facts
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(
        (tmp_path / "facts.json").read_text()
    )
    page = (tmp_path / "page.html").read_text()
    assert f"<title>Parity of {read_bundle(folder).name}</title>" in page
    assert "it breaks at model.onnx" in page


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda facts: facts | {"proofs": []}, "there is no proof in it"),
        (lambda facts: facts | {"proofs": {}}, "proofs: {}, expected a list"),
        (lambda facts: damaged(facts, grid=[]), "no shape of the grid was run"),
        (lambda facts: damaged(facts, clips=[]), "no clip was run"),
        (lambda facts: damaged(facts, clips=[{"source": "people", "clips": []}]), "no clip of people is"),
        (lambda facts: damaged(facts, grid=grid_of(facts)[:1]), "1 shapes of the grid, the bundle claims"),
        (lambda facts: damaged(facts, invariance=[]), "no change that must not matter was run"),
        (lambda facts: proof_with(facts, precision="fp8"), "expected one of fp32, fp16, int8"),
        (lambda facts: proof_with(facts, precision="int8"), "in int8, the bundle says fp32"),
        (lambda facts: proof_with(facts, sha256=5), "is not what spoter-kit writes"),
        (lambda facts: damaged(facts, grid=[{"batch": 1}]), "is not what spoter-kit writes"),
    ],
)
def test_damaged_facts_are_no_proof(
    home: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    stored = json.loads((bundle_of(home) / "parity.json").read_text())
    (tmp_path / "facts.json").write_text(json.dumps(damage(stored)))
    done = spoter_kit(home, "parity", str(bundle_of(home)), "--judge", str(tmp_path / "facts.json"))
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def grid_of(stored: dict[str, Any]) -> list[Any]:
    grid: list[Any] = stored["proofs"][0]["facts"]["grid"]
    return grid


def damaged(stored: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return proof_with(stored, facts=stored["proofs"][0]["facts"] | parts)


def proof_with(stored: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return stored | {"proofs": [stored["proofs"][0] | parts]}


def test_fp16_is_proven_beside_fp32(home: Path) -> None:
    out = "bundles-apart/half.spoter"
    wanted = ("--precision", "fp16", "--max-batch", "2", "--no-tune", "-o", out)
    answer(spoter_kit(home, "export", *wanted, "--json"))
    proofs = answer(spoter_kit(home, "parity", out, "--backend", "ort-cpu:fp16", "--json"))["proofs"]
    assert [(proof["artefact"], proof["passed"]) for proof in proofs] == [("model.fp16.onnx", True)]
    short = (
        *("--quick", "--rounds", "2", "--seconds-per-case", "0.02", "--frames", "9", "--threads", "1"),
        *("--scenario", "latency", "--no-floor"),
    )
    backends = ("--backend", "ort-cpu", "--backend", "ort-cpu:fp16")
    measured = answer(spoter_kit(home, "bench", out, *backends, *short, "-o", "half-bench", "--json"))
    assert {timing["backend"] for timing in measured["timings"]} == {"ort-cpu", "ort-cpu:fp16"}
    assert (home / "half-bench" / "bench.md").is_file()
    # The same again, where everything is slower than a thousandth of it; then a bound that nothing reaches.
    again = ("bench", out, *backends, *short, "--rounds", "6", "--against", "half-bench", "--force")
    few = spoter_kit(home, *again, "-o", "second", "--fail-if", "p50 > 0.001")
    assert few.returncode == 0, few.stderr  # two rounds on one side tell nothing
    assert "p50 > 0.001: 2 cannot tell" in few.stdout
    unset = spoter_kit(home, *again[:-1], "-o", "apart")
    assert unset.returncode == 0, unset.stderr
    assert "p50 > " not in unset.stdout.partition("Nothing fails: that takes a bound")[0]
    assert "Nothing fails: that takes a bound, such as --fail-if 'p50 > 1.05'." in unset.stdout
    against = ("--against", "second", "--fail-if")
    sure = spoter_kit(home, *again, "-o", "third", *against, "p50 > 0.001")
    assert (sure.returncode, "beyond" in sure.stdout) == (3, True)
    unset = spoter_kit(home, *again, "-o", "third", *against, "")
    assert (unset.returncode, "--fail-if ''" in unset.stderr) == (2, True)
    assert proofs[0]["policy"]["max_logit_diff"] > 1e-4


def test_what_is_tuned_is_explained_and_used(home: Path, tiny: Dataset) -> None:
    bundle = str(bundle_of(home))
    tuned = answer(spoter_kit(home, "tune", bundle, "--seconds", "0.3", "--json"))
    assert Path(tuned["file"]).is_relative_to(home / "cache" / "spoter-kit" / "tuned")
    shown = spoter_kit(home, "tune", bundle, "--seconds", "0.3")
    assert (shown.returncode, "ms a clip" in shown.stdout, "many clips" in shown.stdout) == (0, True, True)
    assert f"kept in {tuned['file']}" in shown.stdout
    np.save(home / "clip.npy", tiny.poses_of(tiny.clips[0]))
    assert spoter_kit(home, "predict", "clip.npy", "--bundle", bundle).returncode == 0
    Path(tuned["file"]).write_text("{}", encoding="utf-8")
    said = spoter_kit(home, "predict", "clip.npy", "--bundle", bundle)
    assert (said.returncode, said.stderr.count("it is left aside. Fix: ")) == (0, 1)


def test_every_verb_runs_int8_by_the_backends_name(home: Path, tiny: Dataset) -> None:
    out, backend = "bundles-apart/int8.spoter", ("--backend", "ort-cpu:int8")
    wanted = ("--precision", "int8", "--max-batch", "2", "-o", out, "--json")
    answered = answer(spoter_kit(home, "export", *wanted))
    exported = answered["onnx"]
    assert answered["tuned"].keys() == {"int8"}  # and found by what runs below
    files = [(proof["artefact"], proof["passed"]) for proof in exported]
    names = ("model.onnx", "model.ort.onnx", "model.int8.onnx", "model.int8.ort.onnx")
    assert files == [(name, True) for name in names]
    (proof,) = answer(spoter_kit(home, "parity", out, *backend, "--json"))["proofs"]
    assert (proof["artefact"], proof["passed"]) == ("model.int8.onnx", True)
    assert proof["facts"]["clips"][0]["clips"][0]["max_logit_diff"] > 2e-5  # it is not the fp32 file
    assert answer(spoter_kit(home, "eval", out, *backend, "--json"))["clips"] == len(tiny.clips_in("test"))
    np.save(home / "clip.npy", tiny.poses_of(tiny.clips[0]))
    expected = Recognizer.load(home / out, precision="int8").predict(tiny.poses_of(tiny.clips[0])).top(1)
    for chosen, file in ((backend, "model.int8.onnx"), (("--precision", "int8"), "model.int8.ort.onnx")):
        report = answer(spoter_kit(home, "verify", out, *chosen, "--json"))
        assert (report["artefact"], report["passed"]) == (file, True)
        command = ("predict", "clip.npy", "--bundle", out, "--top", "1", *chosen, "--json")
        (found,) = answer(spoter_kit(home, *command))["predictions"]
        assert found["top"] == [[label, pytest.approx(score)] for label, score in expected]
    short = ("--quick", "--rounds", "2", "--seconds-per-case", "0.02", "--frames", "9", "--threads", "1")
    short = (*short, "--scenario", "latency,offline")
    measured = answer(spoter_kit(home, "bench", out, *backend, *short, "-o", "int8-bench", "--json"))
    assert {timing["backend"] for timing in measured["timings"]} == {"ort-cpu:int8"}


def test_a_clip_too_long_can_be_resampled(home: Path) -> None:
    np.save(home / "long.npy", np.random.default_rng(0).random((400, 54, 2)))
    done = spoter_kit(home, "predict", "long.npy", "--long", "resample", "--json")
    assert answer(done)["predictions"][0]["top"]


def test_data_that_changed_after_training_is_not_taken_for_the_same(
    home: Path, tiny: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree((home / "runs" / "last").resolve(), run)
    changed = tmp_path / "changed"
    shutil.copytree(tiny.folder, changed)
    info = json.loads((run / "run.json").read_text())
    info["data"]["folder"] = str(changed)
    (run / "run.json").write_text(json.dumps(info))
    with (changed / "clips.csv").open("a") as file:
        file.write("\n")
    done = spoter_kit(home, "eval", str(run))
    assert done.returncode == 1
    assert "clips.csv: sha256 is" in done.stderr
    done = spoter_kit(home, "data", "split", str(changed), "--test", "s01")
    assert done.returncode == 1


def test_parity_of_another_runs_bundle_is_refused(home: Path, tiny: Dataset, tmp_path: Path) -> None:
    small = ["epochs=1", "model.num_encoder_layers=1", "model.d_model=36", "model.d_ff=40"]
    settings = [part for setting in small for part in ("--set", setting)]
    other = tmp_path / "other"
    answer(
        spoter_kit(
            tmp_path, "train", str(tiny.folder), "--recipe", "demo", *settings, "-o", str(other), "--json"
        )
    )
    done = spoter_kit(home, "parity", "--run", str(other))
    assert done.returncode == 1
    assert "name the right one with --run, or export again" in done.stderr


def test_usage_errors_exit_2(home: Path) -> None:
    for arguments in (["trian"], ["export", "--max-batch", "0"], ["train", "--resume", "--seed", "3"]):
        assert spoter_kit(home, *arguments).returncode == 2


@pytest.mark.slow
def test_the_golden_checkpoints_onnx_gives_the_notebooks_logits(shared: Path, tmp_path: Path) -> None:
    for name in ("spoter", "bdsl_spoter"):
        checkpoint = shared / "golden" / f"phase3_{name}.pth"
        answer(spoter_kit(tmp_path, "import-checkpoint", str(checkpoint), "--json"))
        answer(spoter_kit(tmp_path, "export", "--onnx", "--max-batch", "3", "--no-tune", "--json"))
        runner = Recognizer.load(tmp_path / "bundles" / f"phase3_{name}.spoter").runner
        with np.load(shared / "golden" / "phase3_io.npz") as golden:
            for frames in (37, 60, 99):
                logits = runner.infer(golden[f"{name}_x_{frames}"])
                assert np.abs(logits - golden[f"{name}_y_{frames}"]).max() <= 1e-5


def test_the_next_command_can_be_pasted_whatever_the_names_are(tmp_path: Path) -> None:
    import shlex

    source = tmp_path / "আমার {clips}"
    (source / "পানি জল" / "s0").mkdir(parents=True)
    np.save(source / "পানি জল" / "s0" / "c0.npy", np.random.default_rng(0).random((9, 54, 2)))
    done = spoter_kit(tmp_path, "data", "import", "npy", str(source), "-o", "my {data}")
    assert done.returncode == 0, done.stderr
    done = spoter_kit(tmp_path, "data", "show", "my {data}")
    command = shlex.split(done.stderr.partition("next: ")[2])
    assert command[:4] == ["spoter-kit", "data", "show", "my {data}"]
    done = spoter_kit(tmp_path, *command[1:])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clip.png").is_file()
