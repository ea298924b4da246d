"""`--force`: the old one stays whole until the new one is complete, whatever happens in between."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from forks import Forks
from spoter_export.bundle import writer
from spoter_runtime.bundle.manifest import read_bundle
from spoter_toolkit.cli.demo import demo
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.runs.run import read_run
from spoter_toolkit.workspace import last_run

SETTINGS = ("epochs=2", "model.d_model=36", "model.num_encoder_layers=1", "model.d_ff=40")
SHORT_BENCH = ["bench", "b.spoter", "--run", "r", "--backend", "ort-cpu", "--quick", "--scenario", "latency"]
SHORT_BENCH += ["--threads", "1", "--rounds", "2", "--seconds-per-case", "0.05", "--no-floor"]


class SuccessfulForks(Forks):
    """Its commands must succeed unless they are to be killed."""

    def run(self, *argv: object, **how: Any) -> dict[str, Any]:
        answer = super().run(*argv, **how)
        assert answer["code"] == 0 or answer["code"] < 0, answer["said"]
        return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = SuccessfulForks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture
def forks(server: Forks, tmp_path: Path) -> Forks:
    server.cwd = tmp_path / "work"
    server.cwd.mkdir()
    return server


@pytest.fixture(scope="module")
def made_runs(server: Forks, tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    server.cwd = tmp_path_factory.mktemp("runs") / "work"
    server.cwd.mkdir()
    return Runs(server, tiny)


@pytest.fixture
def runs(made_runs: Runs) -> Runs:
    made_runs.go_back_to(made_runs.begun)
    return made_runs


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def plain(names: Iterable[str]) -> set[str]:
    """Return names of files without the number of the process that was writing one of them."""
    return {re.sub(r"[0-9a-f]{8}\.tmp$", "tmp", name) for name in names}


class Runs:
    """An old run, and what a training with --force makes of it when nobody stops it."""

    def __init__(self, forks: Forks, data: Dataset) -> None:
        self.forks, self.work = forks, forks.cwd
        self.train = ["train", data.folder, "--recipe", "demo", "-o", "runs/r"]
        self.train += [part for setting in SETTINGS for part in ("--set", setting)]
        forks.run(*self.train, "--seed", 0, here=True)
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
        self.forks.cwd = self.work
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

    def moments(self, **how: Any) -> list[Path]:
        """What a training leaves that is killed, at each moment at which that is something else."""
        self.go_back_to(self.begun)
        place = self.work.with_name("moments")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        self.forks.run(*self.train, "--seed", 1, "--force", keep=str(place), **how)
        return sorted(place.iterdir(), key=lambda path: int(path.name))

    def kill(self, **how: Any) -> Path:
        """Return what a training leaves that is killed at a moment."""
        self.go_back_to(self.begun)
        killed = self.forks.run(*self.train, "--seed", 1, "--force", **how)
        assert killed["code"] < 0, "it ended before it could be killed"
        return self.keep("killed")

    def check_left(self, left: Path, *, again: bool = True) -> str:
        """Look at what a killed training left, begin again if asked to, and go on with it."""
        self.go_back_to(left)
        begun = (self.work / "runs/.r.new-run/.replaces").exists()
        read_run(last_run(self.work / "runs"))  # puts a run back that lost its name between two renames
        self.which()
        if again:
            put_back = self.keep("put-back")
            self.forks.run(*self.train, "--seed", 1, "--force")
            assert self.which() == "new"
            self.check_nothing_else()
            self.go_back_to(put_back)
            shutil.rmtree(put_back)
        self.forks.run("train", "--resume", "-o", "runs/r")
        self.check_nothing_else()
        assert self.which() == "new" or not begun
        return self.which()

    def check_nothing_else(self) -> None:
        names = {path.name for path in (self.work / "runs").iterdir()}
        assert {name for name in names if not name.startswith(".last.")} == {"r", "other", "last"}
        assert not (self.work / "runs/r/.replaces").exists()


@pytest.mark.slow
def test_a_forced_training_killed_at_any_moment_leaves_the_old_run_or_the_new_one(runs: Runs) -> None:
    assert runs.operations >= 50
    moments = runs.moments()
    assert (moments[0].name, moments[-1].name) == ("1", str(runs.operations))
    # The first and the last moments are those that differ; between them, one of four is tried.
    begins, ends = 6, len(moments) - 11
    found = [
        runs.check_left(moment, again=number % 3 == 0 and not begins <= number < ends)
        for number, moment in enumerate(moments)
        if not begins <= number < ends or number % 4 == 1
    ]
    assert found == sorted(found, reverse=True)  # from one moment on, --resume makes the new one
    assert {"old", "new"} == set(found)


@pytest.mark.slow
def test_a_training_that_is_killed_leaves_what_was_there_at_that_moment(runs: Runs) -> None:
    moments = runs.moments()
    for moment in (moments[len(moments) // 2], moments[-5]):
        killed = runs.kill(kill_at=int(moment.name))
        assert plain(contents(killed)) == plain(contents(moment))
        weights = "runs/.r.new-run/model.safetensors"
        assert (killed / weights).read_bytes() == (moment / weights).read_bytes()
        shutil.rmtree(killed)
    for written in (100, 20_000, 60_000):  # in the middle of run.json, of the weights, of last.pt
        killed = runs.kill(kill_beyond=written)
        runs.check_left(killed)
        shutil.rmtree(killed)


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
        ("b.spoter", ["export", "r", "-o", "b.spoter", "--no-tune", "--max-batch", 3], 20_000),
        ("f.json", ["parity", "b.spoter", "--run", "r", "--backend", "ort-cpu", "-o", "f.json"], 3000),
        ("b", [*SHORT_BENCH, "-o", "b"], 3000),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, list) else "",
)
def test_a_verb_killed_in_the_middle_of_a_write_leaves_what_was_there(
    forks: Forks,
    tiny: Dataset,
    made_home: Path,
    traced_once: Callable[[], AbstractContextManager[None]],
    made: str,
    argv: list[object],
    written: int,
) -> None:
    shutil.copytree(tiny.folder, forks.cwd / "d")
    (forks.cwd / "clips/no/A").mkdir(parents=True)
    np.save(forks.cwd / "clips/no/A/1.npy", tiny.poses_of(tiny.clips[0]))
    shutil.copytree((made_home / "runs/last").resolve(), forks.cwd / "r")
    (bundle,) = (made_home / "bundles").iterdir()
    shutil.copytree(bundle, forks.cwd / "b.spoter")
    if made == "f.json":
        shutil.copy(bundle / "parity.json", forks.cwd / made)
    elif not (forks.cwd / made).exists():
        forks.run(*argv)
    how = {}
    if made == "b.spoter":  # made_home traced the same model
        with traced_once():
            model = read_run(forks.cwd / "r").load_model()
            onnx.save(writer.onnx_from_module(model, read_bundle(bundle).contract), forks.cwd / "graph.onnx")
        how["trace"] = str(forks.cwd / "graph.onnx")
    path = forks.cwd / made
    before = contents(path) if path.is_dir() else path.read_bytes()
    killed = forks.run(*argv, "--force", kill_beyond=written, **how)
    assert killed["code"] == -signal.SIGXFSZ
    assert (contents(path) if path.is_dir() else path.read_bytes()) == before
    forks.run(*argv, "--force", **how)


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
def test_a_forced_training_killed_between_two_renames_is_put_in_order(runs: Runs) -> None:
    moments = runs.moments(exchange=False)
    for number, moment in enumerate(moments):
        if int(moment.name) > int(moments[-1].name) - 12:
            runs.check_left(moment, again=number % 3 == 0)
