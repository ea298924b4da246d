"""How often the bench claims a difference where there is none, and finds one that was planted.

    python benchmarks/a_against_a.py BUNDLE [--runs 20] [--slow-down 0.1] [--work FOLDER]

Runs the bench with three workers of one backend, `ort-cpu`, in turn: the second is the first again, the third
waits a tenth of each call's own time after it. So many runs with the machine otherwise idle, and so many with
one core kept busy by a process that counts. Each run measures one clip of 60 frames on one thread, in many
short rounds: a noisy machine changes within a tenth of a second, and only what lasts a whole round cancels.
Takes about 15 minutes for 20 runs of each. A run is written to the work folder when done, and not done again.
Writes benchmarks/results/a-against-a-<cpu>-<month>.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from result_files import RESULTS, write_result

from spoter_runtime.files import write_json
from spoter_runtime.machine import usable_cores
from spoter_toolkit.bench.analysis.verdict import CLAIM_P, SAME_PROGRAM, is_claim
from spoter_toolkit.bench.host.environment import environment, slug
from spoter_toolkit.bench.run import run_bench
from spoter_toolkit.bench.settings import BenchSettings, plural

FIRST, EQUAL, SLOWED = "ort-cpu", "ort-cpu#2", "ort-cpu#3"
IDLE, BUSY = "otherwise idle", "one core kept busy"
SETTINGS = BenchSettings(
    backends=(FIRST, EQUAL, SLOWED),
    scenarios=("latency",),
    batches=(1,),
    frames=(60,),
    threads=(1,),
    rounds=60,
    seconds_per_case=0.6,
    notebook=False,
    curve=False,
    floor=False,
)


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep the last core of this process busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as counting:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(counting.pid, {max(os.sched_getaffinity(0))})
        try:
            yield
        finally:
            counting.kill()


def one_run(bundle: Path, number: int, slow_down: float) -> dict[str, Any]:
    """Run the bench once; return what it says of the equal and of the slowed worker."""
    begin = time.perf_counter()
    result = run_bench(bundle, SETTINGS, slow_down={SLOWED: slow_down})
    others = [state.others_cores for state in result.machine if state.others_cores is not None]
    return {
        "number": number,
        "seconds": time.perf_counter() - begin,
        "comparisons": [asdict(c) | {"verdict": c.verdict} for c in result.comparisons()],
        "drifts": list(map(str, result.drifts())),
        "others_cores": max(others, default=None),
        "failures": [asdict(failure) for failure in result.failures],
    }


def kept(path: Path, bundle: Path, number: int, slow_down: float) -> dict[str, Any]:
    """Return a run that was done before, else do it."""
    if not path.is_file():
        write_json(path, one_run(bundle, number, slow_down))
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def counts(runs: list[dict[str, Any]], backend: str) -> dict[str, Any]:
    """Return, by case, how often a verdict claims a difference from the first worker, and the ratios."""
    found: dict[str, Any] = {}
    for run in runs:
        for comparison in run["comparisons"]:
            if comparison["backend"] == backend:
                what = f"{comparison['what']} on {plural(comparison['threads'], 'thread')}"
                row = found.setdefault(what, {"comparisons": 0, "faster": 0, "slower": 0, "ratios": []})
                words = comparison["verdict"]
                row["comparisons"] += 1
                row["ratios"].append(comparison["ratio"]["estimate"])
                if is_claim(words):
                    row["faster" if comparison["ratio"]["estimate"] > 1 else "slower"] += 1
                row.setdefault("verdicts", Counter())[words] += 1
    return found


def markdown(told: dict[str, Any], where: dict[str, Any], command: str, bundle: str, slow_down: float) -> str:
    """Return the result for people."""
    lines = [
        f"# A against A on {where['cpu']}, {datetime.now(timezone.utc):%Y-%m}",
        "",
        f"`{command}`, bundle {bundle}, {where['usable_cores']} cores. Three workers of ort-cpu in turn, the "
        f"third slowed down by {slow_down:.0%} of each call's own time. A difference is claimed where the "
        f"whole interval is more than {SAME_PROGRAM:.0%} away from 1 and the signed-rank test gives p <= "
        f"{CLAIM_P:g}.",
        "",
        "| machine | case | the second worker is | comparisons | called slower | called faster | ratios |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for state, by_backend in told.items():
        for backend, name in ((EQUAL, "the same"), (SLOWED, f"slower by {slow_down:.0%}")):
            for case, row in by_backend[backend].items():
                low, high = min(row["ratios"]), max(row["ratios"])
                lines.append(
                    f"| {state} | {case} | {name} | {row['comparisons']} | {row['slower']} | {row['faster']} "
                    f"| {low:.3f} – {high:.3f} |"
                )
    drifted = {state: by_backend["drifted"] for state, by_backend in told.items()}
    lines += ["", "Runs in which a drift was flagged: " + ", ".join(f"{n} {s}" for s, n in drifted.items())]
    return "\n".join(lines) + ".\n"


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--slow-down", type=float, default=0.1)
    parser.add_argument("--work", type=Path, help="default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    where = environment()
    work = asked.work or Path(tempfile.mkdtemp(prefix="a-against-a-"))
    work.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {IDLE: [], BUSY: []}
    for state, done in runs.items():
        for number in range(1, asked.runs + 1):
            path = work / f"{slug(state)}-{number}.json"
            if state == BUSY:
                with busy_core():
                    done.append(kept(path, asked.bundle, number, asked.slow_down))
            else:
                done.append(kept(path, asked.bundle, number, asked.slow_down))
            said = ", ".join(f"{c['backend']} {c['what']}: {c['verdict']}" for c in done[-1]["comparisons"])
            print(
                f"{state}, run {number} of {asked.runs} ({done[-1]['seconds']:.0f} s): {said}",
                file=sys.stderr,
            )
    told = {
        state: {backend: counts(done, backend) for backend in (EQUAL, SLOWED)}
        | {"drifted": sum(bool(run["drifts"]) for run in done)}
        for state, done in runs.items()
    }
    command = f"python benchmarks/a_against_a.py BUNDLE --runs {asked.runs} --slow-down {asked.slow_down:g}"
    cores = {"usable_cores": usable_cores()}
    report = markdown(told, where | cores, command, asked.bundle.name, asked.slow_down)
    print(report)
    write_result("a-against-a", {"told": told, "runs": runs}, report, where, folder=asked.results)


if __name__ == "__main__":
    main()
