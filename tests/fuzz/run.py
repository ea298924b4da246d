"""Feed malformed input to every reader and public call for a while, and count what goes wrong.

    python tests/fuzz/run.py --hours 2        # as make fuzz does
    python tests/fuzz/run.py --hours 2 --state counts.json     # goes on where the last run stopped
    python tests/fuzz/run.py --inputs 100000 --only bundle.json

A failure is a traceback that is no SpoterError, more than 5 seconds of the processor (a minute on the clock,
as other work may hold the processor), or more than 500 MB. Its seed is printed: ``--seed N --inputs 1 --only
NAME`` shows it again. ``python benchmarks/malformed.py counts.json`` makes
a page of the counts.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random

MOST_S = 5
MOST_WAIT_S = 60
MOST_BYTES = 500 << 20
A_ROUND_S = 600  # a call that never returns to Python ends the process, and shows where it was
SAVE_S = 20
# The budget: a target is fed once a round unless it stands here.
EVERY = {  # so many rounds; these cost 2 to 20 ms an input, and `load` knows thirty inputs
    "goldens.npz": 10,
    "asl33": 10,
    "landmarks_from_mediapipe": 10,
    "predict": 5,
    "predict_many": 5,
    "parity.json": 2,
    "parity facts": 2,
    "tuned": 2,
    "load": 200,
    "model.onnx, its fields": 2,
}
MANY = 5  # inputs a round for these, which cost 0.2 to 0.4 ms
CHEAP = frozenset(
    (
        *("landmarker.json", "landmark log", "clip.npy", "metrics.jsonl", "recipe", "--set", "policy"),
        *("lengths", "crossval.json", "dataset.json", "split.json", "split.csv", "labels", "videos.csv"),
        "bench.json",
    )
)


class TooSlow(BaseException):
    """A reader took longer than `MOST_S` of the processor, or waited for `MOST_WAIT_S`."""


def feed(run, seed: int, *, again: bool = True) -> str:
    """Give one input to a target; return "accepted", "refused", or the traceback.

    One that took too long is given again: other work may have held the processor.
    """
    from spoter_runtime.errors import SpoterError

    try:
        _limit(MOST_S, MOST_WAIT_S)
        try:
            run(Random(seed))
        finally:
            _limit(0, 0)
    except SpoterError:
        return "refused"
    except TooSlow:
        return feed(run, seed, again=False) if again else traceback.format_exc(limit=-4)
    except Exception:  # noqa: BLE001  (each one is a finding)
        return traceback.format_exc(limit=-4)
    return "accepted"


def _limit(processor_s: float, wait_s: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, processor_s)
    signal.setitimer(signal.ITIMER_REAL, wait_s)


def small_bundle(folder: Path) -> Path:
    """Export the smallest model as a bundle."""
    from spoter_export.bundle.writer import export_bundle
    from spoter_runtime.contract import GraphContract, Label
    from spoter_toolkit.model.config import ModelConfig
    from spoter_toolkit.model.spoter import model_from_config

    sizes = {"d_model": 36, "num_encoder_layers": 1, "d_ff": 40, "max_seq_length": 100}
    labels = tuple(Label(name=name) for name in ("a", "b", "c", "d", "e"))
    contract = GraphContract(labels=labels, max_frames=99, max_batch=2)
    model = model_from_config(ModelConfig(num_classes=5, **sizes)).eval()
    export_bundle(model, contract, folder, provenance={})
    return folder


def main() -> int:
    """Run until the time or the inputs are used up; return 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--inputs", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets whose name has this in it")
    parser.add_argument("--state", type=Path, help="counts of all runs so far; goes on behind them")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_slow)
    signal.signal(signal.SIGPROF, _too_slow)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        from targets import Place, targets  # after the cache's place is set

        place = Place(folder=Path(folder) / "files", bundle=small_bundle(Path(folder) / "small.spoter"))
        place.folder.mkdir()
        chosen = {name: run for name, run in targets(place).items() if given.only in name}
        status = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (status + MOST_BYTES, resource.RLIM_INFINITY))
        return _feed_all(chosen, given)


def _feed_all(chosen, given) -> int:
    before = json.loads(given.state.read_text()) if given.state and given.state.exists() else []
    seed = max((one["seeds"][1] for one in before), default=given.seed)
    run = {"commit": _commit(), "seeds": [seed, seed], "hours": 0.0, "processor_hours": 0.0, "peak_mb": 0}
    run |= {"counts": {name: Counter() for name in chosen}, "failures": {}}
    begin, begin_s, saved = time.monotonic(), time.process_time(), 0.0
    while (now := time.monotonic()) < begin + 3600 * given.hours and seed - run["seeds"][0] < given.inputs:
        faulthandler.dump_traceback_later(A_ROUND_S, exit=True)
        for name, target in chosen.items():
            if given.only or seed % EVERY.get(name, 1) == 0:
                many = name in CHEAP and not given.only
                for one in range(seed * MANY, seed * MANY + MANY) if many else (seed,):
                    _count(run, name, feed(target, one), one)
        seed += 1
        if now > saved + SAVE_S:
            saved = now
            _save(run, seed, begin, begin_s, [given.state, before])
    faulthandler.cancel_dump_traceback_later()
    _save(run, seed, begin, begin_s, [given.state, before])
    total = sum(run["counts"].values(), Counter())
    print(json.dumps(run["counts"], indent=1))
    print(f"{total.total()} inputs in {run['hours']} h: {dict(total)}")
    print(f"{len(run['failures'])} kinds of failure, peak {run['peak_mb']} MB")
    return 1 if run["failures"] else 0


def _count(run, name: str, said: str, seed: int) -> None:
    kind = said if said in ("accepted", "refused") else "failed"
    run["counts"][name][kind] += 1
    if kind == "failed" and (key := f"{name}: {said.strip().splitlines()[-1]}"[:200]) not in run["failures"]:
        run["failures"][key] = seed
        print(f"--- {name}, seed {seed}\n{said}", file=sys.stderr, flush=True)


def _save(run, seed: int, begin: float, begin_s: float, state) -> None:
    run["seeds"][1] = seed
    run["hours"] = round((time.monotonic() - begin) / 3600, 3)
    run["processor_hours"] = round((time.process_time() - begin_s) / 3600, 3)
    run["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    path, before = state
    if path:
        part = path.with_suffix(".tmp")
        part.write_text(json.dumps([*before, run], indent=1) + "\n")
        part.replace(path)


def _commit() -> str:
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def _too_slow(*_: object) -> None:
    raise TooSlow(f"more than {MOST_S} s of the processor, or {MOST_WAIT_S} s")


if __name__ == "__main__":
    sys.exit(main())
