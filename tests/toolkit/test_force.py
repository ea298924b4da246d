"""`--force`: the old one stays whole until the new one is complete, whatever happens in between."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forks import Forks
from spoter_toolkit.cli.demo import demo
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.runs.run import read_run
from spoter_toolkit.workspace import last_run

SETTINGS = ("epochs=2", "model.d_model=36", "model.num_encoder_layers=1", "model.d_ff=40")

PARTS = 3  # of the moments at which a training is killed, so that workers share them


class SuccessfulForks(Forks):
    """Its commands must succeed unless they are to be killed."""

    def run(self, *argv: object, **how: Any) -> dict[str, Any]:
        answer = super().run(*argv, **how)
        assert answer["code"] == 0 or answer["code"] < 0, answer["said"]
        return answer


@pytest.fixture
def forks(tmp_path: Path) -> Iterator[Forks]:
    (tmp_path / "work").mkdir()
    forks = SuccessfulForks(tmp_path / "work")
    yield forks
    forks.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Runs:
    """An old run, and what a training with --force makes of it when nobody stops it."""

    def __init__(self, forks: Forks, data: Dataset) -> None:
        self.forks, self.work = forks, forks.cwd
        self.train = ["train", data.folder, "--recipe", "demo", "-o", "runs/r"]
        self.train += [part for setting in SETTINGS for part in ("--set", setting)]
        forks.run(*self.train, "--seed", 0)
        self.old = self.files()
        forks.run(*self.train, "--seed", 2, "-o", "runs/other")  # runs/last points at it
        self.begun = self.keep("begun")
        whole = forks.run(*self.train, "--seed", 1, "--force")
        self.operations = whole["operations"]
        self.new = self.files()
        assert self.old["model.safetensors"] != self.new["model.safetensors"]
        assert "in runs/.r.new-run until it is complete; then it replaces runs/r" in whole["said"]

    def files(self) -> dict[str, bytes]:
        found = contents(self.work / "runs/r")
        # A commit in the middle of the test is no other run.
        found["run.json"] = re.sub(rb'"commit": .*', b"", found["run.json"])
        return found

    def keep(self, name: str) -> Path:
        return Path(shutil.copytree(self.work, self.work.with_name(name), symlinks=True))

    def go_back_to(self, kept: Path) -> None:
        shutil.rmtree(self.work)
        shutil.copytree(kept, self.work, symlinks=True)

    def which(self) -> str:
        """Tell which run has the name; it must be a whole one."""
        found = self.files()
        if found == self.old:
            return "old"
        found.pop(".replaces", None)
        assert found.keys() == self.new.keys()
        assert found["model.safetensors"] == self.new["model.safetensors"]
        assert b'"status": "done"' in found["run.json"]
        return "new"

    def check_kill(self, *, again: bool = True, **how: Any) -> str:
        """Kill a training, look at what is left, begin again if asked to, and go on with it."""
        self.go_back_to(self.begun)
        killed = self.forks.run(*self.train, "--seed", 1, "--force", **how)
        assert killed["code"] < 0, "it ended before it could be killed"
        begun = (self.work / "runs/.r.new-run/.replaces").exists()
        read_run(last_run(self.work / "runs"))  # puts a run back that lost its name between two renames
        self.which()
        if again:
            left = self.keep("left")
            self.forks.run(*self.train, "--seed", 1, "--force")
            assert self.which() == "new"
            self.check_nothing_else()
            self.go_back_to(left)
            shutil.rmtree(left)
        self.forks.run("train", "--resume", "-o", "runs/r")
        self.check_nothing_else()
        assert self.which() == "new" or not begun
        return self.which()

    def check_nothing_else(self) -> None:
        names = {path.name for path in (self.work / "runs").iterdir()}
        assert {name for name in names if not name.startswith(".last.")} == {"r", "other", "last"}
        assert not (self.work / "runs/r/.replaces").exists()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_forced_training_killed_at_any_moment_leaves_the_old_run_or_the_new_one(
    forks: Forks, tiny: Dataset, part: int
) -> None:
    runs = Runs(forks, tiny)
    assert runs.operations >= 50
    found = []
    # The first and the last moments are those that differ; between them, one of four is tried.
    differ = {*range(1, 16), *range(runs.operations - 10, runs.operations + 1)}
    moments = sorted(differ | set(range(16, runs.operations - 10, 4)))
    for moment in moments[part::PARTS]:
        found.append(runs.check_kill(kill_at=moment, again=moment in differ))
    assert found == sorted(found, reverse=True)  # from one moment on, --resume makes the new one
    assert {"old", "new"} == set(found)
    written = (100, 20_000, 60_000)[part]  # in the middle of run.json, of the weights, of last.pt
    runs.check_kill(kill_beyond=written)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "argv", "written"),
    [
        ("d", ["data", "synth", "-o", "d", "--signs", 4, "--signers", 4, "--clips-per-sign", 8], 3000),
        ("d", ["data", "split", "d", "--by", "clip"], 300),
        ("i", ["data", "import", "npy", "clips", "-o", "i"], 300),
        ("p.png", ["data", "show", "d", "-o", "p.png"], 1000),
        ("c.png", ["eval", "r", "-o", "c.png"], 1000),
        ("e.html", ["eval", "r", "-o", "e.html"], 1000),
        ("b.spoter", ["export", "r", "-o", "b.spoter", "--no-tune", "--max-batch", 2], 20_000),
        ("f.json", ["parity", "b.spoter", "--run", "r", "--backend", "ort-cpu", "-o", "f.json"], 3000),
        (
            "b",
            ["bench", "b.spoter", "--backend", "ort-cpu", "--quick", "-o", "b", "--threads", 1, "--run", "r"],
            3000,
        ),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, list) else "",
)
def test_a_verb_killed_in_the_middle_of_a_write_leaves_what_was_there(
    forks: Forks, tiny: Dataset, made: str, argv: list[object], written: int
) -> None:
    shutil.copytree(tiny.folder, forks.cwd / "d")
    (forks.cwd / "clips/no/A").mkdir(parents=True)
    np.save(forks.cwd / "clips/no/A/1.npy", tiny.poses_of(tiny.clips[0]))
    if "r" in argv or "b.spoter" in argv:
        forks.run("train", "d", "-o", "r", *(part for setting in SETTINGS for part in ("--set", setting)))
    if "b.spoter" in argv[:2]:
        forks.run("export", "r", "-o", "b.spoter", "--no-tune", "--max-batch", 2)
    if made != "d":
        forks.run(*argv)
    path = forks.cwd / made
    before = contents(path) if path.is_dir() else path.read_bytes()
    killed = forks.run(*argv, "--force", kill_beyond=written)
    assert killed["code"] == -signal.SIGXFSZ
    assert (contents(path) if path.is_dir() else path.read_bytes()) == before
    forks.run(*argv, "--force")


def test_a_demo_that_fails_leaves_the_one_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        assert list(tmp_path.glob(".demo.*.tmp/synthetic-12"))
        raise OSError("the disk is full")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spoter_toolkit.training.loop.train", fails)
    for name in ("demo", ".demo.0a1b2c3d.tmp"):  # the second is of one that was killed
        Path(name).mkdir()
        Path(name, ".made-by-spoter-kit-demo").touch()
    Path("demo/old").touch()
    with pytest.raises(OSError, match="the disk is full"):
        demo(force=True, out=Path("demo"), seed=0, no_open=True)
    assert {path.name for path in Path().iterdir()} == {"demo"}
    assert Path("demo/old").exists()


@pytest.mark.slow
def test_a_forced_training_killed_between_two_renames_is_put_in_order(forks: Forks, tiny: Dataset) -> None:
    runs = Runs(forks, tiny)
    runs.go_back_to(runs.begun)
    operations = forks.run(*runs.train, "--seed", 1, "--force", exchange=False)["operations"]
    for moment in range(operations - 12, operations + 1):
        runs.check_kill(kill_at=moment, exchange=False)
