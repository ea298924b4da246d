"""Write the page of malformed inputs from the counts that tests/fuzz/run.py kept.

python tests/fuzz/run.py --hours 2 --state counts.json      # as often as there is time; it goes on
python benchmarks/malformed.py counts.json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from result_files import RESULTS, write_result

from spoter_toolkit.report.table import markdown_table

METHOD = (
    "Each input is a good file with odd values, bytes or lengths, or an odd argument of a public call. "
    "A failure is a traceback that is no SpoterError, more than 5 s of a processor (60 s by the clock), "
    "or more than 500 MB above the start. "
    "What costs more is fed less often: `EVERY` and `MANY` in tests/fuzz/run.py. No seed was used twice."
)


def by_target(runs: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Return target → what was said → inputs, over all runs."""
    counts: dict[str, Counter[str]] = {}
    for run in runs:
        for name, said in run["counts"].items():
            counts.setdefault(name, Counter()).update(said)
    return counts


def write_page(runs: list[dict[str, Any]], folder: Path = RESULTS) -> None:
    """Write the sum of the runs, a line a target and a line a run."""
    counts = by_target(runs)
    total = sum(counts.values(), Counter())
    hours, processor_hours = (sum(run[key] for run in runs) for key in ("hours", "processor_hours"))
    failures = {kind: f"at {run['commit']}, mended since" for run in runs for kind in run["failures"]}
    for run in runs:  # sorted out by hand: fed again alone, it passed
        failures |= {kind: f"at {run['commit']}, not again when fed alone" for kind in run.get("once", ())}
    rows = [
        (name, *(f"{said[kind]:,}" for kind in ("refused", "accepted", "failed")))
        for name, said in counts.items()
    ]
    each = [
        (
            run["commit"],
            f"{sum(sum(said.values()) for said in run['counts'].values()):,}",
            *(f"{run[key]:.2f}" for key in ("processor_hours", "hours")),
            *(str(number) for number in (run["peak_mb"], len(run["failures"]))),
        )
        for run in runs
    ]
    lines = [
        f"{total.total():,} inputs in {processor_hours:.2f} hours of one processor ({hours:.2f} hours on the "
        f"clock, beside other work): {total['refused']:,} refused, {total['accepted']:,} accepted, "
        f"{total['failed']:,} failed.",
        "",
        *(f"- failed {when}: `{kind}`" for kind, when in failures.items()),
        *([""] if failures else []),
        markdown_table(("reader or call", "refused", "accepted", "failed"), rows),
        "",
        markdown_table(
            ("commit", "inputs", "processor h", "clock h", "peak MB, whole process", "kinds of failure"), each
        ),
    ]
    write_result(
        "malformed", "Malformed inputs, all readers and calls", METHOD, lines, {"runs": runs}, folder=folder
    )


def main() -> None:
    """Read the counts and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("counts", type=Path, help="the file of run.py --state")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    write_page(json.loads(given.counts.read_text(encoding="utf-8")), given.results)


if __name__ == "__main__":
    main()
