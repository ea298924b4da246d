"""The acceptance run on a machine with an NVIDIA GPU: build, prove, measure everything that is installed.

    python benchmarks/gpu.py [RUN] [--work FOLDER] [--only BACKEND ...] [--quick]

RUN is a trained or imported run; default: the last one. Stops at once, with a list, where something is
missing without which nothing can be measured; what else is missing is named in the result. Every backend is
compared with the model in float64 on the CPU, then measured at 1, 16 and 256 clips of 30, 60 and 164 frames.
Writes benchmarks/results/gpu-<gpu>-<month>.json and .md. Exit 3 if a proof fails.

--rehearse does the same without a GPU, on the CPU's backends, and writes into the work folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spoter_export.engines import add_engines
from spoter_export.parity import Proof, prove
from spoter_runtime.bundle import Bundle, read_bundle
from spoter_runtime.contract import GraphContract
from spoter_runtime.engine import LIBRARIES
from spoter_runtime.errors import SpoterError, is_installed
from spoter_runtime.files import write_json, write_text
from spoter_runtime.gpu import find_gpu
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Int32Array, Runner
from spoter_toolkit.backends import BACKENDS, open_backend
from spoter_toolkit.bench.cases import BenchSettings
from spoter_toolkit.bench.controller import run_bench
from spoter_toolkit.bench.environment import environment, slug
from spoter_toolkit.bench.report import problems, tables
from spoter_toolkit.checkpoint import Run, read_run
from spoter_toolkit.exporting import bundle_from_run, proof_clips, training_data
from spoter_toolkit.locate import last_run

RESULTS = Path(__file__).parent / "results"
PRECISIONS = ("fp32", "fp16")
MAX_BATCH = 256
BATCHES, FRAMES = (1, 16, MAX_BATCH), (30, 60, 164)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that the run needs, or can use.

    Attributes:
        needed: whether nothing can be measured without it.
        missing: why it cannot be used, with the fix; empty where it can.
    """

    name: str
    needed: bool
    missing: str


class RememberedReference(Runner):
    """A slow reference that is asked the same for every backend: it answers from memory the second time."""

    def __init__(self, runner: Runner) -> None:
        self.name = runner.name
        self.contract: GraphContract = runner.contract
        self._runner = runner
        self._answers: dict[tuple[tuple[int, ...], bytes, bytes], Float32Array] = {}

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        key = poses_NTD.shape, poses_NTD.tobytes(), lengths_N.tobytes()
        if key not in self._answers:
            self._answers[key] = self._runner.infer(poses_NTD, lengths_N)
        return self._answers[key].copy()


def parts() -> list[Part]:
    """Look for everything that the run needs or can use."""

    def missing(try_it: Callable[[], object]) -> str:
        try:
            try_it()
        except SpoterError as error:
            return str(error)
        return ""

    def module(name: str, extra: str) -> str:
        return "" if is_installed(name) else f"not installed. Fix: pip install 'spoter-kit[{extra}]'"

    return [
        Part(name="NVIDIA GPU, driver, cuda-bindings", needed=True, missing=missing(find_gpu)),
        Part(name="torch", needed=True, missing=module("torch", "export")),
        Part(name="onnx, onnxscript", needed=True, missing=module("onnxscript", "export")),
        Part(
            name="onnxruntime (onnxruntime-gpu for CUDA)", needed=True, missing=module("onnxruntime", "gpu")
        ),
        Part(name="tensorrt", needed=False, missing=module("tensorrt", "trt")),
        Part(name="tensorrt_rtx", needed=False, missing=module("tensorrt_rtx", "rtx")),
    ]


def build(run: Run, folder: Path) -> tuple[Bundle, dict[str, str]]:
    """Export the run for large batches and add engines; return the bundle and what could not be built."""
    bundle_from_run(
        run,
        folder,
        dataset=training_data(run),
        precisions=PRECISIONS,
        max_batch=MAX_BATCH,
        keep_goldens=False,
        force=True,
    )
    refused = {}
    for library in LIBRARIES:
        try:
            for engine in add_engines(folder, library=library, precisions=PRECISIONS, force=True):
                if engine.not_executed:
                    refused[engine.artefact.path] = f"built, not executed: {engine.not_executed}"
        except SpoterError as error:
            refused[library] = str(error)
    return read_bundle(folder), refused


def float64_reference(run: Run, contract: GraphContract) -> Runner:
    """Return the model in double precision on the CPU."""
    import torch

    from spoter_export.torch_runner import TorchRunner

    module = run.load_model().double()
    return RememberedReference(TorchRunner(module, contract, name="torch float64, CPU", dtype=torch.float64))


def prove_all(
    bundle: Bundle, run: Run, names: Sequence[str], reference: Runner
) -> tuple[dict[str, Proof], dict[str, str]]:
    """Compare each backend with the reference; return the proofs, and why the others could not be run."""
    clips = proof_clips(training_data(run))
    proofs: dict[str, Proof] = {}
    not_run: dict[str, str] = {}
    for name in names:
        print(f"proving {name}", file=sys.stderr, flush=True)
        try:
            opened = open_backend(name, bundle, run=run.folder)
            with opened.runner as runner:
                artefact = opened.artefact or bundle.onnx()
                proofs[name] = prove(reference, runner, artefact, clips.clips, source=clips.source)
        except SpoterError as error:
            not_run[name] = str(error)
    return proofs, not_run


def all_names() -> list[str]:
    """Return every backend, and those that run a file of the bundle in each precision."""
    return [*BACKENDS, *(f"{name}:fp16" for name in BACKENDS if not name.startswith("torch"))]


def measure(bundle: Bundle, run: Run, names: Sequence[str], quick: bool) -> Any:
    """Measure the backends that can be run here, in turn."""
    settings = BenchSettings(
        backends=tuple(names),
        batches=BATCHES,
        frames=FRAMES,
        threads=None if not quick else (1,),
        # torch.compile takes a minute for its first shapes
        reply_timeout_s=600.0,
    )
    if quick:
        settings = replace(settings, rounds=2, seconds_per_case=0.2, starts=1)
    return run_bench(bundle.folder, settings, run=run.folder)


def proof_rows(proofs: dict[str, Proof], not_run: dict[str, str]) -> list[str]:
    """Return the table of proofs as Markdown; what was not executed stands in it too."""
    rows = [
        "| backend | file | executed | grid and clips: largest logit difference | padding, batch, order | "
        "labels agree | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, proof in proofs.items():
        moves = [
            fact.max_logit_diff for fact in proof.facts.invariance if fact.runner != proof.facts.reference
        ]
        most = max((move for move in moves if move is not None), default=float("nan"))
        agree = sum(clips.labels_agree for clips in proof.facts.clips)
        rows.append(
            f"| {name} | {proof.artefact} | yes | {proof.facts.max_logit_diff:.1e} | {most:.1e} | "
            f"{agree} of {sum(clips.clips for clips in proof.facts.clips)} | "
            f"{'holds' if proof.verdict.passed else 'FAILS: ' + proof.verdict.failures[0]} |"
        )
    rows += [
        f"| {name} | | **not executed** | | | | {reason.splitlines()[0]} |"
        for name, reason in not_run.items()
    ]
    return rows


def markdown(
    title: str, proofs: list[str], refused: dict[str, str], result: Any, where: dict[str, Any]
) -> str:
    """Return the whole result as a page."""
    lines = [
        f"# {title}",
        "",
        "`python benchmarks/gpu.py`",
        "",
        "## Proof, against float64 on the CPU",
        "",
        *proofs,
    ]
    if refused:
        lines += ["", "## Engines that were not executed or not built", ""]
        lines += [f"- {what}: {why.splitlines()[0]}" for what, why in refused.items()]
    for table in tables(result):
        lines += ["", f"## {table.title}", "", "| " + " | ".join(table.columns) + " |"]
        lines += ["|---" * len(table.columns) + "|"]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.rows]
    lines += ["", *(f"- {name}: {what}: {why}" for name, what, why in problems(result))]
    return "\n".join([*lines, "", "```json", json.dumps(where, indent=2), "```", ""])


def main() -> int:
    """Run everything; 0 done, 1 something needed is missing, 3 a proof failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="default: the last run")
    parser.add_argument("--work", type=Path, default=Path("gpu-acceptance"), help="where the bundle goes")
    parser.add_argument("--only", nargs="+", metavar="BACKEND", help="default: every backend there is")
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU alone")
    arguments = parser.parse_args()
    found = parts()
    for part in found:
        print(f"MISSING  {part.name}: {part.missing}" if part.missing else f"ok       {part.name}")
    lacking = [part.name for part in found if part.missing and part.needed]
    if lacking and not arguments.rehearse:
        print(f"nothing was measured, because this is missing: {'; '.join(lacking)}", file=sys.stderr)
        return 1
    run = read_run(arguments.run or last_run())
    bundle, refused = build(run, arguments.work / "gpu.spoter")
    names = arguments.only or (["torch", "ort-cpu", "ort-cpu:fp16"] if arguments.rehearse else all_names())
    proofs, not_run = prove_all(bundle, run, names, float64_reference(run, bundle.contract))
    result = measure(bundle, run, [name for name in names if name in proofs], arguments.quick)
    gpu = None if arguments.rehearse else find_gpu()
    where = environment() | {"gpu": asdict(gpu) if gpu else None}
    device = gpu.name if gpu else "no GPU"
    name = f"gpu-{slug(device)}-{datetime.now(timezone.utc):%Y-%m}"
    folder = RESULTS if gpu else arguments.work
    write_json(
        folder / f"{name}.json",
        {
            "proofs": {backend: proof.as_json() for backend, proof in proofs.items()},
            "not_executed": not_run,
            "refused": refused,
            "bench": result.as_json(samples=True),
            "environment": where,
        },
    )
    write_text(
        folder / f"{name}.md",
        markdown(f"{run.name} on {device}", proof_rows(proofs, not_run), refused, result, where),
    )
    print(folder / f"{name}.md")
    return 0 if all(proof.verdict.passed for proof in proofs.values()) else 3


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpoterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
