from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
