from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from in_process import spoter_kit
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.data.synth.generate import SynthSettings, synthesize


@pytest.fixture(scope="session")
def shared() -> Path:
    """Files that travel beside the project, never in it: real landmarks, the notebook's checkpoints."""
    folder = Path(__file__).parents[2].parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("no shared/ folder beside the checkout: real data and golden checkpoints are not here")
    return folder


@pytest.fixture(scope="session")
def tiny(made_once: Callable[..., Dataset]) -> Dataset:
    """Four generated signs by four signers, split by signer; not to be changed."""
    settings = SynthSettings(signs=4, signers=4, clips_per_sign=8)
    return made_once("tiny", lambda folder: synthesize(folder / "tiny", settings=settings))


@pytest.fixture(scope="session")
def made_home(
    made_once: Callable[..., Path], traced_once: Callable[[], AbstractContextManager[None]], tiny: Dataset
) -> Path:
    """A folder in which a small model was trained and exported, with default places; not to be changed."""

    def make(folder: Path) -> Path:
        small = ["epochs=2", "model.num_encoder_layers=1", "model.d_model=36", "model.d_ff=40"]
        settings = [part for setting in small for part in ("--set", setting)]
        for words in (
            ("train", str(tiny.folder), "--recipe", "demo", *settings),
            ("export", "--onnx", "--max-batch", "3", "--no-tune"),
        ):
            with traced_once():
                done = spoter_kit(folder, *words)
            assert done.returncode == 0, done.stderr
        return folder

    return made_once("home", make)
