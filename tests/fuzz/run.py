"""Feed malformed input to every reader and public call for a while, and count what goes wrong.

    python tests/fuzz/run.py --hours 2        # as make fuzz does
    python tests/fuzz/run.py --inputs 100000 --only bundle.json

A failure is a traceback that is no SpoterError, more than 5 seconds, or more than 500 MB. Its seed is
printed: ``--seed N --inputs 1 --only NAME`` shows it again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random

MOST_S = 5
MOST_BYTES = 500 << 20


class TooSlow(BaseException):
    """A reader took longer than `MOST_S`."""


def feed(run, seed: int) -> str:
    """Give one input to a target; return "accepted", "refused", or the traceback."""
    from spoter_runtime.errors import SpoterError

    signal.alarm(MOST_S)
    try:
        run(Random(seed))
    except SpoterError:
        return "refused"
    except (Exception, TooSlow):  # noqa: BLE001  (each one is a finding)
        return traceback.format_exc(limit=-4)
    finally:
        signal.alarm(0)
    return "accepted"


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
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_slow)
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
    counts = {name: Counter() for name in chosen}
    failures: dict[str, tuple[str, int]] = {}
    end, done = time.monotonic() + 3600 * given.hours, 0
    begin = time.monotonic()
    while time.monotonic() < end and done < given.inputs:
        for name, run in chosen.items():
            said = feed(run, given.seed + done)
            kind = said if said in ("accepted", "refused") else "failed"
            counts[name][kind] += 1
            if kind == "failed" and (key := f"{name}: {said.strip().splitlines()[-1]}"[:200]) not in failures:
                failures[key] = (said, given.seed + done)
                print(f"--- {name}, seed {given.seed + done}\n{said}", file=sys.stderr, flush=True)
        done += 1
    total = sum((count for count in counts.values()), Counter())
    print(json.dumps({name: dict(count) for name, count in counts.items()}, indent=1))
    print(f"{total.total()} inputs in {(time.monotonic() - begin) / 3600:.2f} h: {dict(total)}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{len(failures)} kinds of failure, peak {peak} MB")
    return 1 if failures else 0


def _too_slow(*_: object) -> None:
    raise TooSlow(f"more than {MOST_S} s")


if __name__ == "__main__":
    sys.exit(main())
