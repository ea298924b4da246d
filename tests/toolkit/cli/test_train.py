"""The verb `train`: what it says while it goes on, when it is stopped, and at its end."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from in_process import spoter_kit
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.export import provenance_of
from spoter_toolkit.runs.run import read_run
from spoter_toolkit.training.epochs import Loop

SMALL = [
    word
    for setting in ("epochs=2", "model.num_encoder_layers=1", "model.d_model=36", "model.d_ff=40")
    for word in ("--set", setting)
]


@pytest.fixture
def data(tiny: Dataset, tmp_path: Path) -> Path:
    """A data set without a val split."""
    folder = Path(shutil.copytree(tiny.folder, tmp_path / "data"))
    assert spoter_kit(tmp_path, "data", "split", "data", "--test", "s01", "--force").returncode == 0
    return folder


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_training_that_is_ended_says_how_to_go_on(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    step = Loop.step

    def end(self: Loop, batch: Any) -> Any:
        signal.raise_signal(getattr(signal, name))
        return step(self, batch)

    monkeypatch.setattr(Loop, "step", end)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = signal.getsignal(signal.SIGTERM)
    done = spoter_kit(tmp_path, "train", data, "--recipe", "demo", *SMALL, "-o", "runs/ended")
    assert done.returncode == 128 + getattr(signal, name)
    go_on = "spoter-kit train --resume -o runs/ended"
    assert done.stderr.splitlines()[-2:] == [
        "interrupted; no epoch has ended, so there is no model yet",
        f"go on with: OMP_NUM_THREADS=1 {go_on}",
    ]
    assert json.loads((tmp_path / "runs/ended/run.json").read_text())["status"] == "stopped"
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    done = spoter_kit(tmp_path, "export", "runs/ended")
    assert (done.returncode, done.stderr.endswith(f"Fix: {go_on}\n")) == (1, True), done.stderr


def test_ctrl_c_leaves_a_model_that_can_be_used(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_epoch = Loop.run_epoch

    def second_is_stopped(self: Loop, epoch: int, on_step: Any) -> Any:
        if epoch:
            signal.raise_signal(signal.SIGINT)
        return run_epoch(self, epoch, on_step)

    monkeypatch.setattr(Loop, "run_epoch", second_is_stopped)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done = spoter_kit(tmp_path, "train", "data", "--recipe", "demo", *SMALL, "-o", "runs/cut")
    assert done.returncode == 130
    steps = "after 2 of at most 4 steps"
    assert done.stderr.splitlines()[-3:] == [
        f"interrupted in the epoch that began {steps}; the weights so far are kept",
        "use them with: spoter-kit export --onnx runs/cut",
        "go on with: spoter-kit train --resume -o runs/cut",
    ]
    run = read_run(tmp_path / "runs/cut")
    run.load_model()
    assert re.search(rf"its training was interrupted {steps}\. Fix: spoter-kit train", str(run.unfinished()))
    assert provenance_of(run, None)["origin"] == f"trained, and stopped {steps}"
    monkeypatch.undo()
    done = spoter_kit(tmp_path, "train", "--resume", "-o", "runs/cut", "--minutes", "5")
    assert (done.returncode, read_run(run.folder).unfinished()) == (0, None), done.stderr
    assert re.match(r"runs/cut: top-1 [01]\.\d{4} in training; no val split: ", done.stdout)
    written = (run.folder / "run.json").stat().st_mtime_ns
    again = spoter_kit(tmp_path, "train", "--resume", "-o", "runs/cut")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert again.stderr.splitlines()[:: len(again.stderr.splitlines()) - 1] == [
        "runs/cut is finished: no step is left. Train further in a new run. "
        "Fix: spoter-kit train data --from runs/cut",
        "next: spoter-kit eval runs/cut",
    ]
    assert (run.folder / "run.json").stat().st_mtime_ns == written


def test_an_export_that_is_ended_leaves_no_half_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(path: Path) -> None:
        assert list((home / "bundles").glob(".*.tmp")), path  # the files are written, not yet in place
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("spoter_runtime.files._to_disk", end)
    done = spoter_kit(home, "export", "--onnx", "--max-batch", "3", "--no-tune", "-o", "bundles/new.spoter")
    assert done.returncode == 128 + signal.SIGTERM
    assert not list((home / "bundles").glob(".*.tmp"))
