"""Prove an honest bundle again and again with other generated clips, and count how often parity fails.

    python benchmarks/no_false_alarm.py BUNDLE RUN DATASET [--seeds 20] [--clips 256] [--backends ort-cpu]

Every seed runs the whole shape grid, the generated clips, people's clips, the same under eight changes, the
goldens, and what must not matter. Writes benchmarks/results/no-false-alarm-<bundle>-<cpu>-<month>, .json and
.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from result_files import write_result

from spoter_export.parity.proof import Proof
from spoter_runtime.bundle.manifest import read_bundle
from spoter_toolkit.backends import CPU_BACKENDS, TORCH_BACKENDS, backends_of, split_backend
from spoter_toolkit.bench.host.environment import environment, slug
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.export import proof_clips
from spoter_toolkit.parity.prove import prove_backends
from spoter_toolkit.reference import open_reference


def row_of(proof: Proof, seed: int, seconds: float) -> dict[str, Any]:
    """Return what one seed has found of one backend."""
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


def page(rows: list[dict[str, Any]], command: str, where: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        f"# Parity of an honest bundle under {len({row['seed'] for row in rows})} seeds",
        "",
        f"`{command}` on {where['cpu']}, {where['usable_cores']} cores.",
        "",
        "| backend | precision | passed | largest logit difference | "
        "moved by padding, batch composition, order | clips a seed | labels that turned, all seeds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for backend, precision in dict.fromkeys((row["backend"], row["precision"]) for row in rows):
        own = [row for row in rows if (row["backend"], row["precision"]) == (backend, precision)]
        lines.append(
            f"| {backend} | {precision} | {sum(row['passed'] for row in own)} of {len(own)} "
            f"| {max(row['max_logit_diff'] for row in own):.1e} "
            f"| {max(row['max_invariance_diff'] for row in own):.1e} | {own[0]['clips']} "
            f"| {sum(row['flips'] for row in own)} |"
        )
    seconds = {row["seed"]: row["seconds_of_all_backends"] for row in rows}.values()
    lines += [
        "",
        f"Wall time of a seed, all of them together: {min(seconds):.0f} to {max(seconds):.0f} s.",
        "",
    ]
    lines += [f"- seed {row['seed']}: {failure}" for row in rows for failure in row["failures"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every seed and write the result; a seed that fails is a row like the others."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--backends")
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.bundle)
    people = proof_clips(read_dataset(arguments.dataset), limit=arguments.clips)
    names = arguments.backends.split(",") if arguments.backends else _on_this_cpu(backends_of(bundle))
    reference = open_reference(bundle, arguments.run)
    rows = []
    for seed in range(arguments.seeds):
        begin = time.perf_counter()
        proofs, _ = prove_backends(bundle, reference, people, names, seed=seed)
        seconds = time.perf_counter() - begin
        rows += [row_of(proof, seed, seconds) for proof in proofs]
        print(f"seed {seed}: {[proof.verdict.passed for proof in proofs]}, {seconds:.0f} s", flush=True)
    where = environment()
    command = (
        f"python benchmarks/no_false_alarm.py BUNDLE RUN DATASET --seeds {arguments.seeds} "
        f"--clips {arguments.clips} --backends {','.join(names)}"
    )
    case = f"no-false-alarm-{slug(bundle.name)}"
    write_result(case, {"rows": rows}, page(rows, command, where), where)


def _on_this_cpu(names: list[str]) -> list[str]:
    """Return the backends of the device that need no GPU."""
    return [n for n in names if n not in TORCH_BACKENDS and split_backend(n)[0] in CPU_BACKENDS]


if __name__ == "__main__":
    main()
