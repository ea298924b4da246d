"""Ctrl-C: a verb says what is left, and leaves with 130."""

from __future__ import annotations

import os
import shutil

import pytest

from in_process import spoter_kit
from spoter_toolkit.runs.run import read_run


@pytest.mark.parametrize("complete", [False, True])
def test_an_export_that_is_stopped_says_whether_the_bundle_is_complete(home, monkeypatch, complete):
    renamed = shutil.copytree(home / "runs" / "last", home / "runs" / "renamed")
    bundle = f"bundles/{read_run(renamed).name}.spoter"  # it is named after the run, not after its folder

    def stopped(*arguments, **options):
        if complete:  # it is tuned then
            os.utime(home / bundle / "bundle.json")
        raise KeyboardInterrupt

    monkeypatch.setattr("spoter_toolkit.export.export", stopped)
    done = spoter_kit(home, "export", "runs/renamed", "--force")
    said = "interrupted; nothing was written\n"
    if complete:
        said = f"interrupted; {bundle} is complete\nnext: spoter-kit verify {bundle}\n"
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.endswith(said)


def test_any_other_verb_that_is_stopped_says_so(tmp_path, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("spoter_toolkit.prediction.read_clips", stopped)
    done = spoter_kit(tmp_path, "predict", "clip.npy")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_command_that_goes_on_is_never_broken(monkeypatch):
    from spoter_toolkit.cli.console import fitted

    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    command = "OMP_NUM_THREADS=1 spoter-kit train --resume -o runs/mine-bdsl-spoter-with-a-long-name-1"
    assert fitted(f"go on with: {command}", Terminal()).splitlines()[-1].endswith(command)
    stays = f"interrupted; 2 clips are kept; go on with: {command}"
    assert fitted(stays, Terminal()).splitlines() == [
        "interrupted; 2 clips are kept;",
        f"  go on with: {command}",
    ]
