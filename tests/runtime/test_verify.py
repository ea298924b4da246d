"""The proof replayed on the device, and the device's own small command."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import onnx
import pytest
from onnx import helper

from spoter_runtime.bundle.goldens import Replay
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.errors import BundleError
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.verify import verify_bundle


@pytest.fixture
def with_goldens(bundle_copy, replace_file):
    """Return with_goldens(edit): the bundle with other goldens, every hash fitting."""

    def with_goldens(edit):
        goldens = read_bundle(bundle_copy).goldens()
        logits = goldens.logits_NC.copy()
        edit(logits)
        buffer = io.BytesIO()
        np.savez(buffer, poses=goldens.poses_NTD, lengths=goldens.lengths_N, logits=logits)
        replace_file(bundle_copy, "goldens.npz", buffer.getvalue())
        return bundle_copy

    return with_goldens


def test_an_honest_bundle_is_verified(bundle_folder):
    report = verify_bundle(bundle_folder)
    assert report.passed
    assert (report.bundle, report.backend, report.files) == ("small", "ort-cpu-fused", 5)
    replay = report.replay
    assert replay.labels_agree == replay.clips == len(read_bundle(bundle_folder).goldens().lengths_N)
    assert 0 <= replay.max_logit_diff <= replay.tolerance == 1e-4
    assert (report.artefact, report.precision) == ("model.ort.onnx", "fp32")
    assert report.as_json() | {"passed": True, "clips": replay.clips, "tolerance": 1e-4} == report.as_json()
    assert report.lines()[0] == "small: verified on ort-cpu-fused in fp32"
    assert report.lines()[1].endswith("(allowed 1e-04)")
    assert report.summary() == "; ".join(report.lines())


def test_one_golden_logit_a_little_off_is_not_verified(with_goldens):
    def edit(logits):
        logits[3, 2] += 2e-4

    report = verify_bundle(with_goldens(edit))
    assert not report.passed
    assert report.replay.max_logit_diff == pytest.approx(2e-4, rel=0.2)
    verdict, facts, _ = report.lines()
    assert verdict == "small: NOT VERIFIED on ort-cpu-fused in fp32"
    assert re.search(r"golden 3 \(\d+ frames?\) off by [12]\.\d\de-04$", facts)


def test_a_golden_that_is_not_a_number_is_not_verified(with_goldens):
    def edit(logits):
        logits[0, logits[0].argmin()] = np.nan

    report = verify_bundle(with_goldens(edit))
    assert not report.passed
    assert [(d.golden, d.max_logit_diff) for d in report.replay.differing] == [(0, None)]


def test_a_model_whose_logits_are_no_numbers_is_reported_golden_by_golden(python, bundle_copy, plant):
    plant(bundle_copy, silent_beyond(20, (bundle_copy / "model.onnx").read_bytes()))
    report = verify_bundle(bundle_copy, "ort-cpu")
    lengths = read_bundle(bundle_copy).goldens().lengths_N
    silent = [i for i, frames in enumerate(lengths) if frames > 20]
    assert 0 < len(silent) < len(lengths)
    assert not report.passed
    assert [(d.golden, d.max_logit_diff) for d in report.replay.differing] == [(i, None) for i in silent]
    assert report.replay.labels_agree == len(lengths) - len(silent)
    assert report.replay.max_logit_diff <= 1e-4  # the others were run all the same
    assert json.loads(json.dumps(report.as_json(), allow_nan=False))["differing"][0]["golden"] == silent[0]
    done = python("-m", "spoter_runtime", "verify", bundle_copy, "--backend", "ort-cpu")
    assert (done.returncode, done.stderr) == (3, "")
    assert f"golden {silent[0]} ({lengths[silent[0]]} frames) not a number; " in done.stdout
    done = python("-m", "spoter_toolkit", "verify", bundle_copy, "--backend", "ort-cpu", "--json")
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (3, False)


def silent_beyond(frames, content):
    """Return a model whose logits are NaN for clips of more frames."""
    model = onnx.load_from_string(content)
    graph = model.graph
    inner = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["inner_logits" if name == inner else name for name in node.output]
    constants = {"most": np.int32(frames), "nan": np.float32(np.nan), "zero": np.float32(0)}
    graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v), k) for k, v in constants.items())
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "column"))
    graph.node.extend(
        [
            helper.make_node("Greater", ["lengths", "most"], ["is_long"]),
            helper.make_node("Where", ["is_long", "nan", "zero"], ["spoil"]),
            helper.make_node("Unsqueeze", ["spoil", "column"], ["spoil_N1"]),
            helper.make_node("Add", ["inner_logits", "spoil_N1"], [inner]),
        ]
    )
    return model.SerializeToString()


def test_a_golden_label_that_changed_is_counted(with_goldens):
    def edit(logits):
        logits[1] = np.roll(logits[1], 1)

    report = verify_bundle(with_goldens(edit))
    assert not report.passed
    assert report.replay.labels_agree == report.replay.clips - 1


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"labels_agree": 7}, False),
        ({"max_logit_diff": 1.1e-4}, False),
        ({"tolerance": 1e-6}, False),
        ({"labels_agree": 7, "strict": False}, True),
        ({"max_logit_diff": 1.1e-4, "strict": False}, False),
    ],
)
def test_labels_and_logits_must_both_agree_in_fp32(change, passed):
    facts = {"clips": 8, "labels_agree": 8, "max_logit_diff": 1e-5, "tolerance": 1e-4, "strict": True}
    assert Replay(**facts | change).passed == passed


def test_a_model_of_another_contract_is_refused(bundle_copy, reseal):
    reseal(bundle_copy, lambda manifest: manifest["contract"]["labels"][0].update(name="coffee"))
    with pytest.raises(BundleError, match=r"the model carries another contract than bundle\.json"):
        verify_bundle(bundle_copy)


def test_the_command_exits_0_for_an_honest_bundle(python, bundle_folder):
    done = python("-m", "spoter_runtime", "verify", bundle_folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("small: verified on ort-cpu-fused in fp32\n")


def test_the_command_exits_3_when_a_golden_was_changed(python, with_goldens):
    def edit(logits):
        logits += 1.0

    done = python("-m", "spoter_runtime", "verify", with_goldens(edit))
    assert (done.returncode, done.stderr) == (3, "")
    assert "largest logit difference 1.00e+00 (allowed 1e-04); golden 0 (" in done.stdout
    assert re.search(r"; and \d+ more$", done.stdout.splitlines()[1])
    assert "NOT VERIFIED" in done.stdout.splitlines()[0]


def test_the_command_exits_1_when_a_file_was_damaged(python, bundle_copy):
    with (bundle_copy / "parity.json").open("ab") as file:
        file.write(b" ")
    done = python("-m", "spoter_runtime", "verify", bundle_copy)
    assert (done.returncode, done.stdout) == (1, "")
    assert "parity.json: sha256 is" in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_the_command_predicts(python, bundle_folder, make_clip, tmp_path):
    clips = [make_clip(seed) for seed in range(2)]
    paths = [tmp_path / f"{i}.npy" for i in range(2)]
    for path, clip in zip(paths, clips, strict=True):
        np.save(path, clip)
    done = python("-m", "spoter_runtime", "predict", bundle_folder, *paths, "--top", "2")
    assert (done.returncode, done.stderr) == (0, "")
    recognizer = Recognizer.load(bundle_folder)
    for line, path, clip in zip(done.stdout.splitlines(), paths, clips, strict=True):
        (first, score), (second, _) = recognizer.predict(clip).top(2)
        assert line.startswith(f"{path}\t{first} {score:.3f}  {second} ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "BUNDLE", "none.npy"], 1, "error: none.npy: cannot be read: No such file"),
        (["predict", "nowhere.spoter", "none.npy"], 1, "error: nowhere.spoter: no such folder"),
        (
            ["verify", "nowhere.spoter"],
            1,
            "error: nowhere.spoter: no such folder. Fix: check the path, or spoter-kit export",
        ),
        (["verify", "BUNDLE", "--backend", "tpu"], 2, "unknown backend 'tpu'; there are trt, "),
        (["verify", "BUNDLE", "--backend", "ort_cpu"], 2, "'ort_cpu'; did you mean 'ort-cpu'?"),
        (["sing"], 2, "invalid choice: 'sing'"),
        ([], 2, "the following arguments are required"),
    ],
)
def test_the_commands_errors_have_their_exit_codes(python, bundle_folder, arguments, code, message):
    arguments = [bundle_folder if argument == "BUNDLE" else argument for argument in arguments]
    done = python("-m", "spoter_runtime", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_toolkits_command_verifies_each_backend_that_is_named(python, bundle_folder):
    both = ("--backend", "ort-cpu", "--backend", "ort-cpu-fused")
    done = python("-m", "spoter_toolkit", "verify", bundle_folder, *both)
    assert done.returncode == 0, done.stderr
    verdicts = [line for line in done.stdout.splitlines() if ": verified on " in line]
    assert [line.split()[3] for line in verdicts] == ["ort-cpu", "ort-cpu-fused"]
    found = json.loads(python("-m", "spoter_toolkit", "verify", bundle_folder, *both, "--json").stdout)
    assert (found["passed"], [one["backend"] for one in found["reports"]]) == (
        True,
        ["ort-cpu", "ort-cpu-fused"],
    )
