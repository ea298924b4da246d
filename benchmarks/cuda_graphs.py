"""What recording CUDA graphs is worth to ONNX Runtime on a GPU, and what torch's own graphs take.

    python benchmarks/cuda_graphs.py BUNDLE --run RUN [--rounds 30]

One process, all in turn: `OrtRunner` on CUDA with its graphs and launching each kernel by itself, in each
precision that the bundle has, and the RUN's module in torch, eager and as graphs. Needs a GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from result_files import environment_lines, write_result

from spoter_runtime.bundle.manifest import Bundle, read_bundle
from spoter_runtime.errors import SpoterError
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.ort.cuda_graphs import BUCKET
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import Runner
from spoter_toolkit.backends import open_backend
from spoter_toolkit.bench.host.environment import environment
from spoter_toolkit.bench.scenarios.interleave import in_turn
from spoter_toolkit.bench.statistics import paired_ratio
from spoter_toolkit.bench.worker.tasks import generated_clips
from spoter_toolkit.evaluation import infer_clips

CASES: Final = ((1, 10), (1, 60), (1, 164), (8, 60), (32, 60))
ROUND_NS: Final = 20_000_000
NEW_SHAPES: Final = (29, 45, 77, 109, 141)  # frames; each pads to a length that no case has


def engines_of(bundle: Bundle, run: Path) -> dict[str, Runner]:
    """Return name → runner; those of torch come last."""
    engines: dict[str, Runner] = {}
    for precision, artefact in bundle.by_precision("onnx").items():
        if precision == "int8":
            continue  # for CPUs
        file = bundle.folder / artefact.path
        engines[f"{precision}, one by one"] = OrtRunner(file, provider="cuda", graphs=0)
        engines[f"{precision}, as graphs"] = OrtRunner(file, provider="cuda")
    for name in ("torch-cuda", "torch-cuda-graph"):
        engines[name] = open_backend(name, bundle, run=run).runner
    return engines


def measure(bundle: Bundle, engines: dict[str, Runner], rounds: int) -> dict[str, Any]:
    """Return answers, times and what a new shape costs, as plain JSON values."""
    goldens = bundle.goldens()
    rows: dict[str, dict[str, Any]] = {}
    for name, engine in engines.items():
        got_NC = infer_clips(engine, goldens.clips())
        rows[name] = {
            "labels_agree": int((got_NC.argmax(1) == goldens.logits_NC.argmax(1)).sum()),
            "max_logit_diff": float(np.abs(got_NC - goldens.logits_NC).max()),
            "times": {},
            "new_shape_ms": [_first_ms(engine, frames) for frames in NEW_SHAPES],
        }
    for batch, frames in CASES:
        samples = in_turn(engines, generated_clips(batch, frames), rounds, min_calls=5, min_ns=ROUND_NS)
        for name, row in rows.items():
            ratio = paired_ratio(samples["fp32, one by one"], samples[name], seed=0)
            assert ratio is not None  # there are rounds
            row["times"][f"{batch} × {frames}"] = {
                "p50_ms": float(np.median([sample for part in samples[name] for sample in part]) / 1e6),
                "one_by_one_divided_by_it": [ratio.estimate, ratio.low, ratio.high],
                "rounds_ns": samples[name],
            }
    return {"bundle": bundle.name, "goldens": len(goldens.lengths_N), "rounds": rounds, "rows": rows}


def _first_ms(engine: Runner, frames: int) -> float:
    poses_1TD = generated_clips(1, frames)
    begin_ns = time.perf_counter_ns()
    engine.infer(poses_1TD)
    return (time.perf_counter_ns() - begin_ns) / 1e6


def page(found: dict[str, Any], where: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    names = [f"{batch} × {frames}" for batch, frames in CASES]
    lines = [
        f"# CUDA graphs through ONNX Runtime: {found['bundle']} on {found['gpu']}",
        "",
        f"`python benchmarks/cuda_graphs.py BUNDLE --run RUN`; one process, {found['rounds']} rounds in "
        "turn. In each case: median of a call, and how many times as fast as fp32, its kernels one by one "
        f"(95 % interval). As graphs, frames are padded up to a multiple of {BUCKET}. A new shape: the first "
        f"call of one, median of {len(NEW_SHAPES)}.",
        "",
        f"| | labels of {found['goldens']} goldens | largest logit difference "
        f"| {' | '.join(names)} | a new shape |",
        "|---|---:|---:|" + "---:|" * (len(names) + 1),
    ]
    for name, row in found["rows"].items():
        cells = [name, str(row["labels_agree"]), f"{row['max_logit_diff']:.1e}"]
        for case in names:
            estimate, low, high = row["times"][case]["one_by_one_divided_by_it"]
            interval = f" ({low:.2f}–{high:.2f})" if low is not None else ""
            cells.append(f"{row['times'][case]['p50_ms']:.2f} ms, {estimate:.2f}{interval}")
        cells.append(f"{np.median(row['new_shape_ms']):.1f} ms")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *environment_lines(where)])


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, help="folder of the result; default: benchmarks/results")
    given = parser.parse_args()
    try:
        gpu = find_gpu()
    except SpoterError as error:
        sys.exit(f"not run: {error}")
    bundle = read_bundle(given.bundle)
    found = {"gpu": gpu.name} | measure(bundle, engines_of(bundle, given.run), given.rounds)
    where = environment()
    places = {"folder": given.out} if given.out else {}
    write_result("cuda-graphs", found, page(found, where), where, processor=gpu.name, **places)


if __name__ == "__main__":
    main()
