"""A folder in which the verbs have been run once, and a terminal to run them on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def what_takes_long_is_done_once(
    traced_once: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Most tests here export the same run, and none looks at which way is the fastest."""
    monkeypatch.setattr("spoter_runtime.tuning.search._ROUND_NS", 1_000_000)
    monkeypatch.setattr("spoter_toolkit.export.TUNE_SECONDS", 0.3)
    with traced_once():
        yield


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
