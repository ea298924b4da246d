"""Count how often the bench claims a difference that is not there, and how often it finds a planted one.

    python benchmarks/a_against_a.py BUNDLE [--runs 20] [--slow-down 0.1] [--work FOLDER]

Each run of the bench has three workers of one backend, `ort-cpu`, in turn: the second equals the first, the
third waits after each call for a share of that call's time. `--runs` runs have the machine for themselves,
and as many share it with a process that keeps one core busy. A run measures one clip of 60 frames on one
thread in many short rounds: the speed of a noisy machine changes within a tenth of a second, and only changes
that last a whole round cancel. 20 runs of each take about 15 minutes; finished ones stay in the work folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from result_files import RESULTS, stored, write_result

from spoter_runtime.statistics import CLAIM_P, SAME_PROGRAM
from spoter_toolkit.bench.run import run_bench
from spoter_toolkit.bench.settings import BenchSettings
from spoter_toolkit.report.table import markdown_table
from spoter_toolkit.report.words import plural, slug

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
COLUMNS = (
    *("machine", "case", "the second worker is", "comparisons", "called slower", "called faster"),
    *("smallest ratio", "largest ratio"),
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
    """Run the bench once; return its verdicts on the equal and on the slowed worker."""
    begin = time.perf_counter()
    result = run_bench(bundle, SETTINGS, slow_down={SLOWED: slow_down})
    others = [state.others_cores for state in result.records.machine if state.others_cores is not None]
    return {
        "number": number,
        "seconds": time.perf_counter() - begin,
        "comparisons": [asdict(c) | {"claim": c.claim, "verdict": c.verdict} for c in result.comparisons],
        "drifts": list(map(str, result.drifts)),
        "others_cores": max(others, default=None),
        "failures": [asdict(failure) for failure in result.records.failures],
    }


def rows(runs: dict[str, list[dict[str, Any]]], slow_down: float) -> list[tuple[str, ...]]:
    """Return, by machine, worker and case, how many verdicts claim a difference, and between which ratios."""
    by_case: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    names = {EQUAL: "the same", SLOWED: f"slower by {slow_down:.0%}"}
    for state, of_state in runs.items():
        for comparison in [c for run in of_state for c in run["comparisons"]]:
            if comparison["backend"] in names:
                case = f"{comparison['what']} on {plural(comparison['threads'], 'thread')}"
                by_case.setdefault((state, case, names[comparison["backend"]]), []).append(comparison)
    found = []
    for key, comparisons in sorted(by_case.items()):
        ratios = [c["ratio"]["estimate"] for c in comparisons]
        claimed = [c["ratio"]["estimate"] for c in comparisons if c["claim"] in ("faster", "slower")]
        counts = (len(ratios), sum(ratio < 1 for ratio in claimed), sum(ratio > 1 for ratio in claimed))
        found.append((*key, *map(str, counts), f"{min(ratios):.3f}", f"{max(ratios):.3f}"))
    return found


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--slow-down", type=float, default=0.1)
    parser.add_argument("--work", type=Path, help="default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="a-against-a-"))
    runs: dict[str, list[dict[str, Any]]] = {IDLE: [], BUSY: []}
    for state, done in runs.items():
        for number in range(1, given.runs + 1):
            with busy_core() if state == BUSY else nullcontext():
                path = work / f"{slug(state)}-{number}.json"
                done.append(stored(path, lambda n=number: one_run(given.bundle, n, given.slow_down)))
            verdicts = ", ".join(
                f"{c['backend']} {c['what']}: {c['verdict']}" for c in done[-1]["comparisons"]
            )
            print(f"{state}, run {number} ({done[-1]['seconds']:.0f} s): {verdicts}", file=sys.stderr)
    drifted = ", ".join(f"{sum(bool(run['drifts']) for run in done)} {state}" for state, done in runs.items())
    write_result(
        "a-against-a",
        "A against A: does the bench tell equal backends apart?",
        f"Bundle {given.bundle.name}. Three workers of ort-cpu in turn, the third slowed down by "
        f"{given.slow_down:.0%} of each call's own time. A difference is claimed where the whole interval is "
        f"more than {SAME_PROGRAM:.0%} away from 1 and the signed-rank test gives p <= {CLAIM_P:g}.",
        [markdown_table(COLUMNS, rows(runs, given.slow_down)), "", f"Runs with a drift: {drifted}."],
        {"runs": runs},
        folder=given.results,
    )


if __name__ == "__main__":
    main()
