"""A backend may run in another interpreter, and gives the same answers over the worker's pipe."""

from __future__ import annotations

import base64
import json
import sys

import numpy as np
import pytest

from spoter_runtime.errors import BackendError
from spoter_runtime.ort.runner import OrtRunner
from spoter_toolkit.bench.worker.client import WORKERS_VARIABLE, elsewhere_of, start_worker


def test_a_worker_runs_in_the_interpreter_that_is_named_for_its_backend(
    monkeypatch, tmp_path, bundle_folder, make_clip
):
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\necho here >> {tmp_path}/called\nexec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setenv(WORKERS_VARIABLE, json.dumps({"ort-cpu": {"python": str(interpreter)}}))
    poses = make_clip(3, 20).reshape(1, 20, 108)
    with start_worker(bundle_folder, "ort-cpu", 1, timeout_s=60) as worker:
        assert worker.answer()["model_bytes"] > 0
        encoded = {"poses": poses, "lengths": np.array([20], np.int32)}
        texts = {key: base64.b64encode(array.tobytes()).decode() for key, array in encoded.items()}
        answer = worker.ask(do="infer", shape=[1, 20, 108], **texts)
    logits = np.frombuffer(base64.b64decode(answer["logits"]), np.float32).reshape(1, -1)
    expected = OrtRunner(bundle_folder / "model.onnx").infer(poses)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6)
    assert (tmp_path / "called").read_text() == "here\n"


def test_without_a_name_it_is_this_interpreter(monkeypatch):
    monkeypatch.delenv(WORKERS_VARIABLE, raising=False)
    assert elsewhere_of("trt") == {}
    monkeypatch.setenv(WORKERS_VARIABLE, '{"trt": {"python": "x"}}')
    assert elsewhere_of("trt:fp16") == {"python": "x"}
    assert elsewhere_of("ort-cpu") == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"trt": 3}'])
def test_what_is_not_such_json_is_told(monkeypatch, text):
    monkeypatch.setenv(WORKERS_VARIABLE, text)
    with pytest.raises(BackendError, match=r"SPOTER_BENCH_WORKERS: .* is not JSON of backends"):
        elsewhere_of("trt")
