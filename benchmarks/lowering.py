"""Measure how much time each pass of the lowering saves, on the graph before it.

    python benchmarks/lowering.py RUN [RUN …] [--data DATASET] [--rounds 40]

The stock export of the RUN's model, then one pass more in each row, for any runtime and for ONNX Runtime,
then int8 made of both; one thread, ONNX Runtime's default session, rounds in turn. The last row of a
table is the model's own matrix products alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from result_files import RESULTS, write_result

from spoter_export.passes.pipeline import (
    FOR_ORT,
    PORTABLE,
    SIMPLER,
    SIMPLER_FOR_ORT,
    Pass,
    lowered,
)
from spoter_export.precision.int8 import int8_from_fp32
from spoter_export.probes import probe_batches
from spoter_export.to_onnx import onnx_from_module
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.contract import LENGTHS, POSES, GraphContract
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort.installed import import_onnxruntime
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.statistics import Ratio
from spoter_toolkit.bench.scenarios.interleave import time_interleaved
from spoter_toolkit.bench.statistics import paired_ratio
from spoter_toolkit.bench.worker.roofline import Roofline
from spoter_toolkit.bench.worker.tasks import generated_clips
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.evaluation import infer_clips
from spoter_toolkit.report.table import markdown_table
from spoter_toolkit.runs.run import read_run

CASES = {f"{batch} × {frames}": (batch, frames) for batch, frames in ((1, 60), (1, 164), (16, 60))}
ROUND_NS = 25_000_000

# The forms of the graph that are named elsewhere.
STOCK = "stock export"
LAST_PORTABLE = f"any runtime: + {PORTABLE[-1].__name__}"
LAST_FOR_ORT = f"ONNX Runtime: + {FOR_ORT[-1].__name__}"
INT8, INT8_FOR_ORT = "any runtime: int8", "ONNX Runtime: int8"
ROOFLINE = "matrix products alone"

PROFILED = (STOCK, LAST_PORTABLE, LAST_FOR_ORT, INT8_FOR_ORT)
PROFILED_CASE, PROFILED_CALLS = "1 × 60", 300
OPERATORS = {
    "matrix products, with additions and activations fused into them": {
        "MatMul",
        "Gemm",
        "FusedMatMul",
        "FusedGemm",
    },
    "products in 8 bits, with the rounding of their inputs": {
        *("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat"),
    },
    "attention in one operator, its products among it": {"Attention"},
    "softmax": {"Softmax"},
    "layer normalisation, with the addition before it": {"LayerNormalization", "SkipLayerNormalization"},
    "moving and reshaping": {
        *("Transpose", "Reshape", "Split", "Concat", "Slice", "Gather", "Squeeze", "Unsqueeze", "Expand"),
        *("Shape", "Pad", "Cast"),
    },
}
REST = "the rest: activations, sums, the normalisation of landmarks"


def forms_of(exported: onnx.ModelProto, contract: GraphContract) -> dict[str, onnx.ModelProto]:
    """Return the graphs that are measured: their names on the page → graph."""
    batches = probe_batches(contract)

    def after(passes: Sequence[Pass]) -> onnx.ModelProto:
        return lowered(exported, passes, batches=batches)

    forms = {STOCK: exported}
    for kind, passes in (("any runtime", PORTABLE), ("ONNX Runtime", FOR_ORT)):
        for count, last in enumerate(passes, 1):
            if passes[:count] != PORTABLE[:count] or kind == "any runtime":  # shared passes are measured once
                forms[f"{kind}: + {last.__name__}"] = after(passes[:count])
    forms[INT8] = int8_from_fp32(after(SIMPLER))
    forms[INT8_FOR_ORT] = int8_from_fp32(after(SIMPLER_FOR_ORT))
    return forms


def measure(run: Path, clips: list[Float32Array], rounds: int) -> dict[str, Any]:
    """Return everything about one model as plain JSON values."""
    module, contract = read_run(run).load_model(), read_run(run).contract(32)
    forms = forms_of(onnx_from_module(module, contract), contract)
    runners = {name: OrtRunner(form.SerializeToString(), threads=1) for name, form in forms.items()}
    expected_NC = infer_clips(TorchRunner(module, contract), clips)
    rows: list[dict[str, Any]] = []
    for name, form in forms.items():
        got_NC = infer_clips(runners[name], clips)
        rows.append(
            {
                "form": name,
                "nodes": len(form.graph.node),
                "bytes": form.ByteSize(),
                "labels_agree": int((got_NC.argmax(1) == expected_NC.argmax(1)).sum()),
                "max_logit_diff": float(np.abs(got_NC - expected_NC).max()),
                "times": {},
            }
        )
    rows.append({"form": ROOFLINE, "times": {}})
    engines = runners | {ROOFLINE: Roofline(forms[LAST_PORTABLE].SerializeToString(), 1)}
    for case, (batch, frames) in CASES.items():
        samples = time_interleaved(
            engines, generated_clips(batch, frames), rounds, min_calls=3, min_ns=ROUND_NS
        )
        for row in rows:
            own = samples[row["form"]]
            ratio = paired_ratio(samples[STOCK], own, seed=0)
            assert ratio is not None  # there are rounds
            row["times"][case] = {
                "p50_ms": float(np.median(np.concatenate(own)) / 1e6),
                "stock_divided_by_it": asdict(ratio),
                "rounds_ns": own,
            }
        print(f"{run.name}: {case} measured", flush=True)
    profiles = {name: profile(forms[name]) for name in PROFILED}
    return {"run": run.name, "clips": len(clips), "rounds": rounds, "rows": rows, "profiles": profiles}


def profile(form: onnx.ModelProto) -> dict[str, float]:
    """Return kind of operator → microseconds of a call, by ONNX Runtime's own profiler."""
    with tempfile.TemporaryDirectory() as folder:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(form.SerializeToString(), options, providers=["CPUExecutionProvider"])
        poses_NTD = generated_clips(*CASES[PROFILED_CASE])
        given = {POSES: poses_NTD, LENGTHS: np.full(len(poses_NTD), poses_NTD.shape[1], np.int32)}
        for _ in range(PROFILED_CALLS):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event["name"].endswith("_kernel_time")]
    calls: dict[str, list[float]] = {}
    for event in nodes:
        calls.setdefault(event["name"], []).append(event["dur"])
    kind_of = {event["name"]: event["args"]["op_name"] for event in nodes}
    found = dict.fromkeys([*OPERATORS, REST], 0.0)
    for name, durations in calls.items():
        what = next((what for what, kinds in OPERATORS.items() if kind_of[name] in kinds), REST)
        found[what] += float(np.median(durations))
    return found


def section(case: dict[str, Any]) -> list[str]:
    """Return one model's two tables: the forms of its graph, and ONNX Runtime's profile of some."""
    rows = []
    for row in case["rows"]:
        facts = ("", "", "")
        if "nodes" in row:
            agree = f"{row['labels_agree']} of {case['clips']}"
            facts = (str(row["nodes"]), agree, f"{row['max_logit_diff']:.1e}")
        times = (f"{Ratio(**t['stock_divided_by_it'])}, {t['p50_ms']:.2f} ms" for t in row["times"].values())
        rows.append((row["form"], *facts, *times))
    profiles = case["profiles"]
    profiled = [(what, *(f"{found[what]:.0f}" for found in profiles.values())) for what in [*OPERATORS, REST]]
    return [
        f"## {case['run']}",
        "",
        markdown_table(("form", "nodes", "labels agree", "largest logit difference", *CASES), rows),
        "",
        f"Time of ONNX Runtime's operators for {PROFILED_CASE}, µs a call by its profiler, which takes time "
        "itself:",
        "",
        markdown_table(("", *profiles), profiled),
        "",
    ]


def main() -> None:
    """Measure every run and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, help="DATASET whose test clips' labels are compared with torch")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    clips: list[Float32Array] = [np.random.default_rng(0).random((60, 54, 2), np.float32)]
    if given.data:
        dataset = read_dataset(given.data)
        clips = [np.array(dataset.poses_of(row)) for row in dataset.clips_in("test")]
    cases = [measure(run, clips, given.rounds) for run in given.runs]
    write_result(
        "lowering",
        "How much time each pass of the lowering saves",
        "One thread, default session, rounds in turn. In each case: how many times as fast as the stock "
        "export (95 % interval); median of a call.",
        [line for case in cases for line in section(case)],
        {"cases": cases},
        folder=given.results,
    )


if __name__ == "__main__":
    main()
