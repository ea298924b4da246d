"""Say what checking a bundle costs when it is loaded: processor time, and memory at the peak.

    spoter-kit sign BUNDLE --key mine.key --new-key
    python benchmarks/trust.py BUNDLE mine.key.pub [--rounds 40] [--core 1]

Each measurement is a process of its own; the ways take turns, in another order each round.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from result_files import RESULTS, write_result

from spoter_runtime.statistics import interval_of, resampled_medians
from spoter_toolkit.report.table import markdown_table

WAYS = ("unchecked", "checked", "library", "trusted")
COSTS = (
    ("strict reading and the operators' list", "checked", "unchecked"),
    ("trust", "trusted", "checked"),
    ("of which the library `cryptography`, imported and not used", "library", "checked"),
    ("all of it", "trusted", "unchecked"),
)
METHOD = (
    "Each measurement is a new process on one core that loads the bundle with `ort-cpu` and recognises one "
    "clip of 60 frames; ONNX Runtime and our modules are compiled, and imported before. The time is the "
    "processor's, of `Recognizer.load`; the memory is the peak of the process. "
    "*Unchecked*: JSON is read by `json.loads`, fields are not checked, and ONNX Runtime is given any graph; "
    "the hashes that the manifest states are still checked. Four ways take turns; a cost is the median of "
    "the differences within a round, with its interval of 95 % (bootstrap)."
)


def measure(way: str, bundle: str, key: str) -> None:
    """Load the bundle in this process, and print milliseconds and megabytes."""
    import onnxruntime  # noqa: F401

    from spoter_runtime import Recognizer

    if way == "unchecked":
        _check_nothing()
    clip = np.full((60, 54, 2), 0.5, np.float32)
    begin = time.process_time()
    if way == "library":
        import cryptography.hazmat.primitives.asymmetric.ec  # noqa: F401
    trust = [key] if way == "trusted" else None
    recognizer = Recognizer.load(bundle, "ort-cpu", threads=1, tuned=False, trust=trust)
    load_ms = 1e3 * (time.process_time() - begin)
    recognizer.predict(clip)
    peak_kB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    own_kB = int(rows["Private_Dirty"].split()[0])
    print(json.dumps([load_ms, peak_kB / 1024, own_kB / 1024]))


def _check_nothing() -> None:
    """Replace the strict readers by plain ones."""
    from spoter_runtime.bundle import manifest
    from spoter_runtime.ort import runner, session

    def made_from(kind: Any, value: Any, where: str = "") -> Any:
        artefacts = tuple(manifest.Artefact(**one) for one in value["artefacts"])
        return kind(**value | {"artefacts": artefacts})

    def nothing(*_: object) -> None:
        pass

    for module, name, plain in (
        (manifest, "json_from_text", json.loads),
        (session, "json_from_text", json.loads),
        (manifest, "made_from", made_from),
        (manifest.Artefact, "check", nothing),
        (runner, "check_onnx_file", nothing),
    ):
        setattr(module, name, plain)


def rounds_of(count: int, core: int, arguments: list[str]) -> list[dict[str, list[float]]]:
    """Return way → milliseconds and megabytes, a round each."""
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True)
    pinned = functools.partial(os.sched_setaffinity, 0, {core})
    # Without it a module that was edited since is compiled each time: milliseconds that no user pays.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "ORT_DISABLE_TELEMETRY": "1"}
    dice, found = random.Random(0), []
    for number in range(-1, count):  # the first round compiles and fills the page cache
        ways = dice.sample(WAYS, len(WAYS))
        words = [sys.executable, __file__, *arguments, "--way"]
        row = {way: json.loads(run([*words, way], env=env, preexec_fn=pinned).stdout) for way in ways}
        if number >= 0:
            found.append(row)
    return found


def difference(rounds: list[dict[str, list[float]]], way: str, base: str, at: int) -> str:
    """Return the median of the differences within rounds, and its interval."""
    values = [row[way][at] - row[base][at] for row in rounds]
    low, high = interval_of(resampled_medians(values, np.random.default_rng(0)))
    return f"{np.median(values):.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("key", help="the signer's public key")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        return measure(given.way, given.bundle, given.key)
    rounds = rounds_of(given.rounds, given.core, [given.bundle, given.key])
    size = sum(path.stat().st_size for path in Path(given.bundle).iterdir())
    medians = [
        (way, *(f"{np.median([row[way][at] for row in rounds]):.1f}" for at in (0, 1, 2))) for way in WAYS
    ]
    costs = [(what, *(difference(rounds, way, base, at) for at in (0, 1, 2))) for what, way, base in COSTS]
    lines = [
        f"{len(rounds)} rounds; the bundle's files have {size / 1e6:.1f} MB, all of which `trust` hashes.",
        "",
        "MB of its own are those that no file on the disk holds: the system cannot drop them.",
        "",
        markdown_table(("what it costs", "processor ms", "peak MB", "MB of its own"), costs),
        "",
        markdown_table(
            ("way, median", "load, processor ms", "peak MB, whole process", "MB of its own"), medians
        ),
    ]
    write_result(
        "trust",
        "The cost of trust when a bundle is loaded",
        METHOD,
        lines,
        {"rounds": rounds},
        folder=given.results,
    )


if __name__ == "__main__":
    main()
