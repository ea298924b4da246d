"""Set up each peer in its own environment and measure all of them and us, in turn.

    python benchmarks/peers CHECKPOINT [--run RUN DATASET] [--peers a,b,c] [--rounds 60] [--skip-setup]

CHECKPOINT is one of the notebook: times are of its model. RUN adds answers to people's clips, DATASET's test
split. Environments, models and finished parts are kept in .peers/ until the result is written; environments
and models stay.
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
from cases import Asked, AskedRoofline, cold_starts, take_turns
from client import FAILED, PeerProcess
from environments import ROOT, Peer, all_peers, set_up
from materials import READY, prepare_checkpoint, prepare_run
from result_files import RESULTS, result_name, stored, write_result

from spoter_runtime.files import sha256_of
from spoter_runtime.machine import usable_cores
from spoter_toolkit.bench.settings import CURVE_FRAMES, OFFLINE_CLIPS
from spoter_toolkit.data.lengths import generated_lengths
from spoter_toolkit.report.words import without_places

FRAMES = 60
CALLS, CURVE_CALLS = 5, 2
LEAST_ROUNDS = 8  # with fewer, nothing is claimed
COLD = ("torch-eager", "ort-stock", "ours", "ours-fused", "ours-fused-int8")
CUT = "padded or cut to 100 frames, 16 a batch: the notebook's way"
PADDED = "16 a batch, padded to its longest"
WAYS = {"torch-eager": CUT, "torch-compile": CUT, "ort-stock": PADDED, "ort-optimiser": PADDED}
WAYS["ours"] = "`Recognizer.predict_many`"


class Bench:
    """One run: its peers, its models, and the folder that keeps finished parts.

    Attributes:
        folder: environments, models, parts.
        models: name → folder; the first one is timed.
        errors: peer → why it, or a figure of it, is missing; the first reason stays.
        versions: peer → name → version of its packages.
    """

    def __init__(self, folder: Path, peers: dict[str, Peer], models: dict[str, Path], key: Any) -> None:
        self.folder = folder
        self.peers = peers
        self.models = models
        self.timed = next(iter(models.values()))
        self.errors: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self._key = key

    def part(self, name: str, measure: Callable[[], Any], key: Any = None) -> Any:
        """Return a finished part that was measured under the same key, or measure it and keep it.

        Args:
            name: of its file.
            measure: returns plain JSON values.
            key: everything that it depends on; None for the peers, the rounds and the model that is timed.
        """
        return stored(self.folder / "parts" / f"{name}.json", measure, key=self._key if key is None else key)

    def start(self, name: str, threads: int, model: Path | None = None) -> PeerProcess:
        """Start a peer's worker."""
        peer = self.peers[name]
        return PeerProcess(peer.python(self.folder), peer, model or self.timed, threads)

    def set_up(self, skip: bool) -> None:
        """Install and prepare the peers that are not ready; `skip` leaves them out instead."""
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
                self.prepare(name, model, skip)

    def prepare(self, name: str, model: Path, skip: bool) -> None:
        """Let a peer make its own files of a model, or note why it cannot."""
        ready, failed = model / f"{name}.ready", model / f"{name}.failed"
        if ready.is_file():
            return
        if not skip:
            print(f"preparing {name} of {model.name}", flush=True)
            try:
                with self.start(name, 1, model) as worker:
                    worker.ask(do="prepare")
            except FAILED as error:
                failed.write_text(without_places(str(error)))
            else:
                ready.touch()
                failed.unlink(missing_ok=True)
                return
        reason = failed.read_text() if failed.is_file() else "not prepared"
        self.errors.setdefault(name, f"{model.name}: {reason}")

    def usable(self, model: Path) -> list[str]:
        """Return the peers that are prepared for a model."""
        return [name for name in self.peers if (model / f"{name}.ready").is_file()]

    def open_all(self, ending: ExitStack, names: Iterable[str], threads: int) -> dict[str, Asked]:
        """Start and load workers, without those whose engine does not load; the roofline is the last one."""
        opened: dict[str, Asked] = {}
        for name in names:
            worker = ending.enter_context(self.start(name, threads))
            try:
                worker.ask(do="load")
            except FAILED as error:
                self.errors.setdefault(name, without_places(str(error)))
            else:
                opened[name] = worker
        model = (self.timed / "ours.spoter" / "model.onnx").read_bytes()
        return {**opened, page.ROOFLINE: AskedRoofline(model, threads)}


def answers(bench: Bench, model: Path, name: str) -> dict[str, Any]:
    """Return how a peer's answers differ from PyTorch's."""
    to = bench.folder / "logits.npy"
    versions: dict[str, str] = {}
    try:
        with bench.start(name, 1, model) as worker:
            versions = worker.ask(do="load")["versions"]
            worker.ask(do="answer", to=str(to.absolute()))
    except FAILED as error:
        return {"error": without_places(str(error)), "versions": versions}
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
    """Return how all peers' answers differ from PyTorch's, and the facts of the clips."""
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


def single_clip(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return the main case: one clip, one thread."""
    with ExitStack() as ending:
        asked = bench.open_all(ending, bench.usable(bench.timed), 1)
        found = take_turns(asked, rounds, do="time", frames=FRAMES, calls=CALLS)
    return {**found, "rounds": rounds, "calls": CALLS, "frames": FRAMES, "threads": 1}


def curve(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return one clip of each length on one thread."""
    by_frames = {}
    with ExitStack() as ending:
        asked = bench.open_all(ending, bench.usable(bench.timed), 1)
        for frames in CURVE_FRAMES:
            by_frames[frames] = take_turns(asked, rounds, do="time", frames=frames, calls=CURVE_CALLS)
    return {"by_frames": by_frames, "rounds": rounds, "calls": CURVE_CALLS, "threads": 1}


def many_clips(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return many clips of many lengths on all cores."""
    lengths = generated_lengths().sample(OFFLINE_CLIPS, seed=0)
    threads = usable_cores()
    with ExitStack() as ending:
        names = [name for name in bench.usable(bench.timed) if bench.peers[name].many]
        asked = bench.open_all(ending, names, threads)
        found = take_turns(asked, rounds, warm_ups=(2, 1), do="time_many", lengths=lengths, calls=1)
    return {**found, "rounds": rounds, "lengths": lengths, "threads": threads}


def cold(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return fresh processes to their first answer."""
    usable = bench.usable(bench.timed)
    start = {name: lambda name=name: bench.start(name, 1) for name in COLD if name in usable}
    return {**cold_starts(start, rounds, FRAMES), "rounds": rounds, "threads": 1}


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return everything as plain JSON values."""
    models = {name: answers_of(bench, name) for name in bench.models}
    fewer = max(LEAST_ROUNDS, rounds // 4)
    cases = {
        "one": bench.part("one", lambda: single_clip(bench, rounds)),
        "curve": bench.part("curve", lambda: curve(bench, fewer)),
        "ragged": bench.part("ragged", lambda: many_clips(bench, fewer)),
        "cold": bench.part("cold", lambda: cold(bench, fewer)),
    }
    for what, case in cases.items():
        for name, reason in case.get("failed", {}).items():
            bench.errors.setdefault(name, f"{what}: {reason}")
        for frames, of_length in case.get("by_frames", {}).items():
            for name, reason in of_length["failed"].items():
                bench.errors.setdefault(name, f"{what}: {frames} frames: {reason}")
    rows = {
        name: {
            "what": peer.what,
            "versions": bench.versions.get(name, {}),
            "error": bench.errors.get(name),
        }
        for name, peer in bench.peers.items()
    }
    return {"peers": rows, "models": models, "cases": cases, "ways": WAYS}


def chosen_peers(names: str | None) -> dict[str, Peer]:
    """Return the named peers; all of them without a name."""
    peers = all_peers()
    wanted = names.split(",") if names else [*peers]
    if unknown := [name for name in wanted if name not in peers]:
        raise SystemExit(f"unknown peers {', '.join(unknown)}; there are {', '.join(peers)}")
    return {name: peers[name] for name in wanted}


def main() -> None:
    """Set up, measure, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="of the notebook")
    parser.add_argument("--run", nargs=2, type=Path, metavar=("RUN", "DATASET"), help="answers to its clips")
    parser.add_argument("--peers", help=f"with commas; default: {','.join(all_peers())}")
    parser.add_argument("--rounds", type=int, default=60, help="of the main case; the others take a quarter")
    parser.add_argument(
        "--skip-setup", action="store_true", help="leave out peers that are not installed yet"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    folder = ROOT / ".peers"
    peers = chosen_peers(given.peers)
    models = {given.checkpoint.stem: folder / "models" / given.checkpoint.stem}
    prepare_checkpoint(given.checkpoint, models[given.checkpoint.stem])
    if given.run:
        run, data = given.run
        models[run.name] = folder / "models" / run.name
        prepare_run(run, data, models[run.name])
    key = {"peers": [*peers], "rounds": given.rounds, "model": sha256_of(given.checkpoint)}
    bench = Bench(folder, peers, models, key)
    bench.set_up(given.skip_setup)
    found = measure(bench, given.rounds)
    given.results.mkdir(parents=True, exist_ok=True)
    picture = given.results / f"{result_name('peers')}.png"
    page.draw_curve(found, picture)
    lines = page.page_lines(found, picture.name)
    write_result("peers", page.TITLE, page.method(found), lines, found, folder=given.results)
    for part in (folder / "parts").glob("*.json"):
        part.unlink()


if __name__ == "__main__":
    main()
