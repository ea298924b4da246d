"""The peer that the benchmarks measure against is the notebook's model, number for number."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.model.spoter import count_parameters
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.epochs import loss_of


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("notebook")


@pytest.mark.parametrize("frames", [37, 60, 99])
def test_the_peer_gives_the_notebooks_logits_from_its_checkpoint(
    shared: Path, notebook: Any, frames: int
) -> None:
    content = torch.load(shared / "golden" / "phase3_bdsl_spoter.pth", weights_only=True)
    model = notebook.NotebookBdslSpoter(num_classes=60).eval()
    model.load_state_dict(content["model_state_dict"])  # strict: every name, and no other
    with np.load(shared / "golden" / "phase3_io.npz") as golden:
        poses = torch.from_numpy(golden[f"bdsl_spoter_x_{frames}"])
        expected = golden[f"bdsl_spoter_y_{frames}"]
    with torch.inference_mode():
        logits = model(poses).numpy()
    assert np.abs(logits - expected).max() <= 1e-6


def test_the_peer_has_the_notebooks_parameters(notebook: Any) -> None:
    assert count_parameters(notebook.NotebookBdslSpoter()) == 1_041_990


def test_the_peers_loss_is_the_focal_loss_of_the_recipe(notebook: Any) -> None:
    logits, labels = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    ours = loss_of(logits, labels, TrainConfig(loss="focal", model=ModelConfig(num_classes=7)))
    assert torch.allclose(notebook.notebook_loss(logits, labels), ours, atol=1e-6)


def test_the_peers_clips_have_100_frames_and_are_augmented_anew_each_time(notebook: Any) -> None:
    clips = [np.random.default_rng(i).random((n, 54, 2), np.float32) for i, n in enumerate((1, 40, 164))]
    dataset = notebook.NotebookClips(clips, [2, 0, 1], seed=0)
    shown = [dataset[i] for i in range(len(dataset))]
    assert [int(label) for _, label in shown] == [2, 0, 1]
    for poses, _ in shown:
        assert (poses.shape, poses.dtype) == ((100, 108), torch.float32)
    frames = int((shown[1][0] != 0).any(1).sum())
    assert 31 <= frames <= 48  # 40 frames at 0.8 to 1.2 of the speed; the rest is padding
    assert (shown[2][0] != 0).any(1).all()  # longer ones are cut
    assert not torch.equal(shown[1][0], dataset[1][0])
    assert np.array_equal(clips[1], np.random.default_rng(1).random((40, 54, 2), np.float32))
