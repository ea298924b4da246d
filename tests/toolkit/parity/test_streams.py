"""`parity --stream`: the proof holds on every backend, and finds a stream that does not answer as predict."""

from __future__ import annotations

import json

import numpy as np
import pytest

from in_process import spoter_kit
from signers import signing, write_log
from spoter_export.bundle.files import describe_bundle, read_proofs
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.bundle.manifest import STREAM_ANSWERS, read_bundle
from spoter_runtime.errors import BundleError
from spoter_runtime.live import stream as stream_module
from spoter_runtime.live.settings import StreamSettings
from spoter_toolkit.data.streams.golden import stream_files
from spoter_toolkit.parity.streams import prove_streams


@pytest.fixture
def log(tmp_path):
    return write_log(
        tmp_path / "landmarks.jsonl", *signing([(1000.0, 1700.0), (2700.0, 3500.0)], end_ms=5000)
    )


def test_the_goldens_give_the_same_signs_on_every_backend(bundle_folder):
    found = prove_streams(bundle_folder)
    assert found.passed, found
    assert {proof.backend for proof in found.proofs} >= {"ort-cpu", "ort-cpu-fused"}
    assert {proof.stream.rpartition(", ")[2] for proof in found.proofs} == {"rest gate", "window gate"}
    assert all(proof.signs for proof in found.proofs if "rest" in proof.stream)


def test_a_log_is_proven_too(bundle_folder, log, tmp_path):
    done = spoter_kit(
        tmp_path, "parity", bundle_folder, "--stream", "--log", log, "-o", tmp_path / "facts.json"
    )
    assert done.returncode == 0, done.stderr
    assert "streaming equals predict" in done.stdout
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["passed"]
    assert {proof["signs"] for proof in facts["proofs"]} == {2}


def test_a_log_in_which_nothing_is_answered_proves_nothing(bundle_folder, log):
    header, *_ = log.read_text().splitlines()
    log.write_text(header + "\n")
    found = prove_streams(bundle_folder, log=log, backends=["ort-cpu"])
    assert not found.passed
    assert found.proofs[0].failures == ("nothing was compared: no movement in it got an answer",)


def test_a_segment_that_is_not_what_predict_is_given_is_found(bundle_folder, log, monkeypatch):
    class Shifted(stream_module.Frames):
        def cut(self, start_ms, end_ms, fps):
            return np.roll(super().cut(start_ms, end_ms, fps), 3, axis=0)

    monkeypatch.setattr(stream_module, "Frames", Shifted)
    found = prove_streams(bundle_folder, log=log, backends=["ort-cpu"])
    assert not found.passed
    assert not found.proofs[0].offline
    assert "predict has other scores" in found.proofs[0].failures[0]


def test_a_stream_that_keeps_something_from_the_run_before_is_found(bundle_folder, log, monkeypatch):
    calls = []
    resets = stream_module.SignStream.reset

    def reset(self):
        resets(self)
        calls.append(1)
        self.settings = StreamSettings(pad_start_ms=-50.0 * len(calls))

    monkeypatch.setattr(stream_module.SignStream, "reset", reset)
    found = prove_streams(bundle_folder, log=log, backends=["ort-cpu"])
    assert not found.proofs[0].repeats
    assert "the second time" in " ".join(found.proofs[0].failures)


def test_the_stream_that_travels_in_a_bundle_is_replayed_and_its_answers_are_compared(
    bundle_copy, small_model, contract, provenance
):
    bundle = read_bundle(bundle_copy)
    for name, text in stream_files(bundle.goldens(), TorchRunner(small_model, contract)).items():
        (bundle_copy / name).write_text(text)
    described = {"name": bundle.name, "contract": contract, "provenance": provenance}
    described |= {"artefacts": bundle.artefacts, "proofs": read_proofs(bundle)}
    describe_bundle(bundle_copy, **described)
    found = prove_streams(bundle_copy, backends=["ort-cpu"])
    assert found.passed, found
    assert {proof.stream for proof in found.proofs} == {
        "golden stream, rest gate",
        "golden stream, window gate",
    }
    answers = [json.loads(line) for line in (bundle_copy / STREAM_ANSWERS).read_text().splitlines()]
    assert len({answer["gate"] for answer in answers}) == 2
    answers[0]["label"] = "another"
    (bundle_copy / STREAM_ANSWERS).write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    with pytest.raises(BundleError, match="sha256"):
        prove_streams(bundle_copy, backends=["ort-cpu"])
    describe_bundle(bundle_copy, **described)
    assert (
        "than those in the bundle" in prove_streams(bundle_copy, backends=["ort-cpu"]).proofs[0].failures[0]
    )
