from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from in_process import spoter_kit
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import ConfigError, DataError, InputError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.runner import Int32Array, Runner
from spoter_toolkit.data.dataset import Clip, Dataset, Origin
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset
from spoter_toolkit.evaluation import (
    clips_to_evaluate,
    evaluate,
    evaluate_source,
    infer_clips,
    scores_from_logits,
)
from spoter_toolkit.export import export


def clip(label: str, signer: str) -> Clip:
    return Clip(id="", label=label, signer=signer, start=0, frames=1, fps=30)


LABELS = tuple(Label(name=name) for name in "abcdefg")


def test_scores_are_what_one_counts_by_hand() -> None:
    clips = [clip("a", "x"), clip("a", "x"), clip("a", "y"), clip("b", "y")]
    logits = np.zeros((4, 7), np.float32)
    logits[0, 0] = logits[1, 1] = logits[2, 0] = logits[3, 1] = 5  # a a→b a b
    logits[1, [0, 2, 3, 4]] = 1
    scores = scores_from_logits(logits, clips, LABELS)
    assert scores.top1 == 0.75
    assert scores.top5 == 1.0
    # a: precision 1, recall 2/3 → 0.8; b: precision 1/2, recall 1 → 2/3; labels without clips do not count
    assert scores.macro_f1 == pytest.approx((0.8 + 2 / 3) / 2)
    assert [(s.signer, s.clips, s.top1) for s in scores.signers] == [("x", 2, 0.5), ("y", 2, 1.0)]
    assert [(p.label, p.taken_for, p.clips, p.of) for p in scores.confused] == [("a", "b", 1, 3)]


def test_top5_stops_after_five() -> None:
    logits = np.arange(7, dtype=np.float32)[None]
    assert scores_from_logits(logits, [clip("c", "x")], LABELS).top5 == 1.0
    assert scores_from_logits(logits, [clip("b", "x")], LABELS).top5 == 0.0


class Echo(Runner):
    """Answers with the number of real frames, so that a lost order shows."""

    name = "echo"

    def __init__(self, contract: GraphContract) -> None:
        self.contract = contract

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        return np.repeat(lengths_N[:, None], self.contract.num_classes, 1).astype(np.float32)


def test_clips_of_any_length_keep_their_order() -> None:
    lengths = [5, 1, 9, 3, 9, 2, 7]
    clips = [np.full((n, 54, 2), 0.5, np.float32) for n in lengths]
    runner = Echo(GraphContract(labels=LABELS, max_batch=3))
    assert infer_clips(runner, clips)[:, 0].tolist() == lengths


def test_unknown_labels_empty_splits_and_long_clips_are_refused(tiny: Dataset) -> None:
    knows = Echo(GraphContract(labels=tiny.labels))
    assert evaluate(knows, tiny, "all").clips == len(tiny.clips)
    with pytest.raises(ConfigError, match="no split 'dev'; there are train, val, test and all"):
        evaluate(knows, tiny, "dev")
    with pytest.raises(DataError, match="no clip is in the split 'test'"):
        evaluate(knows, tiny.with_clips(tiny.clips_in("train"), ""), "test")
    untested = tiny.with_clips([*tiny.clips_in("train"), *tiny.clips_in("val")], "")
    with pytest.raises(DataError, match=r"of val had a part .*Fix: spoter-kit eval my-run --split val$"):
        clips_to_evaluate(untested, "test", "spoter-kit eval my-run")
    with pytest.raises(DataError, match="the model does not know 4 of its labels: synthetic-01"):
        evaluate(Echo(GraphContract(labels=LABELS)), tiny, "test")
    with pytest.raises(InputError, match=r"the model takes 1\.\.5"):
        evaluate(Echo(GraphContract(labels=tiny.labels, max_frames=5)), tiny, "test")


def test_a_source_is_evaluated_by_one_call(
    bundle_folder: Path,
    contract: GraphContract,
    tmp_path: Path,
    make_clip: Callable[[int, int], Float32Array],
) -> None:
    dataset = write_dataset(
        tmp_path / "clips",
        [
            NewClip(id=label.name, label=label.name, signer="ann", fps=30, poses_TLD=make_clip(seed, 20))
            for seed, label in enumerate(contract.labels)
        ],
        labels=contract.labels,
        coordinates="image",
        origin=Origin(kind="test"),
    )
    found = evaluate_source(bundle_folder, split="all", data=dataset.folder, backend="ort-cpu")
    assert (found.backend, found.scores.clips, found.passed_over) == ("ort-cpu", 5, {})
    assert (
        found.as_json()
        == {
            "source": str(bundle_folder),
            "backend": "ort-cpu",
            "data": str(dataset.folder),
            "synthetic": False,
            "split": "all",
            "split_made": "",
            "learned": 0,
            "calibrated": False,
            "calibration": found.calibration and found.calibration.as_json(),
        }
        | evaluate(Recognizer.load(bundle_folder, "ort-cpu").runner, dataset, "all").summary()
    )
    assert found.calibration is not None
    assert (found.calibration.signs, found.calibration.kept, found.calibration.kinds) == (5, None, ())
    assert found.calibration.top1 == found.scores.top1
    with pytest.raises(ConfigError, match="unknown backend 'ort-cpuu'; did you mean 'ort-cpu'"):
        evaluate_source(bundle_folder, data=dataset.folder, backend="ort-cpuu")


def test_clips_that_were_trained_on_are_no_test(made_home: Path, tiny: Dataset, tmp_path: Path) -> None:
    """A data set that is split anew puts a signer into its test whom the model has learned from."""
    folder, run = Path(shutil.copytree(tiny.folder, tmp_path / "anew")), made_home / "runs" / "last"
    learned = tiny.clips_in("train")[0].signer
    assert spoter_kit(tmp_path, "data", "split", folder, "--test", learned, "--force").returncode == 0
    bundle = next((made_home / "bundles").iterdir())
    for source in (run, bundle):
        done = spoter_kit(made_home, "eval", source, "--data", folder)
        assert done.returncode == 1
        assert re.search(r"was trained on (\d+) of the \1 clips of test, so they are no test", done.stderr)
    done = spoter_kit(made_home, "eval", bundle, "--data", folder, "--stream", "--minutes", "0.1")
    assert "so they are no test" in done.stderr
    done = spoter_kit(made_home, "eval", run, "--data", folder, "--split", "all")
    assert (done.returncode, f"trained on {len(tiny.clips_in('train'))} of" in done.stderr) == (0, True)
    found = json.loads(spoter_kit(made_home, "eval", run, "--split", "test", "--json").stdout)
    assert found["learned"] == 0


def test_a_run_whose_data_was_split_anew_says_so_and_can_be_exported(
    made_home: Path, tiny: Dataset, tmp_path: Path
) -> None:
    folder, run = Path(shutil.copytree(tiny.folder, tmp_path / "anew")), tmp_path / "r"
    shutil.copytree((made_home / "runs" / "last").resolve(), run)
    info = json.loads((run / "run.json").read_text())
    info["data"]["folder"] = str(folder)
    (run / "run.json").write_text(json.dumps(info))
    learned = tiny.clips_in("train")[0].signer
    spoter_kit(tmp_path, "data", "split", folder, "--test", learned, "--force")
    done = spoter_kit(tmp_path, "export", run, "-o", "b.spoter")
    assert done.returncode == 1
    assert f"has changed since {run} was trained on it: split 'by signer: test {learned}" in done.stderr
    assert "Fix: --data anew takes it as it is now" in done.stderr
    report = export(run, tmp_path / "b.spoter", data=folder, tune_seconds=0)
    assert report.exported
    assert report.exported.bundle.abstention is None
