"""Which backend is taken, what it may keep, and what becomes of those that were passed over."""

from __future__ import annotations

import dataclasses
import re
import weakref

import onnx
import pytest

from spoter_runtime import backends
from spoter_runtime.backends import open_runner
from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.bundle.manifest import Artefact, read_bundle
from spoter_runtime.contract import REQUIRES_KEY, Profile
from spoter_runtime.errors import BackendError, MissingExtraError
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.runner import Runner
from spoter_runtime.trt import preflight
from spoter_runtime.trt import runner as trt


@pytest.fixture
def bundle(bundle_folder):
    return read_bundle(bundle_folder)


@pytest.fixture
def engine(bundle):
    """An engine of the bundle's model that nobody has executed yet."""
    spec = EngineSpec(
        library="tensorrt",
        version="10.16.1.11",
        compute_capabilities=("8.6",),
        system="Linux",
        machine="x86_64",
        profiles=(Profile(batch=(1, 8, 8), frames=(1, 60, 99)),),
        buckets=(99,),
        onnx_sha256=bundle.onnx().sha256,
        host_code=True,
        built={},
    )
    return Artefact(
        path="model.engine",
        kind="engine",
        precision="fp32",
        sha256="0" * 64,
        size_bytes=1,
        max_logit_diff=1e-3,
        engine=spec,
    )


class Failing(Runner):
    """A runner that opens, and fails at its first batch."""

    name = "failing"

    def __init__(self, contract):
        self.contract = contract

    def _infer(self, poses_NTD, lengths_N):
        raise BackendError("the GPU has fallen off the bus")


@pytest.mark.parametrize("backend", ["ort-tensorrt", "ort-tensorrt-rtx"])
def test_what_a_provider_keeps_is_kept_for_each_file_apart(bundle, backend, monkeypatch):
    """ONNX Runtime names an engine after the graph alone: another model's would be run in its place."""
    monkeypatch.setattr(backends, "OrtRunner", lambda model, **options: options["cache"])
    monkeypatch.setattr(backends, "check_provider", lambda provider: None)
    other = dataclasses.replace(bundle.onnx(), precision="other", sha256="f" * 64)
    both = dataclasses.replace(bundle, artefacts=(*bundle.artefacts, other))
    monkeypatch.setattr(type(both), "read", lambda self, path: b"")
    first, second = (open_runner(both, backend, precision=name).runner for name in ("fp32", "other"))
    assert (first.parent.name, first.name) == (backend, bundle.onnx().sha256[:16])
    assert second == first.with_name("f" * 16)


def test_a_runner_whose_replay_fails_is_closed_and_gone_before_the_next_opens(bundle, engine, monkeypatch):
    opened, closed = [], []

    class Watched(Failing):
        def close(self):
            closed.append(True)

    def failing(bundle, wish):
        runner = Watched(bundle.contract)
        opened.append(weakref.ref(runner))
        return runner, engine

    on_cpu = backends.BACKENDS["ort-cpu-fused"]

    def last(bundle, wish):
        assert [runner() for runner in opened] == [None]
        return on_cpu(bundle, wish)

    monkeypatch.setitem(backends.BACKENDS, "trt", failing)
    monkeypatch.setitem(backends.BACKENDS, "ort-cpu-fused", last)
    result = open_runner(bundle)
    assert result.runner.name == "ort-cpu-fused"
    assert result.why["trt"] == "the GPU has fallen off the bus"
    assert closed == [True]


@pytest.mark.parametrize("kind", [BackendError, MissingExtraError])
def test_where_nothing_works_the_reason_of_each_is_told(bundle, kind, monkeypatch):
    def broken(bundle, wish):
        raise kind("it is broken")

    for name in backends.BACKENDS:
        monkeypatch.setitem(backends.BACKENDS, name, broken)
    with pytest.raises(
        kind,
        match=r"no backend works here:\n(  trt(|-lean|-rtx): it is broken\n){3}  ort-",
    ):
        open_runner(bundle)


@pytest.mark.parametrize("allowed", [False, True])
def test_host_code_is_allowed_from_the_recognizer_down_to_the_engine(
    bundle, bundle_folder, engine, allowed, monkeypatch
):
    asked = []

    def choose(bundle, library, precision, *, allow_host_code):
        asked.append(allow_host_code)
        return engine

    def run(*given, allow_host_code, **options):
        asked.append(allow_host_code)
        raise BackendError("seen")

    monkeypatch.setattr(preflight, "choose_engine", choose)
    monkeypatch.setattr(trt, "TrtRunner", run)
    monkeypatch.setattr(type(bundle), "read", lambda self, path: b"")
    monkeypatch.setattr(type(bundle), "engines", lambda self, library, precision: [engine])
    with pytest.raises(BackendError, match="seen"):
        Recognizer.load(bundle_folder, "trt", allow_host_code=allowed)
    assert asked == [allowed, allowed]
    asked.clear()
    with pytest.raises(BackendError, match="seen"):
        Recognizer.load(bundle_folder, "trt")
    assert asked == [False, False]


@pytest.mark.parametrize(
    ("needed", "taken"), [(">=999.1", "ort-cpu"), (">=1.9", "ort-cpu-fused"), ("", "ort-cpu-fused")]
)
def test_an_onnx_runtime_that_is_too_old_for_a_file_is_not_asked_to_run_it(bundle, needed, taken):
    """1.24 loads an Attention that counts tokens, and does not count them."""
    made_for_ort = bundle.by_precision("ort")["fp32"]
    assert made_for_ort.requires["onnxruntime"] == ">=1.25"
    other = dataclasses.replace(made_for_ort, requires={"onnxruntime": needed} if needed else {})
    artefacts = tuple(other if a is made_for_ort else a for a in bundle.artefacts)
    opened = open_runner(dataclasses.replace(bundle, artefacts=artefacts))
    assert opened.runner.name == taken
    if taken == "ort-cpu":
        reason = r"model\.ort\.onnx: needs onnxruntime 999\.1, here is \d.*'onnxruntime>=999\.1'"
        assert re.search(reason, opened.why["ort-cpu-fused"])


def test_a_file_alone_says_which_onnx_runtime_it_needs(bundle_folder, tmp_path):
    model = onnx.load(bundle_folder / "model.ort.onnx")
    assert {entry.key: entry.value for entry in model.metadata_props}[REQUIRES_KEY] == ">=1.25"
    (entry,) = (entry for entry in model.metadata_props if entry.key == REQUIRES_KEY)
    entry.value = ">=999.1"
    path = tmp_path / "alone.onnx"
    path.write_bytes(model.SerializeToString())
    for load in (OrtRunner, Recognizer.load, lambda path: OrtRunner(path.read_bytes())):
        with pytest.raises(BackendError, match=r"needs onnxruntime 999\.1, here is .* or ort-cpu with"):
            load(path)
    assert REQUIRES_KEY not in {e.key for e in onnx.load(bundle_folder / "model.onnx").metadata_props}
