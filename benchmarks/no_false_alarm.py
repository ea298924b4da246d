"""Prove a bundle that is right again and again with other generated clips, and count how often parity fails.

    python benchmarks/no_false_alarm.py BUNDLE RUN DATASET [--seeds 20] [--clips 256] [--backends ort-cpu]

Every seed runs the whole shape grid, the generated clips, people's clips, the same under eight changes, the
goldens, and the changes that must not matter.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from result_files import RESULTS, write_result

from spoter_export.parity.proof import Proof
from spoter_runtime.bundle.manifest import read_bundle
from spoter_toolkit.backends import CPU_BACKENDS, TORCH_BACKENDS, backends_of, split_backend
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.export import proof_clips
from spoter_toolkit.parity.prove import prove_backends
from spoter_toolkit.reference import open_reference
from spoter_toolkit.report.table import markdown_table
from spoter_toolkit.report.words import slug

COLUMNS = (
    *(
        "backend",
        "precision",
        "passed",
        "largest logit difference",
        "moved by padding, batch composition, order",
    ),
    *("clips a seed", "labels that flipped, all seeds"),
)


def row_of(proof: Proof, seed: int, seconds: float) -> dict[str, Any]:
    """Return the facts of one seed about one backend."""
    facts = proof.facts
    clips = [clip for group in facts.clips for clip in group.clips]
    moved = [fact.max_logit_diff for fact in facts.invariance if fact.runner == facts.candidate]
    return {
        "backend": facts.candidate,
        "precision": proof.precision,
        "seed": seed,
        "passed": proof.verdict.passed,
        "failures": list(proof.verdict.failures),
        "max_logit_diff": facts.max_logit_diff,
        "max_invariance_diff": max((m for m in moved if m is not None), default=None),
        "clips": len(clips),
        "flips": sum(clip.is_flip for clip in clips),
        "seconds_of_all_backends": seconds,
    }


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of all backends, how long a seed takes, and every failure."""
    table = []
    for backend, precision in dict.fromkeys((row["backend"], row["precision"]) for row in rows):
        own = [row for row in rows if (row["backend"], row["precision"]) == (backend, precision)]
        passed = f"{sum(row['passed'] for row in own)} of {len(own)}"
        most = [f"{max(row[key] for row in own):.1e}" for key in ("max_logit_diff", "max_invariance_diff")]
        flips = str(sum(row["flips"] for row in own))
        table.append((backend, precision, passed, *most, str(own[0]["clips"]), flips))
    seconds = [row["seconds_of_all_backends"] for row in rows]
    return [
        markdown_table(COLUMNS, table),
        "",
        f"Wall time of a seed, all backends together: {min(seconds):.0f} to {max(seconds):.0f} s.",
        "",
        *(f"- seed {row['seed']}: {failure}" for row in rows for failure in row["failures"]),
    ]


def main() -> None:
    """Run every seed and write the result; a seed that fails is a row like the others."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--backends", help="with commas; default: all of the device that need no GPU")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    bundle = read_bundle(given.bundle)
    people = proof_clips(read_dataset(given.dataset), limit=given.clips)
    names = (
        given.backends.split(",")
        if given.backends
        else [
            name
            for name in backends_of(bundle)
            if name not in TORCH_BACKENDS and split_backend(name)[0] in CPU_BACKENDS
        ]
    )
    rows = []
    reference = open_reference(bundle, given.run)
    for seed in range(given.seeds):
        begin = time.perf_counter()
        proofs, _ = prove_backends(bundle, reference, people, names, seed=seed)
        seconds = time.perf_counter() - begin
        rows += [row_of(proof, seed, seconds) for proof in proofs]
        print(f"seed {seed}: {[proof.verdict.passed for proof in proofs]}, {seconds:.0f} s", flush=True)
    write_result(
        f"no-false-alarm-{slug(bundle.name)}",
        f"Parity of an honest bundle under {given.seeds} seeds",
        f"Backends: {', '.join(names)}; at most {given.clips} clips of people.",
        lines_of(rows),
        {"rows": rows},
        folder=given.results,
    )


if __name__ == "__main__":
    main()
