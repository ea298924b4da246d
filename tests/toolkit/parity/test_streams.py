"""`parity --stream`: the proof holds on every backend, and finds a stream that does not answer as predict."""

from __future__ import annotations

import json

import numpy as np
import pytest

from in_process import spoter_kit
from signers import signing, write_log
from spoter_runtime.live import stream as stream_module
from spoter_runtime.live.settings import StreamSettings
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
    assert all(proof.signs for proof in found.proofs)


def test_a_log_is_proven_too(bundle_folder, log, tmp_path):
    done = spoter_kit(
        tmp_path, "parity", bundle_folder, "--stream", "--log", log, "-o", tmp_path / "facts.json"
    )
    assert done.returncode == 0, done.stderr
    assert "streaming equals predict" in done.stdout
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["passed"]
    assert {proof["signs"] for proof in facts["proofs"]} == {2}


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
