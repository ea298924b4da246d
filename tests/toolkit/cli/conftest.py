"""A folder in which the verbs have been run once, and a terminal to run them on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from in_process import spoter_kit
from spoter_toolkit.data.dataset import Dataset


@pytest.fixture(scope="session")
def made_home(made_once: Callable[..., Path], tiny: Dataset) -> Path:
    """A folder in which a small model was trained and exported, with default places; not to be changed."""

    def make(folder: Path) -> Path:
        small = ["epochs=2", "model.num_encoder_layers=1", "model.d_model=36", "model.d_ff=40"]
        settings = [part for setting in small for part in ("--set", setting)]
        for words in (
            ("train", str(tiny.folder), "--recipe", "demo", *settings),
            ("export", "--onnx", "--max-batch", "3", "--no-tune"),
        ):
            done = spoter_kit(folder, *words)
            assert done.returncode == 0, done.stderr
        return folder

    return made_once("home", make)


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(made_home, tmp_path / "home", symlinks=True))


@pytest.fixture
def on_terminal() -> Callable[..., str]:
    """Return on_terminal(folder, *arguments, **environment): what `spoter-kit` shows on a terminal."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")

    def on_terminal(folder: Path, *arguments: object, **environment: str) -> str:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "spoter_toolkit", *map(str, arguments)],
            cwd=folder,
            env=os.environ | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        ):
            os.close(theirs)
            shown = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
        return shown.decode().replace("\r\n", "\n")

    return on_terminal


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so at the end
        return b""
