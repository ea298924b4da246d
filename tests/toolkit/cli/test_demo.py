from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spoter_toolkit.cli import demo as demo_verb
from spoter_toolkit.cli.demo import Steps, has_desktop
from spoter_toolkit.data.dataset import Dataset


@pytest.mark.slow
def test_the_demo_tells_the_whole_story(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spoter_toolkit", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr  # 3 would mean top-1 below 0.90 on unseen signers
    said = done.stderr.splitlines()
    assert [line[:6] for line in said] == [f"{number} of 8" for number in range(1, 9)]
    assert "the same answers" in said[4]
    assert len(done.stdout.strip().splitlines()) == 3
    assert "FAIL" not in done.stdout + done.stderr
    assert "a program made them" in done.stdout
    folder = tmp_path / "demo"
    bundle = json.loads((folder / "demo.spoter" / "bundle.json").read_text(encoding="utf-8"))
    assert bundle["provenance"]["data"]["synthetic"] is True
    card = (folder / "demo.spoter" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Trained on synthetic signing" in card
    page = (folder / "demo.html").read_text(encoding="utf-8")
    assert "nobody signed them" in page
    for name in re.findall(r'href="([^"#]+\.html)"', page):
        beside = (folder / name).read_text(encoding="utf-8")
        assert "FAIL" not in beside
        assert str(tmp_path) not in beside


def test_in_a_pipe_each_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Steps() as steps:
        for what in ("generate clips", "train [bold] a model"):
            with steps.step(what) as (on_progress, found):
                on_progress(1, 2, "anything")
                found.append("432 clips")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "1 of 8 generate clips: 432 clips\n2 of 8 train [bold] a model: 432 clips\n"


@pytest.mark.parametrize(
    ("variables", "on_terminal", "expected"),
    [
        ({"DISPLAY": ":0"}, True, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True, True),
        ({"DISPLAY": ":0"}, False, False),
        ({}, True, False),
    ],
)
def test_a_page_is_shown_only_to_who_sits_before_a_desktop(
    variables: dict[str, str], on_terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: on_terminal)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setitem(os.environ, name, value)
    assert has_desktop() is expected


def test_a_device_recognises_and_verifies_without_torch(
    bundle_folder: Path, tmp_path: Path, tiny: Dataset
) -> None:
    clip = tmp_path / "clip.npy"
    recognised = demo_verb._recognise(tiny, bundle_folder, clip)
    assert clip.exists()
    assert recognised.verified
    assert recognised.goldens > 0
    assert list(recognised.scores.values()) == sorted(recognised.scores.values(), reverse=True)
