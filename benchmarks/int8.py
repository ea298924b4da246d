"""Measure what int8 gains and what it costs in answers, for a handful of ways to do it.

    python benchmarks/int8.py --case BUNDLE DATASET RUN [--case BUNDLE DATASET RUN …]

Every clip of DATASET's test split; RUN is the one that BUNDLE was made from. Times are of one clip of 60
frames on one thread, rounds in turn. Writes benchmarks/results/int8-<cpu>-<month>.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from fp16 import Case, case_from, on_ort
from onnx import NodeProto, TensorProto, helper, numpy_helper
from result_files import environment_lines, write_result

from spoter_export.parity.compare import invariance_of, run_parity
from spoter_export.parity.judge import unexplained_flips
from spoter_export.passes.pipeline import SIMPLER, lowered
from spoter_export.precision.int8 import bounded_products, int8_from_fp32
from spoter_export.probes import ClipSet, generated_clips, spread_by_length
from spoter_export.to_onnx import onnx_from_module
from spoter_runtime.contract import LENGTHS, POSES
from spoter_runtime.ort.runner import OrtRunner, import_onnxruntime
from spoter_runtime.runner import pad_clips
from spoter_toolkit.bench.host.environment import environment
from spoter_toolkit.bench.scenarios.interleave import in_turn
from spoter_toolkit.bench.statistics import paired_ratio
from spoter_toolkit.evaluation import infer_clips

ROUNDS, CALLS = 60, 5
PROBES = 16


def all_products(model: onnx.ModelProto) -> list[str]:
    """Return the names of all MatMuls with a weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]


def quantised(model: onnx.ModelProto, products: Sequence[str], **options: Any) -> onnx.ModelProto:
    """Return what ONNX Runtime's quantiser makes of the products."""
    import_onnxruntime()  # with its telemetry off
    from onnxruntime.quantization import quantize_dynamic

    source = onnx.ModelProto()
    source.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantize_dynamic(source, target, nodes_to_quantize=[*products], **options)
        return onnx.load(target)


def with_scale_a_row(model: onnx.ModelProto, products: Sequence[str]) -> onnx.ModelProto:
    """Return the graph with a scale for each row of what a product reads, in standard operators."""
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    graph = lowered.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants = {
        "row_axis": np.array([-1], np.int64),
        "row_step": np.float32(1 / 127),
        "row_least": np.float32(1e-12),
        "row_one": np.float32(1),
        "row_middle": np.uint8(128),
    }
    nodes: list[NodeProto] = []
    rounded: set[str] = set()
    for node in graph.node:
        if node.name not in products:
            nodes.append(node)
            continue
        x, y, weight = node.input[0], node.output[0], node.input[1]
        if x not in rounded:
            rounded.add(x)
            nodes += [
                helper.make_node("Abs", [x], [f"{x}_abs"]),
                helper.make_node("ReduceMax", [f"{x}_abs", "row_axis"], [f"{x}_max"], keepdims=1),
                helper.make_node("Max", [f"{x}_max", "row_least"], [f"{x}_top"]),
                helper.make_node("Mul", [f"{x}_top", "row_step"], [f"{x}_scale"]),
                helper.make_node("Div", [x, f"{x}_scale"], [f"{x}_steps"]),
                helper.make_node("QuantizeLinear", [f"{x}_steps", "row_one", "row_middle"], [f"{x}_q"]),
            ]
        scale = np.abs(arrays[weight]).max(0).astype(np.float32) / 64
        constants |= {f"{weight}_q": np.rint(arrays[weight] / scale).astype(np.int8), f"{weight}_s": scale}
        nodes += [
            helper.make_node("MatMulInteger", [f"{x}_q", f"{weight}_q", "row_middle"], [f"{y}_sum"]),
            helper.make_node("Cast", [f"{y}_sum"], [f"{y}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{y}_float", f"{weight}_s"], [f"{y}_row"]),
            helper.make_node("Mul", [f"{y}_row", f"{x}_scale"], [y]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return lowered


def variants(model: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """Return what is measured: in words → graph."""
    import_onnxruntime()  # with its telemetry off
    from onnxruntime.quantization import QuantType

    every = all_products(model)
    products = bounded_products(model.graph)
    ours = [node.name for node in products]
    square = {tensor.name for tensor in model.graph.initializer if len(set(tensor.dims)) == 1}
    feed_forward = [node.name for node in products if node.input[1] not in square]
    exact: dict[str, Any] = {"per_channel": True, "reduce_range": True}
    return {
        "fp32": model,
        "every product, weights up to 127": quantised(model, every, per_channel=True),
        "every product, weights up to 64": quantised(model, every, **exact),
        "all but the input projection": quantised(model, every[1:], **exact),
        "**behind a LayerNormalization: what export writes**": int8_from_fp32(model),
        "the same, feed-forward blocks only": quantised(model, feed_forward, **exact),
        "the same, one scale a weight matrix": quantised(model, ours, reduce_range=True),
        "the same, unsigned weights of 8 bits": quantised(
            model, ours, per_channel=True, weight_type=QuantType.QUInt8
        ),
        "the same, a scale a row": with_scale_a_row(model, ours),
    }


def wrong_sums(model: onnx.ModelProto, case: Case) -> list[int]:
    """Return how many of the products' sums are not exact on this CPU, and of how many."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    names = list(
        dict.fromkeys(
            name
            for node in products
            for name in (node.input[0], node.input[2], node.output[0])
            if name not in arrays
        )
    )
    known = {value.name for value in model.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    ort = import_onnxruntime()
    session = ort.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    wrong = total = 0
    for i in spread_by_length(case.clips, PROBES):
        poses, lengths = pad_clips([case.clips[i]])
        values = arrays | dict(zip(names, session.run(names, {POSES: poses, LENGTHS: lengths}), strict=True))
        for node in products:
            left, right, *zeros = (values[name].astype(float) for name in node.input)  # exact below 2**53
            expected = (left - zeros[0]) @ (right - (zeros[1] if len(zeros) > 1 else 0))
            wrong += int((values[node.output[0]] != expected).sum())
            total += expected.size
    return [wrong, total]


def moved(runner: OrtRunner, case: Case) -> dict[str, float]:
    """Return how far padding and company move the logits of people's clips, and of ones that are none's."""
    sets = {
        "people": [case.clips[i] for i in spread_by_length(case.clips, PROBES)],
        "generated": list(generated_clips(runner.contract, 0).clips),
    }
    found = {}
    for who, clips in sets.items():
        facts = {f.change: f.max_logit_diff or 0.0 for f in invariance_of(runner, clips, seed=0)}
        found[f"padding_{who}"] = max(v for change, v in facts.items() if change.startswith("padding"))
        found[f"company_{who}"] = max(facts["batch composition"], facts["batch order"])
    return found


def ablation(case: Case) -> list[dict[str, Any]]:
    """Return a row for each variant."""
    graphs = variants(case.model)
    runners = {what: on_ort(graph) for what, graph in graphs.items()}
    clip = np.random.default_rng(0).random((1, 60, 108), np.float32)
    samples = in_turn(runners, clip, ROUNDS, min_calls=CALLS)
    rows = []
    for what, runner in runners.items():
        facts = moved(runner, case) | {"onnx_bytes": graphs[what].ByteSize()}
        products = sum(node.op_type == "MatMulInteger" for node in graphs[what].graph.node)
        facts |= {"products": products, "samples_ns": samples[what]}
        if products:
            facts["wrong_sums"] = wrong_sums(graphs[what], case)
        ratio = paired_ratio(samples[what], samples["fp32"], seed=0)
        assert ratio is not None  # there are rounds
        facts |= {"ratio": [ratio.estimate, ratio.low, ratio.high]}
        rows.append(case.row(what, infer_clips(runner, case.clips), **facts))
        print(row_markdown(rows[-1], len(case.clips)), flush=True)
    return rows


def simpler(case: Case) -> Case:
    """Return a case with the graph that int8 is made of: products as MatMul, where a bundle has Gemm."""
    exported = onnx_from_module(case.torch_model, case.fp32.contract)
    return replace(case, model=lowered(exported, SIMPLER))


def measure(case: Case) -> dict[str, Any]:
    """Return everything about one model as plain JSON values."""
    runner = on_ort(int8_from_fp32(case.model))
    facts = run_parity(case.fp32, runner, [ClipSet(source=case.source, clips=case.clips)])
    invariance = facts.invariance[len(facts.invariance) // 2 :]  # the candidate's
    return {
        "case": case.name,
        "clips": len(case.clips),
        "source": case.source,
        "largest_logit": float(np.abs(case.expected_NC).max()),
        "median_margin": float(np.median(np.diff(np.sort(case.expected_NC)[:, -2:]))),
        "rows": ablation(case),
        "grid_max_logit_diff": max(p.max_logit_diff or 0.0 for p in facts.grid),
        "grid_labels": [sum(p.labels_agree for p in facts.grid), sum(p.batch for p in facts.grid)],
        "generated_max_logit_diff": facts.clips[0].max_logit_diff,
        "generated_labels": [facts.clips[0].labels_agree, len(facts.clips[0].clips)],
        "clips_max_logit_diff": facts.clips[1].max_logit_diff,
        "unexplained_flips": len(unexplained_flips(facts.clips[1], "int8")),
        "max_invariance_diff": max(f.max_logit_diff or 0.0 for f in invariance),
    }


def case_markdown(case: dict[str, Any]) -> list[str]:
    """Return one case as a section."""
    written = next(row for row in case["rows"] if row["what"].startswith("**"))
    flips = written["flips"]
    return [
        f"## {case['case']}, {case['clips']} clips ({case['source']})",
        "",
        "| what is in 8 bits | products | sums cut off | time, of fp32 | labels agree | top-1 "
        "| largest logit difference | mean | padding moves people / generated | company moves people / "
        "generated | ONNX |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(row_markdown(row, case["clips"]) for row in case["rows"]),
        "",
        *(
            f"- flip in what export writes: clip {f['clip']}, margin {f['fp32_margin']:.4f} in fp32, "
            f"{f['margin']:.4f} then"
            for f in flips
        ),
        f"- largest logit {case['largest_logit']:.1f}; median margin between the best two "
        f"{case['median_margin']:.2f}; unexplained flips {case['unexplained_flips']}",
        f"- parity of what export writes: grid {case['grid_max_logit_diff']:.1e} "
        f"({case['grid_labels'][0]} of {case['grid_labels'][1]} labels), generated clips "
        f"{case['generated_max_logit_diff']:.1e} ({case['generated_labels'][0]} of "
        f"{case['generated_labels'][1]}), these clips {case['clips_max_logit_diff']:.1e}; padding, batch and "
        f"order move it by {case['max_invariance_diff']:.1e}",
        "",
    ]


def row_markdown(row: dict[str, Any], clips: int) -> str:
    """Return one row of a case's table."""
    estimate, low, high = row["ratio"]
    cells = [row["what"], str(row["products"] or "")]
    cells.append("{:,} of {:,}".format(*row["wrong_sums"]) if "wrong_sums" in row else "")
    cells.append(f"{estimate:.2f} ({low:.2f}–{high:.2f})")
    cells.append(f"{row['labels_agree']} of {clips}")
    cells.append(f"{row['top1']:.4f}" if row["top1"] is not None else "other words")
    cells += [f"{row[key]:.1e}" for key in ("max_logit_diff", "mean_logit_diff")]
    cells += [f"{row[f'{by}_people']:.1e} / {row[f'{by}_generated']:.1e}" for by in ("padding", "company")]
    cells.append(f"{row['onnx_bytes'] / 1e6:.2f} MB")
    return f"| {' | '.join(cells)} |"


def markdown(cases: list[dict[str, Any]], where: dict[str, Any]) -> str:
    """Return the result as a page."""
    return "\n".join(
        (
            "# int8: what it gains, and what it costs in answers",
            "",
            "`python benchmarks/int8.py --case BUNDLE DATASET RUN …`, against the fp32 graph. Sums cut off: "
            f"those that differ from the exact whole number, on {PROBES} clips. Time: one clip of 60 frames, "
            f"one thread, {ROUNDS} rounds of {CALLS} in turn, ONNX Runtime's default session, on the machine "
            "below while others used it too. The gain depends on the CPU: with VNNI it is larger.",
            "",
            *(line for case in cases for line in case_markdown(case)),
            *environment_lines(where),
        )
    )


def main() -> None:
    """Measure every case and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", nargs=3, type=Path, action="append", required=True, dest="cases")
    results = [measure(simpler(case_from(*paths))) for paths in parser.parse_args().cases]
    where = environment()
    write_result("int8", {"cases": results}, markdown(results, where), where)


if __name__ == "__main__":
    main()
