"""Set up each peer in its own environment and measure all of them and us, in turn.

    python benchmarks/peers CHECKPOINT [--run RUN DATASET] [--peers a,b,c] [--rounds 60] [--skip-setup]

CHECKPOINT is one of the notebook: times are of its model. RUN adds answers to people's clips, DATASET's test
split. Environments, models and finished parts are kept in .peers/ until the result is written; environments
and models stay. Writes benchmarks/results/peers-<cpu>-<month>.json, .md and .png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import page
from asking import Asked
from environments import ROOT, Peer, all_peers, set_up
from materials import READY, prepare_checkpoint, prepare_run
from result_files import RESULTS, result_name, write_result
from turns import Askable, AskedFloor, cold_starts, in_turn

from spoter_runtime.files import sha256_of, write_json
from spoter_toolkit.bench.host.environment import environment
from spoter_toolkit.bench.lengths import generated_lengths
from spoter_toolkit.bench.settings import CURVE_FRAMES, OFFLINE_CLIPS, usable_cores

FRAMES = 60
CALLS, CURVE_CALLS = 5, 2
LEAST_ROUNDS = 8  # with fewer, nothing is claimed
COLD = ("torch-eager", "ort-stock", "ours", "ours-fused", "ours-fused-int8")
CUT = "padded or cut to 100 frames, 16 a batch: the notebook's way"
PADDED = "16 a batch, padded to its longest"
WAYS = {"torch-eager": CUT, "torch-compile": CUT, "ort-stock": PADDED, "ort-optimiser": PADDED}
WAYS["ours"] = "`Recognizer.predict_many`"


class Bench:
    """One run: what is kept between stages, and where.

    Attributes:
        folder: environments, models, parts.
        errors: peer → why it is missing, or misses something; the first reason stays.
    """

    def __init__(self, folder: Path, peers: dict[str, Peer], models: dict[str, Path], key: Any) -> None:
        self.folder = folder
        self.peers = peers
        self.models = models
        self.errors: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self._key = json.loads(json.dumps(key))

    @property
    def timed(self) -> Path:
        """The folder of the model that is timed: the first."""
        return next(iter(self.models.values()))

    def part(self, name: str, measure: Callable[[], Any], key: Any = None) -> Any:
        """Return a finished part that was measured under the same key, or measure it and keep it.

        Args:
            name: of its file.
            measure: what gives it.
            key: what it depends on; None for the peers, the rounds and the model that is timed.
        """
        key = self._key if key is None else key
        file = self.folder / "parts" / f"{name}.json"
        if file.is_file():
            kept = json.loads(file.read_text())
            if kept["key"] == key:
                return kept["value"]
        print(f"measuring {name}", flush=True)
        value = json.loads(json.dumps(measure()))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"key": key, "value": value})
        return value

    def asked(self, name: str, threads: int, model: Path | None = None) -> Asked:
        """Start a peer's worker."""
        peer = self.peers[name]
        return Asked(peer.python(self.folder), peer, model or self.timed, threads)

    def set_up(self, skip: bool) -> None:
        """Install and prepare whatever is not yet, unless that is to be skipped."""
        for name, peer in self.peers.items():
            kept = peer.environment(self.folder).with_suffix(".failed")
            if skip:
                reason = kept.read_text() if kept.is_file() else None
            else:
                reason = set_up(peer, self.folder)
                kept.write_text(reason) if reason else kept.unlink(missing_ok=True)
            if reason:
                self.errors[name] = reason
                continue
            for model in self.models.values():
                self._prepare(name, model, skip)

    def _prepare(self, name: str, model: Path, skip: bool) -> None:
        ready = model / f"{name}.ready"
        failed = model / f"{name}.failed"
        if ready.is_file():
            return
        if not skip:
            print(f"preparing {name} of {model.name}", flush=True)
            with self.asked(name, 1, model) as asked:
                reply = asked.ask("prepare")
            if "error" not in reply:
                ready.touch()
                failed.unlink(missing_ok=True)
                return
            failed.write_text(reply["error"])
        reason = failed.read_text() if failed.is_file() else "not prepared"
        self.errors.setdefault(name, f"{model.name}: {reason}")

    def usable(self, model: Path) -> list[str]:
        """Return who is prepared for a model."""
        return [name for name in self.peers if (model / f"{name}.ready").is_file()]

    def open_all(self, ending: ExitStack, names: Iterable[str], threads: int) -> dict[str, Askable]:
        """Start and load workers; whose engine does not load is left out."""
        opened: dict[str, Askable] = {}
        for name in names:
            asked = ending.enter_context(self.asked(name, threads))
            reply = asked.ask("load")
            if "error" in reply:
                self.errors.setdefault(name, reply["error"])
                continue
            opened[name] = asked
        return opened


def answers(bench: Bench, model: Path, name: str) -> dict[str, Any]:
    """Return how a peer's answers differ from PyTorch's."""
    to = bench.folder / "logits.npy"
    with bench.asked(name, 1, model) as asked:
        reply = asked.ask("load")
        versions = reply.get("versions", {})
        if "error" not in reply:
            reply = asked.ask("answer", to=str(to.absolute()))
    if "error" in reply:
        return {"error": reply["error"], "versions": versions}
    logits_NC, expected_NC = np.load(to), np.load(model / "expected.npy")
    if logits_NC.shape != expected_NC.shape:
        return {"error": f"logits {logits_NC.shape}, expected {expected_NC.shape}", "versions": versions}
    with np.load(model / "clips.npz") as clips:
        true_N = clips["true"]
    known = len(true_N) > 0 and bool((true_N >= 0).all())
    labels_N = logits_NC.argmax(1)
    return {
        "versions": versions,
        "clips": len(labels_N),
        "labels_agree": int((labels_N == expected_NC.argmax(1)).sum()),
        "max_logit_diff": float(np.abs(logits_NC - expected_NC).max()),
        "top1": float((labels_N == true_N).mean()) if known else None,
    }


def answers_of(bench: Bench, model_name: str) -> dict[str, Any]:
    """Return how all peers' answers differ from PyTorch's, and what the clips are."""
    model = bench.models[model_name]
    facts = json.loads((model / READY).read_text())
    found = {}
    for name in bench.usable(model):
        key = f"answers-{model_name}-{name}"
        found[name] = bench.part(key, lambda name=name: answers(bench, model, name), facts)
        bench.versions.setdefault(name, {}).update(found[name].pop("versions"))
        if "error" in found[name]:
            bench.errors.setdefault(name, f"{model_name}: {found[name]['error']}")
    return {**facts, "answers": found}


def one_clip(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return the main case: one clip, one thread, and the floor with them."""
    with ExitStack() as ending:
        asked = bench.open_all(ending, bench.usable(bench.timed), 1)
        asked[page.FLOOR] = floor(bench)
        found = in_turn(asked, rounds, "time", frames=FRAMES, calls=CALLS)
    return {**found, "rounds": rounds, "calls": CALLS, "frames": FRAMES, "threads": 1}


def curve(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return one clip of each length on one thread."""
    by_frames = {}
    with ExitStack() as ending:
        asked = bench.open_all(ending, bench.usable(bench.timed), 1)
        asked[page.FLOOR] = floor(bench)
        for frames in CURVE_FRAMES:
            by_frames[frames] = in_turn(asked, rounds, "time", frames=frames, calls=CURVE_CALLS)
    return {"by_frames": by_frames, "rounds": rounds, "calls": CURVE_CALLS, "threads": 1}


def ragged(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return many clips of many lengths on all cores."""
    lengths = generated_lengths().sample(OFFLINE_CLIPS, seed=0)
    threads = usable_cores()
    with ExitStack() as ending:
        names = [name for name in bench.usable(bench.timed) if bench.peers[name].many]
        asked = bench.open_all(ending, names, threads)
        asked[page.FLOOR] = floor(bench, threads)
        found = in_turn(asked, rounds, "time_many", warm_ups=(2, 1), lengths=lengths, calls=1)
    return {**found, "rounds": rounds, "lengths": lengths, "threads": threads}


def cold(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return fresh processes."""
    usable = bench.usable(bench.timed)
    start = {name: lambda name=name: bench.asked(name, 1) for name in COLD if name in usable}
    return {**cold_starts(start, rounds, FRAMES), "rounds": rounds, "threads": 1}


def floor(bench: Bench, workers: int = 1) -> AskedFloor:
    """Return the model's products alone."""
    return AskedFloor((bench.timed / "ours.spoter" / "model.onnx").read_bytes(), workers)


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return everything as plain JSON values."""
    models = {name: answers_of(bench, name) for name in bench.models}
    fewer = max(LEAST_ROUNDS, rounds // 4)
    cases = {
        "one": bench.part("one", lambda: one_clip(bench, rounds)),
        "curve": bench.part("curve", lambda: curve(bench, fewer)),
        "ragged": bench.part("ragged", lambda: ragged(bench, fewer)),
        "cold": bench.part("cold", lambda: cold(bench, fewer)),
    }
    for what, case in cases.items():
        failed = case.get("failed") or {
            name: f"{frames} frames: {reason}"
            for frames, of in case.get("by_frames", {}).items()
            for name, reason in of["failed"].items()
        }
        for name, reason in failed.items():
            bench.errors.setdefault(name, f"{what}: {reason}")
    rows = {
        name: {
            "what": peer.what,
            "versions": bench.versions.get(name, {}),
            "error": bench.errors.get(name),
        }
        for name, peer in bench.peers.items()
    }
    return {"peers": rows, "models": models, "cases": cases, "ways": WAYS}


def chosen(names: str | None) -> dict[str, Peer]:
    """Return the peers that are asked for; all of them without a name."""
    peers = all_peers()
    if names is None:
        return peers
    wanted = names.split(",")
    if unknown := [name for name in wanted if name not in peers]:
        raise SystemExit(f"unknown peers {', '.join(unknown)}; there are {', '.join(peers)}")
    return {name: peers[name] for name in wanted}


def models_of(given: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Prepare what the peers share; return name → folder, what is timed first."""
    models = {given.checkpoint.stem: folder / "models" / given.checkpoint.stem}
    prepare_checkpoint(given.checkpoint, _made(models[given.checkpoint.stem]))
    if given.run:
        run, data = given.run
        models[run.name] = folder / "models" / run.name
        prepare_run(run, data, _made(models[run.name]))
    return models


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def command_of(given: argparse.Namespace) -> str:
    """Return the command that was given, without the places of its files."""
    parts = ["python benchmarks/peers CHECKPOINT"]
    parts += ["--run RUN DATASET"] if given.run else []
    parts += [f"--peers {given.peers}"] if given.peers else []
    return " ".join([*parts, f"--rounds {given.rounds}"])


def main() -> None:
    """Set up, measure, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="of the notebook")
    parser.add_argument("--run", nargs=2, type=Path, metavar=("RUN", "DATASET"), help="answers to its clips")
    parser.add_argument("--peers", help=f"with commas; default: {','.join(all_peers())}")
    parser.add_argument("--rounds", type=int, default=60, help="of the main case; the others take a quarter")
    parser.add_argument("--skip-setup", action="store_true", help="take what is installed and prepared")
    given = parser.parse_args()
    folder = ROOT / ".peers"
    peers = chosen(given.peers)
    models = models_of(given, folder)
    key = {"peers": [*peers], "rounds": given.rounds, "model": sha256_of(given.checkpoint)}
    bench = Bench(folder, peers, models, key)
    bench.set_up(given.skip_setup)
    found = measure(bench, given.rounds)
    found["command"] = command_of(given)
    picture = RESULTS / f"{result_name('peers')}.png"
    page.draw_curve(found, picture)
    where = environment()
    write_result("peers", found, page.markdown(found, where, picture.name), where)
    for part in (folder / "parts").glob("*.json"):
        part.unlink()


if __name__ == "__main__":
    main()
