"""A full disk, a broken one, a kill: at every change of the disk there is the old state or the new one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from faults import DONE, ERRORS, FAILED, KILLED, MORE_ERRORS, in_a_fork
from spoter_export.bundle.engines import replace_bundle
from spoter_export.bundle.files import bundle_lock
from spoter_export.bundle.sign import make_key, sign_bundle
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.bundle.signature import is_signed, read_trusted
from spoter_runtime.contract import Label
from spoter_runtime.tuning.store import Tuned, read_tuned, tuned_path, write_tuned
from spoter_toolkit.data.dataset import Origin, read_dataset
from spoter_toolkit.data.dataset_writer import NewClip, rewrite_split, write_dataset


def every_fault(place: Path, prepare, run, state, *, old, new, errors=ERRORS) -> int:
    """Run with a fault at every point × every error; check the state, and that running again succeeds."""
    prepare()
    ended, points = in_a_fork(run)
    assert (ended, state()) == (DONE, new)
    for at in range(1, points + 1):
        for code in errors:
            prepare()
            assert state() == old
            ended, _ = in_a_fork(run, at=at, code=code)
            # Past the last rename a fault may no longer matter: then the run is done.
            assert ended in ((KILLED,) if code is None else (FAILED, DONE)), (at, code, ended)
            assert state() in (old, new), f"a third state: {code} at change {at} of {points}"
            assert in_a_fork(run)[0] == DONE, (at, code)
            assert state() == new
            assert not left_in(place), (at, code)
    return points


def left_in(place: Path) -> list[str]:
    """Return what writers that failed have left behind."""
    return [path.name for path in place.rglob(".*") if path.suffix in (".tmp", ".old")]


def clips(seed: int) -> list[NewClip]:
    poses = np.random.default_rng(seed).random((3, 54, 2), np.float32)
    return [NewClip(id="a", label="tea", signer="s", fps=25.0, poses_TLD=poses)]


def write(folder: Path, seed: int) -> None:
    write_dataset(
        folder,
        clips(seed),
        labels=(Label(name="tea"),),
        coordinates="image",
        origin=Origin(kind="made"),
        force=True,
    )


@pytest.mark.parametrize("what", ["data import", "data split"])
def test_a_data_set_is_the_old_one_or_the_new_one(tmp_path, what):
    folder = tmp_path / "data"
    write(tmp_path / "other", 1)
    after = read_dataset(tmp_path / "other").sha256
    write(folder, 0)
    before = read_dataset(folder)

    def prepare() -> None:
        shutil.rmtree(folder)
        write(folder, 0)

    def split() -> None:
        dataset = read_dataset(folder)
        rewrite_split(dataset.with_clips(dataset.clips, "by hand"))

    run = split if what == "data split" else lambda: write(folder, 1)
    if what == "data split":
        split()
        after = read_dataset(folder).sha256
    points = every_fault(
        tmp_path, prepare, run, lambda: read_dataset(folder).sha256, old=before.sha256, new=after
    )
    assert points > 8


def test_a_signature_is_there_or_not(bundle_copy, tmp_path):
    public = make_key(tmp_path / "a.key")

    def state() -> str:
        return read_trusted(bundle_copy, [public])[1] if is_signed(bundle_copy) else ""

    def run() -> None:
        sign_bundle(bundle_copy, tmp_path / "a.key")

    def unsign() -> None:
        (bundle_copy / "model.sig").unlink()

    run()
    signer = state()
    assert every_fault(bundle_copy.parent, unsign, run, state, old="", new=signer, errors=MORE_ERRORS) > 3
    # Signed again, it is signed at every moment.
    assert every_fault(bundle_copy.parent, run, run, state, old=signer, new=signer) > 3


def test_a_new_key_has_its_public_one_the_next_time(tmp_path):
    key = tmp_path / "a.key"

    def clear() -> None:
        for path in tmp_path.glob("a.key*"):
            path.unlink()

    def state() -> str:
        return "both" if key.exists() and key.with_name("a.key.pub").exists() else ""

    assert every_fault(tmp_path, clear, lambda: state() or make_key(key), state, old="", new="both") > 3


@pytest.mark.slow
def test_a_bundle_has_the_added_file_or_not(bundle_copy, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(bundle_copy, whole)

    def prepare() -> None:
        shutil.rmtree(bundle_copy)
        shutil.copytree(whole, bundle_copy)

    def run() -> None:
        with bundle_lock(bundle_copy):
            bundle = read_bundle(bundle_copy)
            added = [] if bundle.by_precision("trt8") else [bundle.onnx()]
            content = {"model.trt8.onnx": bundle.read("model.onnx")}
            from dataclasses import replace

            replace_bundle(
                bundle, [replace(one, path="model.trt8.onnx", kind="trt8") for one in added], [], content
            )

    def state() -> int:
        return read_bundle(bundle_copy).check_files()

    before = state()
    assert every_fault(bundle_copy.parent, prepare, run, state, old=before, new=before + 1) > 12


def test_what_tune_keeps_is_the_old_or_the_new(bundle_copy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = read_bundle(bundle_copy)

    def tuned(reason: str) -> None:
        write_tuned(bundle, "fp32", Tuned(configs={}, reasons={"one": reason}))

    def state() -> str:
        found = read_tuned(bundle, "fp32")
        return found.reasons["one"] if found else ""

    points = every_fault(
        tuned_path(bundle, "fp32").parent,
        lambda: tuned("before"),
        lambda: tuned("after"),
        state,
        old="before",
        new="after",
    )
    assert points > 4


def test_each_file_of_a_finished_folder_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    import os

    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda one: flushed.append(Path(f"/proc/self/fd/{one}").readlink().name))
    write(tmp_path / "data", 0)
    assert {"poses.npy", "clips.csv", "dataset.json"} <= set(flushed)
    assert flushed[-1] == tmp_path.name  # the folder that holds the name, last
