from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from spoter_runtime.contract import Label
from spoter_toolkit.data.dataset import Clip, Dataset, Origin
from spoter_toolkit.evaluation import Scores, scores_from_logits
from spoter_toolkit.training.findings import findings_of
from spoter_toolkit.training.plots import draw_accuracy, draw_confusion, draw_curves


def clips(count: int = 40, *, labels: int = 4, signers: int = 2) -> tuple[Clip, ...]:
    return tuple(
        Clip(
            id=str(i), label=f"w{i % labels}", signer=f"s{i * signers // count}", start=0, frames=9, fps=30.0
        )
        for i in range(count)
    )


def scores(shown: tuple[Clip, ...], wrong: dict[int, str] | None = None, labels: int = 4) -> Scores:
    """Return scores where all is right but the clips that `wrong` names, and their labels."""
    names = [f"w{i}" for i in range(labels)]
    logits = np.zeros((len(shown), labels), np.float32)
    for i, clip in enumerate(shown):
        logits[i, names.index((wrong or {}).get(i, clip.label))] = 1
    return scores_from_logits(logits, shown, [Label(name=name) for name in names])


def rows(accuracy: float, losses: list[float]) -> list[dict[str, Any]]:
    return [{"epoch": i + 1, "train_loss": x, "train_accuracy": accuracy} for i, x in enumerate(losses)]


FLAT = [2.0, 1.0, 1.0, 1.0]


def said(
    metrics: list[dict[str, Any]],
    trained: tuple[Clip, ...],
    scores: Scores | None,
    *,
    longer: str = "more steps",
    tested: tuple[Clip, ...] = (),
) -> list[str]:
    known = [replace(clip, split="train") for clip in trained]
    dataset = Dataset(
        folder=Path("data"),
        poses_FLD=np.zeros((9, 54, 2), np.float32),
        clips=(*known, *(replace(clip, split="test") for clip in tested)),
        labels=(),
        coordinates="image",
        origin=Origin(kind="npy"),
        split="",
        sha256="",
    )
    return [str(finding) for finding in findings_of(metrics, dataset, scores, longer=longer)]


def test_a_training_that_reached_everything_is_not_blamed() -> None:
    assert said(rows(0.95, FLAT), clips(), scores(clips())) == []
    assert said(rows(0.95, [4.0, 3.0, 2.0, 1.0]), clips(), None) == []  # a falling loss, but it has learned


def test_low_training_accuracy_and_a_loss_that_falls_are_said_with_a_longer_training() -> None:
    assert said(rows(0.25, [4.0, 3.0, 2.5, 2.0]), clips(), None, longer="--set epochs=80") == [
        "not converged: training accuracy ends at 25 %, on changed clips, and the loss still falls (2.50 to "
        "2.00). Fix: --set epochs=80"
    ]
    assert said(rows(0.25, FLAT), clips(), None) == [
        "not converged: training accuracy ends at 25 %, on changed clips. Fix: more steps"
    ]


def test_labels_that_are_tested_and_never_trained_are_named() -> None:
    assert said(rows(0.95, FLAT), clips(labels=2), None, tested=clips(labels=3)) == [
        "1 label has clips to test and none to learn from: w2. Fix: record more of them, or spoter-kit data "
        "split data --drop-unseen --force"
    ]


def test_validation_far_below_training_is_said() -> None:
    wrong = {i: "w0" for i in range(0, 40, 2)} | {i: "w1" for i in range(1, 8)}
    (line,) = said(rows(0.95, FLAT), clips(), scores(clips(), {i: w for i, w in wrong.items() if i > 2}))[:1]
    assert line.startswith("validation is far below training: ")
    assert "against 95 %. Fix: clips of more signers" in line


def test_a_label_that_is_never_predicted_and_a_signer_that_fails_alone_are_named() -> None:
    never = {i: "w0" for i in range(1, 40, 4)}
    assert any(
        "1 label is never predicted on the validation split: w1" in line
        for line in said(rows(0.85, FLAT), clips(), scores(clips(), never))
    )
    alone = {i: f"w{(i + 1) % 4}" for i in range(20, 30)}
    assert said(rows(0.85, FLAT), clips(), scores(clips(), alone))[-1] == (
        "signer s1 has 50 % of 20 clips right, the others 100 %. Fix: look at that signer's clips: "
        "spoter-kit data show"
    )


def test_labels_with_too_few_clips_are_named() -> None:
    assert said(rows(0.95, FLAT), clips(14), None) == [
        "2 of 4 labels have fewer than 4 clips to learn from: w2, w3. Fix: record more of them, by several "
        "signers"
    ]


@pytest.mark.parametrize("labels", [4, 60, 300])
def test_pictures_are_of_a_size_that_can_be_looked_at(tmp_path: Path, labels: int) -> None:
    shown = clips(2 * labels, labels=labels)
    wrong = {i: f"w{(i + 1) % labels}" for i in range(0, labels, 3)}
    found = scores(shown, wrong, labels)
    for draw in (draw_confusion, draw_accuracy):
        path = tmp_path / f"{draw.__name__}.png"
        draw(found, path, title="a run")
        height, width, _ = imread(path).shape
        assert 200 < height < 2600
        assert 600 < width < 2600


def test_curves_mark_the_best_epoch_and_carry_the_findings(tmp_path: Path) -> None:
    learned = [row | {"val_loss": 1.0, "val_accuracy": 0.5} for row in rows(0.25, FLAT)]
    for name, more in (
        ("plain", {}),
        ("marked", {"best_epoch": 2}),
        ("noted", {"notes": ["low. Fix: more"]}),
    ):
        draw_curves(learned, tmp_path / f"{name}.svg", **more)  # type: ignore[arg-type]
    texts = {path.stem: path.read_text() for path in tmp_path.glob("*.svg")}
    assert "best: epoch 2" in texts["marked"]
    assert "low. Fix: more" in texts["noted"]
    assert "best" not in texts["plain"]
