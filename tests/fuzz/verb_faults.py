"""Make every use of the disk fail, one after the other, in verbs as a user types them.

    python tests/fuzz/verb_faults.py              # every point of every verb: an hour of a core
    python tests/fuzz/verb_faults.py train bench

After each fault the old folder is there or the new one, the message is ours, the same command then succeeds,
and nothing is left lying. Prints a line a verb.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from forks import Forks
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.bundle.signature import read_trusted
from spoter_runtime.errors import SpoterError
from spoter_runtime.files import cache_folder
from spoter_toolkit.bench.analysis.compare import earlier_run
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.runs.run import read_run

KILLED = 77
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, None)  # None: the process ends there
# In a new run that has its name until the next training there: the old one, which it replaced, may lie beside
# it. `names_in` the work folder must not hold it after the next command.
_MARK = ".replaces"
_SMALL = (
    "epochs=2",
    "model.d_model=36",
    "model.num_encoder_layers=1",
    "model.d_ff=40",
    "model.max_seq_length=100",
)
_SETTINGS = tuple(word for setting in _SMALL for word in ("--set", setting))


@dataclass(frozen=True)
class Verb:
    """A verb, the folder or file that it writes, a check that this is whole, and what makes another."""

    made: str  # a pattern, where a part of the name is a hash
    argv: tuple[object, ...]
    check: Callable[[Path], object]
    other: tuple[object, ...] = ()  # words with which the old one is made; none where no two are the same
    force: tuple[object, ...] = ("--force",)  # words with which the old one is replaced
    left: Callable[[Path], Collection[str]] = lambda work: ()  # names in the cache that nothing needs


def _check_run(folder: Path) -> None:
    run = read_run(folder)
    run.load_model()
    assert run.info["status"] == "done"


def _check_bundle(folder: Path) -> None:
    bundle = read_bundle(folder)
    bundle.check_files()
    bundle.goldens()


def _check_signature(path: Path) -> None:
    read_trusted(path.parent, path.parent.with_name("mine.key.pub"))


def _left_by_tune(work: Path) -> Collection[str]:
    folder = work / "cache/spoter-kit/tuned"
    results = list(folder.glob("*.json"))
    ways = [way for result in results for way in json.loads(result.read_text())["ways"].values()]
    needed = {path.name for path in results} | {f"{way['prepared'][:32]}.onnx" for way in ways}
    return {path.name for path in folder.iterdir()} - needed - {".lock"}


VERBS = {
    "data synth": Verb(
        "s", ("data", "synth", "-o", "s", "--signs", 4, "--signers", 3, "--clips-per-sign", 3), read_dataset
    ),
    "data import": Verb("i", ("data", "import", "npy", "clips", "-o", "i"), read_dataset, ("--fps", 20)),
    "data extract": Verb(
        "v", ("data", "extract", "videos", "-o", "v", "--workers", 1), read_dataset, ("--mirror",)
    ),
    "train": Verb("r", ("train", "d", "--recipe", "demo", *_SETTINGS, "-o", "r"), _check_run, ("--seed", 1)),
    "eval": Verb("e.html", ("eval", "r", "-o", "e.html"), Path.read_bytes, ("--split", "val")),
    "export": Verb(
        "b.spoter",
        ("export", "r", "-o", "b.spoter", "--no-tune", "--max-batch", 2),
        _check_bundle,
        ("--max-batch", 1),
    ),
    "parity": Verb(
        "f.json",
        ("parity", "b.spoter", "--run", "r", "--backend", "ort-cpu", "-o", "f.json"),
        lambda path: json.loads(path.read_text()),
    ),
    "bench": Verb(
        "b",
        (
            *("bench", "b.spoter", "--backend", "ort-cpu", "--scenario", "latency", "--frames", 10),
            *("--rounds", 2, "--seconds-per-case", 0.02, "--threads", 1, "--run", "r", "-o", "b"),
        ),
        lambda path: earlier_run(path / "bench.json"),
    ),
    "tune": Verb(
        "cache/spoter-kit/tuned/*.json",
        ("tune", "b.spoter", "--seconds", 0.02),
        lambda path: json.loads(path.read_text())["ways"]["many"],
        force=(),
        left=_left_by_tune,
    ),
    "sign": Verb(
        "b.spoter/model.sig",
        ("sign", "b.spoter", "--key", "mine.key"),
        _check_signature,
        ("--new-key",),
        force=(),
    ),
}


@dataclass
class Tried:
    """A verb in a work folder: what was there before, and what is there after it has run."""

    verb: Verb
    forks: Forks
    trace: Path  # of the model: torch's export takes seconds and writes nothing, so it is done once

    def __post_init__(self) -> None:
        self.work = self.forks.cwd
        self.argv = self.verb.argv + self.verb.force
        (self.made,) = self.work.glob(self.verb.made)
        self.before = self.work.with_name("before")
        shutil.rmtree(self.before, ignore_errors=True)
        shutil.copytree(self.work, self.before, symlinks=True)
        self.old = content_of(self.made)
        whole = self.run(fail_at=0)
        assert whole["code"] == 0, whole["said"]
        self.points: int = whole["operations"]
        self.new, self.names = names_in(self.made), names_in(self.work)

    def run(self, **how: Any) -> dict[str, Any]:
        """Run the verb."""
        return self.forks.run(*self.argv, trace=str(self.trace), **how)

    def go_back(self) -> None:
        """Put the work folder back as it was before the verb ran."""
        shutil.rmtree(self.work)
        shutil.copytree(self.before, self.work, symlinks=True)

    def fail(self, at: int, code: int | None) -> str:
        """Fail at one point, and run the same command again; return which one was there in between."""
        self.go_back()
        where = f"{self.argv[:2]}, {code} at {at} of {self.points}"
        ended = self.run(fail_at=at, errno=code)
        if code is None:
            assert ended["code"] in (KILLED, 0), (where, ended)
        elif ended["code"]:  # a fault may not matter: of what is removed at the end, of a cache
            assert ended["code"] == 1, (where, ended)
            assert "error: " in ended["said"], (where, ended)
            assert "Traceback" not in ended["said"], (where, ended)
        which = self.which(where)
        again = self.run()
        assert again["code"] == 0, (where, again["said"])
        assert self.which(where) == "new", where
        assert names_in(self.work) == self.names, (where, names_in(self.work) ^ self.names)
        assert not (left := self.verb.left(self.work)), (where, left)
        return which

    def which(self, where: str) -> str:
        """Tell whether the old one or a whole new one has the name."""
        if content_of(self.made) == self.old:
            return "old"
        found = names_in(self.made) - {_MARK}
        assert found == self.new, (where, "a third state", found ^ self.new)
        self.verb.check(self.made)
        return "new"


def content_of(path: Path) -> dict[str, bytes]:
    """Return the bytes of a file or of all files of a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {str(one.relative_to(path.parent)): one.read_bytes() for one in files}


def names_in(path: Path) -> set[str]:
    """Return the names below a folder, but for caches and locks, which stay; a file has one name."""
    names = {str(one.relative_to(path)) for one in path.rglob("*")} if path.is_dir() else {path.name}
    return {name for name in names if not name.startswith(("cache", "tmp/")) and not name.endswith(".lock")}


def prepare(work: Path, names: Collection[str], video: Path | None = None) -> tuple[Forks, Path]:
    """Make what these verbs read and an old one of all that they write; return the forks and the trace."""
    (work / "tmp").mkdir(parents=True)
    with_cache = os.environ | {"XDG_CACHE_HOME": str(work / "cache")}
    forks = Forks(work, with_cache)
    poses = np.random.default_rng(0).random((8, 54, 2), np.float32)
    for number in range(3):
        file = work / "clips" / ("tea", "milk")[number % 2] / "ann" / f"{number}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, poses)
    if video:  # its landmarker is the user's
        (work / "cache/spoter-kit").mkdir(parents=True)
        (work / "cache/spoter-kit/landmarker").symlink_to(cache_folder() / "landmarker")
        (work / "videos/tea/ann").mkdir(parents=True)
        shutil.copy(video, work / "videos/tea/ann")
    first = ("data", "synth", "-o", "d", "--signs", 2, "--signers", 3, "--clips-per-sign", 3)
    olds = [verb.argv + verb.other for name, verb in VERBS.items() if name in names]
    for argv in (first, *olds):
        done = forks.run(*argv)
        assert done["code"] == 0, done["said"]
    trace = work.with_name("trace.onnx")
    keep = forks.run(*VERBS["export"].argv, "-o", "traced.spoter", keep_trace=str(trace))
    assert keep["code"] == 0, keep["said"]
    shutil.rmtree(work / "traced.spoter")
    return forks, trace


def main() -> int:
    """Try every point of the verbs, each with one error or with all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verbs", nargs="*", help="of " + ", ".join(VERBS))
    parser.add_argument("--all-errors", action="store_true", help="each error at each point; else in turn")
    parser.add_argument("--every", type=int, default=1, help="try one of so many points")
    parser.add_argument("--video", type=Path, help="of a person signing, for data extract")
    given = parser.parse_args()
    chosen = given.verbs or [name for name in VERBS if given.video or name != "data extract"]
    with tempfile.TemporaryDirectory() as folder:
        forks, trace = prepare(Path(folder, "work"), {*chosen, "train", "export"}, given.video)
        failed = 0
        for name in chosen:
            tried, wrong, found = Tried(VERBS[name], forks, trace), [], Counter[str]()
            for at in range(1, tried.points + 1, given.every):
                for code in ERRORS if given.all_errors else (ERRORS[at // given.every % len(ERRORS)],):
                    try:
                        found[tried.fail(at, code)] += 1
                    except (AssertionError, SpoterError) as error:
                        wrong.append(error)
                        print(f"{name}, {code} at {at}: {error}", file=sys.stderr, flush=True)
            tried.go_back()
            faults = found.total() + len(wrong)
            print(
                f"{name}: {faults} faults, {tried.points} points, {dict(found)}, {len(wrong)} wrong",
                flush=True,
            )
            failed += len(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
