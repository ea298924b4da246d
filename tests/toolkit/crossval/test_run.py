"""A cross-validation that is stopped goes on to the same weights; its scores are those of its folds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from in_process import spoter_kit
from processes import children_of
from spoter_runtime.errors import CheckpointError
from spoter_toolkit.crossval import run as crossval
from spoter_toolkit.crossval.folds import folds_of
from spoter_toolkit.crossval.page import write_files
from spoter_toolkit.crossval.result import CrossValidation, scored, spread_of
from spoter_toolkit.crossval.run import ANSWERS, CROSSVAL_JSON, Settings, Work, begin, train_fold
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.record import read_metrics
from spoter_toolkit.workspace import RUN_WEIGHTS

SETTINGS = Settings(
    config=TrainConfig(
        model=ModelConfig(d_model=36, num_encoder_layers=1, d_ff=40),
        epochs=3,
        batch_size=8,
        learning_rate=1e-3,
    )
)
FOLDS = ("fold-1", "fold-2")


class _Stop(Exception):
    pass


def works(dataset: Dataset, out: Path, settings: Settings = SETTINGS) -> list[Work]:
    """Return the work of two folds."""
    folds = folds_of(dataset, count=2)
    begin(out, folds, settings)
    return [
        Work(
            data=dataset.folder,
            clips=fold.dataset.clips,
            split=fold.dataset.split,
            sha256=fold.dataset.sha256,
            folder=out / fold.name,
            settings=settings,
        )
        for fold in folds.folds
    ]


def weights(out: Path) -> list[bytes]:
    return [(out / name / RUN_WEIGHTS).read_bytes() for name in FOLDS]


@pytest.fixture
def threads():  # type: ignore[no-untyped-def]
    """Put back torch's threads, which a fold sets."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def validated(tiny: Dataset, tmp_path: Path, threads: None) -> CrossValidation:
    """Two folds, trained and scored, in this process."""
    out = tmp_path / "out"
    for work in works(tiny, out):
        train_fold(work)
    logits = [np.load(out / name / ANSWERS) for name in FOLDS]
    found = scored(tiny, folds_of(tiny, count=2), logits)
    write_files(found, out)
    return found


def test_a_fold_that_was_stopped_goes_on_to_the_same_weights(
    tiny: Dataset, tmp_path: Path, threads: None
) -> None:
    for work in works(tiny, tmp_path / "whole"):
        train_fold(work)

    def stop(done: int, total: int, what: str) -> None:
        if done == 4:
            raise _Stop

    first, second = works(tiny, tmp_path / "broken")
    train_fold(first)
    with pytest.raises(_Stop):
        train_fold(second, stop)
    assert not (second.folder / ANSWERS).exists()
    begin(tmp_path / "broken", folds_of(tiny, count=2), SETTINGS)  # the same command again
    train_fold(second)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    # killed between the training and its answers: not trained again
    (second.folder / ANSWERS).unlink()
    before = (second.folder / RUN_WEIGHTS).stat().st_mtime_ns
    train_fold(second)
    assert (second.folder / RUN_WEIGHTS).stat().st_mtime_ns == before


def test_another_setting_or_other_data_is_not_gone_on_with(tiny: Dataset, tmp_path: Path) -> None:
    folds = folds_of(tiny, count=2)
    begin(tmp_path / "out", folds, SETTINGS)
    other = replace(SETTINGS, config=replace(SETTINGS.config, seed=1))
    with pytest.raises(CheckpointError, match="other settings: seed") as error:
        begin(tmp_path / "out", folds, other)
    assert error.value.fix == "another -o, or --force"
    with pytest.raises(CheckpointError, match="other data, or other folds"):
        begin(tmp_path / "out", folds_of(tiny), SETTINGS)
    begin(tmp_path / "out", folds, other, force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="is no cross-validation"):
        begin(tmp_path / "mine", folds, SETTINGS, force=True)


def test_the_scores_are_those_of_the_folds(validated: CrossValidation, tiny: Dataset) -> None:
    assert sum(fold.clips for fold in validated.folds) == len(tiny.clips) == validated.scores.clips
    share = [fold.top1 for fold in validated.folds]
    assert validated.top1.mean == pytest.approx(np.mean(share))
    assert validated.scores.top1 == pytest.approx(
        sum(fold.top1 * fold.clips for fold in validated.folds) / len(tiny.clips)
    )
    assert sum(one.clips for one in validated.labels) == len(tiny.clips)
    assert [one.top1 for one in validated.labels] == sorted(one.top1 for one in validated.labels)


def test_a_model_has_not_seen_what_it_is_tested_on(validated: CrossValidation, tmp_path: Path) -> None:
    for name, fold in zip(FOLDS, validated.folds, strict=True):
        stated = json.loads((tmp_path / "out" / name / "run.json").read_text())["data"]["split"]
        assert stated == f"by signer: test {fold.tested}; train the others"


def test_the_folder_holds_json_a_page_and_pictures(validated: CrossValidation, tmp_path: Path) -> None:
    out = tmp_path / "out"
    content = json.loads((out / CROSSVAL_JSON).read_text(encoding="utf-8"))
    assert content["status"] == "done"
    assert content["found"]["top1"]["mean"] == validated.top1.mean
    assert sum(cell[2] for cell in content["found"]["confusion"]) == validated.scores.clips
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Cross-validation of" in page
    assert all(fold.tested in page for fold in validated.folds)
    assert {"confusion.png", "confusion.pdf", "accuracy.png", "accuracy.pdf"} <= {
        p.name for p in out.iterdir()
    }


def test_an_interval_is_students() -> None:
    found = spread_of([0.6, 0.7, 0.8])
    assert (found.mean, found.sd) == (pytest.approx(0.7), pytest.approx(0.1))
    assert found.high - found.mean == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert spread_of([1.0, 0.9]).high == 1.0


def test_each_process_takes_a_gpu_of_those_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [crossval._own_gpu(worker, 2) for worker in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5a")
    assert [crossval._own_gpu(worker, 2) for worker in range(3)] == ["3", "GPU-5a", "3"]


SMALL = [
    word
    for setting in ("epochs=40", "model.d_model=36", "model.num_encoder_layers=1", "model.d_ff=40")
    for word in ("--set", setting)
]


def command(out: Path, data: Path, *more: str) -> list[str]:
    return ["crossval", str(data), "--folds", "2", "--recipe", "demo", *SMALL, "-o", str(out), *more]


@pytest.fixture(scope="module")
def whole(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cross-validation that was not stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = spoter_kit(out.parent, *command(out, tiny.folder, "--workers", "1"))
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_cross_validation_that_was_stopped_goes_on_to_the_same_weights(
    tiny: Dataset, whole: Path, tmp_path: Path, ctrl_c: None, how: str
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-m", "spoter_toolkit", *command(out, tiny.folder)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as main:
        deadline = time.monotonic() + 240
        while not any(read_metrics(out / name) for name in FOLDS) and time.monotonic() < deadline:
            assert main.poll() is None
            time.sleep(0.01)
        workers = children_of(main.pid)
        main.send_signal(getattr(signal, how))
        _, said = main.communicate(timeout=60)
    assert main.returncode == {"SIGINT": 130, "SIGKILL": -9}[how], said
    assert "Traceback" not in said
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a process outlives the one that began it"
        time.sleep(0.05)
    assert not all((out / name / ANSWERS).exists() for name in FOLDS), "it ended before it was stopped"
    done = spoter_kit(tmp_path, *command(out, tiny.folder, "--workers", "1"))
    assert done.returncode == 0, done.stderr
    assert weights(out) == weights(whole)
    found, expected = (json.loads((one / CROSSVAL_JSON).read_text())["found"] for one in (out, whole))
    assert found == expected
    assert "mean of 2 folds by signer" in done.stdout
    assert len((done.stdout + done.stderr).splitlines()) <= 12


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--by", "clip"), 2, "--by: expected signer or recording, got 'clip'"),
        (("--minutes", "0"), 2, "--minutes 0: expected more than 0. Fix: --minutes 5"),
        (("--workers", "0"), 2, "--workers 0: expected at least 1"),
        (("--folds", "9"), 1, "4 signers, expected at least one a fold, 9. Fix: --folds 4"),
        (("--set", "epoch=3"), 2, "no such setting"),
        (("--from", "nowhere"), 1, "nowhere"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_trained(
    tiny: Dataset, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = spoter_kit(tmp_path, "crossval", tiny.folder, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert not (tmp_path / "crossval").exists()
