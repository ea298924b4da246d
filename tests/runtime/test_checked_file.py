"""A loaded recogniser answers with what was loaded, whatever becomes of the files."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.checked_file import KeptFile
from spoter_runtime.errors import BundleError
from spoter_runtime.files import sha256_of
from spoter_runtime.ort.execution import ExecutionConfig
from spoter_runtime.ort.session import SessionSettings
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.tuning.search import _prepared
from spoter_runtime.tuning.store import Tuned, tuned_path, write_tuned

SAME = 1e-5
MODELS = ("model.onnx", "model.ort.onnx")


@pytest.fixture
def place(bundle_folder, tmp_path, monkeypatch):
    """A folder with a bundle, where we are and where what is tuned is kept."""
    shutil.copytree(bundle_folder, tmp_path / "place" / "model.spoter")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path


@pytest.fixture
def other(bundle_folder, tmp_path, plant):
    """A bundle that gives other answers."""
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "other.spoter"))
    for name, kind in zip(MODELS, ("onnx", "ort"), strict=True):
        graph = onnx.load(folder / name)
        bias = next(t for t in graph.graph.initializer if t.name == "bdsl_classifier.7.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[::-1] + np.float32(3), bias.name))
        plant(folder, graph.SerializeToString(), kind=kind)
    return folder


def tune_both(folder, backend):
    bundle = read_bundle(folder)
    one = ExecutionConfig(backend=backend, session=SessionSettings(threads=1))
    many = replace(one, session=replace(one.session, arena=False), workers=2, most_clips=4)
    goldens = bundle.goldens()
    tuned_path(bundle, "fp32").parent.mkdir(parents=True)
    configs = {
        situation: _prepared(bundle, "fp32", config, goldens)
        for situation, config in (("one", one), ("many", many))
    }
    assert all(bool(config.prepared) == (backend == "ort-cpu") for config in configs.values())
    write_tuned(bundle, "fp32", Tuned(configs=configs, reasons={}))


def change_folder(place, other):
    os.chdir("/")


def delete(place, other):
    shutil.rmtree(place / "place" / "model.spoter")


def move(place, other):
    (place / "place").rename(place / "elsewhere")


def replace_folder(place, other):
    delete(place, other)
    other.rename(place / "place" / "model.spoter")


def replace_files(place, other):
    for name in ("bundle.json", *MODELS):
        (other / name).replace(place / "place" / "model.spoter" / name)


def overwrite(place, other):
    shutil.copytree(other, place / "place" / "model.spoter", dirs_exist_ok=True)


EVENTS = (change_folder, delete, move, replace_folder, replace_files, overwrite)
CALLS = {
    "predict": lambda recognizer, clips: [recognizer.predict(clip) for clip in clips],
    "predict_many": lambda recognizer, clips: recognizer.predict_many(clips),
    "stream": lambda recognizer, clips: list(recognizer.stream(clips)),
}


def clips_of(make_clip):
    return [make_clip(seed, frames) for seed, frames in enumerate((30, 7, 60, 30))]


def assert_answers(call, recognizer, clips, expected):
    for got, want in zip(CALLS[call](recognizer, clips), expected, strict=True):
        np.testing.assert_allclose(got.logits_C, want.logits_C, atol=SAME)


@pytest.mark.skipif(os.name == "nt", reason="there, a file is found by its name")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("tuned", [True, False], ids=["tuned", "untuned"])
@pytest.mark.parametrize("backend", ["ort-cpu", "ort-cpu-fused"])
def test_a_bundle_answers_as_before(place, other, make_clip, backend, tuned, event, call, recwarn):
    clips = clips_of(make_clip)
    expected = CALLS["predict"](Recognizer.load("model.spoter", "ort-cpu", tuned=False), clips)
    if tuned:
        tune_both("model.spoter", backend)
    recognizer = Recognizer.load("model.spoter", backend)
    event(place, other)
    shutil.rmtree(place / "cache", ignore_errors=True)  # and somebody else tunes meanwhile
    if event is overwrite and call != "predict" and not (tuned and backend == "ort-cpu"):
        told = r"one after another.*changed or damaged\. Fix: Recognizer\.load it again$"
        with pytest.warns(UserWarning, match=told) as warned:
            assert_answers(call, recognizer, clips, expected)
        assert warned[0].filename == __file__  # the caller's line, not one of ours
        assert recognizer._many._runner is recognizer.runner
    else:
        assert_answers(call, recognizer, clips, expected)
        assert (recognizer._many._runner is recognizer.runner) == (call == "predict")
    assert_answers(call, recognizer, clips, expected)
    if event not in (change_folder, delete, move):
        (now,) = Recognizer.load(place / "place" / "model.spoter", "ort-cpu").predict_many(clips[:1])
        assert np.abs(now.logits_C - expected[0].logits_C).max() > 1


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("name", MODELS)
def test_a_lone_file_answers_as_before(place, other, make_clip, name, event, call):
    clips = clips_of(make_clip)
    recognizer = Recognizer.load(Path("model.spoter", name))
    expected = CALLS["predict"](recognizer, clips)
    event(place, other)
    assert_answers(call, recognizer, clips, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc lists what is open")
def test_the_file_is_closed_when_it_is_loaded_or_not_needed_any_more(place, make_clip):
    def is_open():
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return any("model.spoter" in str(link.readlink()) for link in links)

    recognizer = Recognizer.load("model.spoter")
    assert is_open()
    recognizer.predict_many(clips_of(make_clip))
    assert not is_open()
    recognizer = Recognizer.load("model.spoter")
    assert is_open()
    del recognizer
    gc.collect()
    assert not is_open()


def test_where_no_file_can_be_kept_open_it_is_found_by_its_name(place, make_clip, monkeypatch):
    clips = clips_of(make_clip)
    expected = CALLS["predict"](Recognizer.load("model.spoter"), clips)
    with monkeypatch.context() as patched:
        patched.setattr("os.open", too_many_files)
        there, gone = Recognizer.load("model.spoter"), Recognizer.load("model.spoter")
    os.chdir("/")
    assert_answers("predict_many", there, clips, expected)
    assert there._many._runner is not there.runner
    delete(place, None)
    with pytest.warns(UserWarning, match="No such file"):
        assert_answers("predict_many", gone, clips, expected)


def too_many_files(*arguments, **options):
    raise OSError(24, "Too many open files")


def test_a_kept_file_is_the_one_that_had_its_name(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"first")
    kept = KeptFile(path, sha256_of(path))
    path.unlink()
    path.write_bytes(b"second")
    for _ in range(2):
        assert kept.read() == b"first"


@pytest.mark.parametrize("content", [b"other", b"first, and more"])
def test_a_kept_file_that_is_overwritten_is_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(b"first")
    kept = KeptFile(path, sha256_of(path))
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"file: sha256 is .*, expected .* changed or damaged"):
        kept.read()
