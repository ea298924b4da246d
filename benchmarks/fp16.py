"""Measure what fp16 costs in answers: agreement, flips, and what keeping more in fp32 would change.

    python benchmarks/fp16.py --case BUNDLE DATASET RUN [--case BUNDLE DATASET RUN …]

Every clip of DATASET's test split; RUN is the one that BUNDLE was made from. Needs no GPU: engines are built,
not run. Writes benchmarks/results/fp16-<cpu>-<month>.json and .md.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from result_files import environment_lines, write_result
from torch import Tensor, nn

from spoter_export.parity.compare import run_parity
from spoter_export.precision.fp16 import check_fp16_range, fp16_from_fp32, rounded_from_fp16
from spoter_export.probes import ClipSet, generated_clips
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.errors import require
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import pad_clips
from spoter_toolkit.bench.host.environment import environment
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.evaluation import infer_clips
from spoter_toolkit.model.spoter import BdslSpoter, Spoter
from spoter_toolkit.reference import find_run

CAPABILITY = "SM86"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fp32 model and the clips that it is asked.

    Attributes:
        true_N: columns of the right labels; -1 where the model does not know the word.
        expected_NC: the fp32 graph's logits.
    """

    name: str
    model: onnx.ModelProto
    torch_model: Spoter
    fp32: OrtRunner
    source: str
    clips: list[Float32Array]
    true_N: npt.NDArray[np.int64]
    expected_NC: Float32Array

    def row(self, what: str, logits_NC: Float32Array, **facts: Any) -> dict[str, Any]:
        """Return how logits differ from the fp32 graph's, as plain JSON values."""
        difference = np.abs(logits_NC - self.expected_NC)
        flips = np.flatnonzero(logits_NC.argmax(1) != self.expected_NC.argmax(1))
        return {
            "what": what,
            "max_logit_diff": float(difference.max()),
            "mean_logit_diff": float(difference.mean(dtype=np.float64)),
            "labels_agree": len(self.clips) - len(flips),
            "top1": self.top1(logits_NC),
            "flips": [
                {"clip": int(i), "fp32_margin": margin(self.expected_NC[i]), "margin": margin(logits_NC[i])}
                for i in flips
            ],
            **facts,
        }

    def top1(self, logits_NC: Float32Array) -> float | None:
        """Return the share of right answers; None where the model does not know the words."""
        return float((logits_NC.argmax(1) == self.true_N).mean()) if (self.true_N >= 0).all() else None


def margin(logits_C: Float32Array) -> float:
    """Return by how much the best logit leads."""
    second, first = np.sort(logits_C)[-2:]
    return float(first - second)


def case_from(bundle_folder: Path, data: Path, run: Path) -> Case:
    """Open a bundle, the run it was made from, and a dataset."""
    model = onnx.load(bundle_folder / "model.onnx")
    dataset = read_dataset(data)
    rows = dataset.clips_in("test")
    clips = [np.array(dataset.poses_of(row)) for row in rows]
    fp32 = OrtRunner(model.SerializeToString(), threads=1)
    column = {label.name: i for i, label in enumerate(fp32.contract.labels)}
    return Case(
        name=bundle_folder.stem,
        model=model,
        torch_model=find_run(read_bundle(bundle_folder), run).load_model().eval(),
        fp32=fp32,
        source=f"{dataset.origin.kind}, {dataset.split}",
        clips=clips,
        true_N=np.array([column.get(row.label, -1) for row in rows]),
        expected_NC=infer_clips(fp32, clips),
    )


def kept_in_fp32(model: onnx.ModelProto) -> dict[str, set[str]]:
    """Return what the ablation keeps in fp32: in words → operators and nodes."""
    maker = {name: node for node in model.graph.node for name in node.output}
    normalised = [maker[node.input[0]] for node in model.graph.node if node.op_type == "LayerNormalization"]
    norm, softmax = {"LayerNormalization"}, {"Softmax"}
    residual = {node.name for node in normalised if node.op_type == "Add"}
    return {
        "nothing more": set(),
        "LayerNormalization": norm,
        "Softmax": softmax,
        "residual additions": residual,
        "LayerNormalization and residual additions": norm | residual,
        "all three": norm | softmax | residual,
    }


def ablation(case: Case) -> list[dict[str, Any]]:
    """Return a row for each choice of what stays fp32, every rounding done."""
    rows = [{"what": "fp32", "top1": case.top1(case.expected_NC)} | sizes(case.model, case.model)]
    for words, kept in kept_in_fp32(case.model).items():
        lowered = fp16_from_fp32(case.model, keep_fp32=kept)
        logits_NC = infer_clips(on_ort(rounded_from_fp16(lowered)), case.clips)
        rows.append(case.row(f"fp16; in fp32: {words}", logits_NC, **sizes(lowered, case.model)))
        if not kept:
            halved_NC = logits_NC.astype(np.float16).astype(np.float32)
            rows.append(case.row("the same, logits rounded too", halved_NC))
            careless = on_ort(lowered)
            rows.append(case.row("the same, as ONNX Runtime runs it", infer_clips(careless, case.clips)))
    for dtype in (torch.float16, torch.bfloat16):
        runner = TorchRunner(torch_in(case.torch_model, dtype), case.fp32.contract)
        words = str(dtype).removeprefix("torch.")
        rows.append(case.row(f"torch in {words}, the same split", infer_clips(runner, case.clips)))
    return rows


def on_ort(model: onnx.ModelProto) -> OrtRunner:
    """Return a runner of the graph."""
    return OrtRunner(model.SerializeToString(deterministic=True), threads=1)


def sizes(lowered: onnx.ModelProto, model: onnx.ModelProto) -> dict[str, Any]:
    """Return what a graph weighs, and its engine."""
    before, after = (sum(node.op_type == "Cast" for node in m.graph.node) for m in (model, lowered))
    return {"casts": after - before, "onnx_bytes": lowered.ByteSize(), **rtx_engine(lowered)}


def rtx_engine(model: onnx.ModelProto) -> dict[str, Any]:
    """Build an engine of TensorRT-RTX, strongly typed, for a GPU that need not be here."""
    trt = require("tensorrt_rtx", extra="rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse(model.SerializeToString(deterministic=True)):
        raise SystemExit(f"TensorRT-RTX {trt.__version__} cannot read it: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("poses", (1, 1, 108), (16, 60, 108), (32, 299, 108))
    profile.set_shape("lengths", (1,), (16,), (32,))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, CAPABILITY), 0)
    begin = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit(f"TensorRT-RTX {trt.__version__} cannot build it for {CAPABILITY}")
    return {"engine_bytes": engine.nbytes, "build_seconds": round(time.perf_counter() - begin, 2)}


def torch_in(model: Spoter, dtype: torch.dtype) -> Spoter:
    """Return the PyTorch model split as the graph is: `dtype` between normalisation and last layer."""
    lower = copy.deepcopy(model).to(dtype)
    # The landmark weights and the last layer are outside of the split.
    head = "bdsl_classifier" if isinstance(model, BdslSpoter) else "classifier"
    last = f"{head}.{len([*model.get_submodule(head).children()]) - 1}"
    exact = {"signing_space_weights", f"{last}.weight", f"{last}.bias"}
    for name, parameter in lower.named_parameters():
        if name in exact:
            parameter.data = model.get_parameter(name).data

    def casting_to(target: torch.dtype) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
        return lambda _, inputs: (inputs[0].to(target),)

    lower.input_projection.register_forward_pre_hook(casting_to(dtype))
    lower.get_submodule(last).register_forward_pre_hook(casting_to(torch.float32))
    return lower


def measure(case: Case) -> dict[str, Any]:
    """Return everything about one model as plain JSON values."""
    alone = [pad_clips([clip]) for clip in case.clips]
    generated = [pad_clips([clip]) for clip in generated_clips(case.fp32.contract, 0).clips]
    rounded = on_ort(rounded_from_fp16(fp16_from_fp32(case.model)))
    facts = run_parity(case.fp32, rounded, [ClipSet(source=case.source, clips=case.clips)])
    grid = [point.max_logit_diff for point in facts.grid]
    invariance = facts.invariance[len(facts.invariance) // 2 :]  # the candidate's
    return {
        "case": case.name,
        "clips": len(case.clips),
        "source": case.source,
        "largest_logit": float(np.abs(case.expected_NC).max()),
        "least_margin": min(map(margin, case.expected_NC)),
        "largest_activation": check_fp16_range(case.model, alone).magnitude,
        "largest_activation_generated": check_fp16_range(case.model, generated).magnitude,
        "rows": ablation(case),
        "grid_max_logit_diff": max(d for d in grid if d is not None),
        "grid_labels": [sum(p.labels_agree for p in facts.grid), sum(p.batch for p in facts.grid)],
        "generated_max_logit_diff": facts.clips[0].max_logit_diff,
        "generated_labels": [facts.clips[0].labels_agree, len(facts.clips[0].clips)],
        "clips_max_logit_diff": facts.clips[1].max_logit_diff,
        "max_invariance_diff": max(f.max_logit_diff for f in invariance if f.max_logit_diff is not None),
    }


def case_markdown(case: dict[str, Any]) -> list[str]:
    """Return one case as a section."""
    lines = [
        f"## {case['case']}, {case['clips']} clips ({case['source']})",
        "",
        "| what runs | labels agree | top-1 | largest logit difference | mean | casts | ONNX | engine "
        "| built in |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row_markdown(row, case["clips"]) for row in case["rows"]),
        "",
    ]
    flips = [(row["what"], flip) for row in case["rows"] for flip in row.get("flips", ())]
    lines += [
        f"- flip in `{what}`: clip {f['clip']}, margin {f['fp32_margin']:.4f} in fp32, {f['margin']:.4f} then"
        for what, f in flips
    ] or ["- no flip in any row"]
    return [
        *lines,
        f"- largest logit {case['largest_logit']:.1f}; least margin between the best two "
        f"{case['least_margin']:.4f}",
        f"- largest activation in the fp16 part {case['largest_activation']:.0f}, on generated clips "
        f"{case['largest_activation_generated']:.0f}; fp16 holds 65504",
        f"- parity of the first fp16 row: grid {case['grid_max_logit_diff']:.1e} "
        f"({case['grid_labels'][0]} of {case['grid_labels'][1]} labels), generated clips "
        f"{case['generated_max_logit_diff']:.1e} ({case['generated_labels'][0]} of "
        f"{case['generated_labels'][1]}), these clips {case['clips_max_logit_diff']:.1e}; padding, batch and "
        f"order move it by {case['max_invariance_diff']:.1e}",
        "",
    ]


def row_markdown(row: dict[str, Any], clips: int) -> str:
    """Return one row of a case's table."""
    cells = [row["what"]]
    cells.append(f"{row['labels_agree']} of {clips}" if "labels_agree" in row else "")
    cells.append(f"{row['top1']:.4f}" if row["top1"] is not None else "other words")
    cells += [f"{row[key]:.1e}" if key in row else "" for key in ("max_logit_diff", "mean_logit_diff")]
    cells.append(str(row.get("casts", "")))
    cells += [f"{row[key] / 1e6:.2f} MB" if key in row else "" for key in ("onnx_bytes", "engine_bytes")]
    cells.append(f"{row['build_seconds']:.1f} s" if "build_seconds" in row else "")
    return f"| {' | '.join(cells)} |"


def markdown(cases: list[dict[str, Any]], where: dict[str, Any]) -> str:
    """Return the result as a page."""
    return "\n".join(
        (
            "# fp16: what it costs in answers",
            "",
            "`python benchmarks/fp16.py --case BUNDLE DATASET RUN …`, against the fp32 graph.",
            "",
            "No GPU took part: the fp16 graph ran on ONNX Runtime's CPU provider with every tensor of the "
            "fp16 part rounded (`rounded_from_fp16`) and sums in fp32; engines of TensorRT-RTX were built "
            f"for {CAPABILITY}, not run. A GPU fuses nodes and rounds less often, but may sum in another "
            "order. Casts: those that the lowering added.",
            "",
            *(line for case in cases for line in case_markdown(case)),
            *environment_lines(where),
        )
    )


def main() -> None:
    """Measure every case and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", nargs=3, type=Path, action="append", required=True, dest="cases")
    results = []
    for bundle, data, run in parser.parse_args().cases:
        results.append(measure(case_from(bundle, data, run)))
        print("\n".join(case_markdown(results[-1])), flush=True)
    where = environment()
    where["packages"]["tensorrt-rtx"] = require("tensorrt_rtx", extra="rtx").__version__
    write_result("fp16", {"cases": results}, markdown(results, where), where)


if __name__ == "__main__":
    main()
