"""The acceptance run on a machine with an NVIDIA GPU: build, prove, measure everything that is installed.

    python benchmarks/gpu.py [RUN] [--work FOLDER] [--only BACKEND ...] [--quick]

RUN is a trained or imported run; default: the last one. Stops at once, with a list, where something is
missing without which nothing can be measured; what else is missing is named in the result. Every backend is
compared with the model in float64 on the CPU, each in a process of its own, then measured at 1, 16 and 256
clips of 30, 60 and 164 frames. Each step is written to the work folder when done, and is not done again:
a run that was stopped goes on. Writes benchmarks/results/gpu-<gpu>-<month>.json and .md. Exit 3 if a proof
fails.

--rehearse does the same without a GPU, on the CPU's backends, and writes into the work folder. ONNX Runtime's
plug-in for TensorRT-RTX and onnxruntime-gpu do not go into one environment: run twice, with --only, from two.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spoter_runtime.errors import SpoterError, is_installed
from spoter_runtime.files import write_json, write_text
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.ort.runner import import_onnxruntime
from spoter_runtime.runner import Runner

if TYPE_CHECKING:
    from spoter_runtime.landmarks import Float32Array
    from spoter_runtime.ort.runner import Provider
    from spoter_runtime.runner import Int32Array
    from spoter_toolkit.bench.settings import BenchSettings
    from spoter_toolkit.runs.run import Run

RESULTS = Path(__file__).parent / "results"
PRECISIONS = ("fp32", "fp16")
MAX_BATCH = 256
BATCHES, FRAMES = (1, 16, MAX_BATCH), (30, 60, 164)
PROOF_TIMEOUT_S = 1800


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
        Part(name="onnxruntime, one build of it", needed=True, missing=missing(import_onnxruntime)),
        Part(name="accelerate, safetensors, …", needed=True, missing=module("safetensors", "toolkit")),
        Part(name="torch with CUDA", needed=False, missing=torch_without_cuda()),
        Part(name="onnxruntime-gpu", needed=False, missing=missing(lambda: check_installed("cuda"))),
        Part(
            name="ONNX Runtime's TensorRT-RTX plug-in",
            needed=False,
            missing=missing(lambda: check_installed("tensorrt-rtx")),
        ),
        Part(name="tensorrt", needed=False, missing=module("tensorrt", "trt")),
        Part(name="tensorrt_rtx", needed=False, missing=module("tensorrt_rtx", "rtx")),
    ]


def torch_without_cuda() -> str:
    """Say why torch cannot use a GPU, as far as it can be said without one; empty where it can."""
    if not is_installed("torch"):
        return "not installed. Fix: pip install 'spoter-kit[export]'"
    import torch

    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA. Fix: https://pytorch.org/get-started/locally"
        )
    return ""


def check_installed(provider: Provider) -> None:
    """Look whether ONNX Runtime has a provider.

    Raises:
        BackendError, MissingExtraError: it has not; the message says how to get it.
    """
    from spoter_runtime.ort import gpu_session as ort_gpu

    ort_gpu.check_installed(import_onnxruntime(provider), provider)  # type: ignore[arg-type]  # never "cpu"


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a step's result: read it where it was done before, else do it; what failed is tried again."""
    if path.is_file():
        kept_before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept_before
    value = make()
    if value.get("executed", True) and not value.get("error"):
        write_json(path, value)
    return value


def build(run: Run, folder: Path) -> dict[str, Any]:
    """Export the run for large batches and add engines; return what could not be built, and why."""
    from spoter_export.bundle.engines import add_engines
    from spoter_runtime.bundle.libraries import LIBRARIES
    from spoter_toolkit.export import bundle_from_run, training_data

    say("exporting and building engines")
    bundle_from_run(
        run,
        folder,
        dataset=(trained_on := training_data(run)),
        trained_on=trained_on,
        precisions=PRECISIONS,
        max_batch=MAX_BATCH,
        keep_goldens=False,
        force=True,
    )
    refused = {}
    for library in LIBRARIES:
        for precision in PRECISIONS:
            try:
                # Not executed: what they answer is this run's to find out, good or bad.
                add_engines(folder, library=library, precisions=(precision,), execute=False)
            except Exception as error:  # noqa: BLE001  (the other engines are wanted all the same)
                refused[f"{library}, {precision}"] = f"{type(error).__name__}: {error}"
    return {"refused": refused}


class RememberedReference(Runner):
    """A slow reference that every backend asks the same: its answers are kept in a file."""

    def __init__(self, runner: Runner, path: Path) -> None:
        self.name = runner.name
        self.contract = runner.contract
        self._runner = runner
        self._path = path
        self._answers: dict[str, Float32Array] = {}
        if path.is_file():
            with np.load(path) as answers:
                self._answers = {key: answers[key] for key in answers.files}

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        digest = hashlib.sha256(repr(poses_NTD.shape).encode())
        digest.update(poses_NTD.tobytes())
        digest.update(lengths_N.tobytes())
        key = digest.hexdigest()
        if key not in self._answers:
            self._answers[key] = self._runner.infer(poses_NTD, lengths_N)
        return self._answers[key].copy()

    def close(self) -> None:
        """Write the answers for the next backend."""
        np.savez(self._path, **self._answers)  # type: ignore[arg-type]  # names are digests


def prove_one(name: str, run: Run, work: Path) -> dict[str, Any]:
    """Compare one backend with the model in double precision on the CPU; in this process."""
    import torch

    from spoter_export.parity.proof import prove
    from spoter_export.torch_runner import TorchRunner
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_toolkit.backends import CPU_BACKENDS, open_backend, split_backend
    from spoter_toolkit.export import proof_clips, training_data

    bundle = read_bundle(work / "gpu.spoter")
    clips = proof_clips(training_data(run))
    double = TorchRunner(
        run.load_model().double(), bundle.contract, name="torch float64, CPU", dtype=torch.float64
    )
    opened = open_backend(name, bundle, run=run.folder)
    with RememberedReference(double, work / "reference.npz") as reference, opened.runner as runner:
        artefact = opened.artefact or bundle.onnx()
        proof = prove(
            reference,
            runner,
            artefact,
            [clips] if clips else [],
            on_gpu=split_backend(name)[0] not in CPU_BACKENDS,
        )
    return {"executed": True} | proof.as_json() | {"max_logit_diff": proof.facts.max_logit_diff}


def prove_apart(name: str, run: Run, work: Path) -> dict[str, Any]:
    """Prove a backend in a process of its own: a fault there, or memory it keeps, is not the others'."""
    say(f"proving {name}")
    command = [sys.executable, __file__, str(run.folder), "--work", str(work), "--prove", name]
    path = work / "proofs" / f"{name.replace(':', '-')}.out.json"
    path.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            command, stderr=subprocess.PIPE, text=True, timeout=PROOF_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"executed": False, "why": f"no answer within {PROOF_TIMEOUT_S} s"}
    if path.is_file():
        proof: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return proof
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
    ours = next((line for line in lines if line.startswith("error: ")), lines[-1])
    how = f" (ended by signal {-done.returncode})" if done.returncode < 0 else ""
    return {"executed": False, "why": ours.removeprefix("error: ") + how}


def measure(run: Run, work: Path, part: str, settings: BenchSettings) -> dict[str, Any]:
    """Measure some backends in turn, and write the report; an error is a result too."""
    from spoter_toolkit.bench.report.markdown import write_report
    from spoter_toolkit.bench.run import run_bench

    say(f"measuring {', '.join(settings.backends)}")
    last = -1

    def on_progress(done: int, total: int, what: str) -> None:
        nonlocal last
        if done * 20 // total != last:
            last = done * 20 // total
            say(f"  {done} of {total}: {what}")

    try:
        result = run_bench(work / "gpu.spoter", settings, run=run.folder, on_progress=on_progress)
    except SpoterError as error:
        return {"part": part, "error": str(error)}
    write_report(result, work / part)
    return {"part": part} | result.as_json(samples=True)


def settings_of(names: Sequence[str], *, quick: bool, on_gpu: bool) -> BenchSettings:
    """Return what to measure; on the CPU the largest batches would take longer than all else."""
    from spoter_runtime.machine import usable_cores
    from spoter_toolkit.bench.settings import BenchSettings

    return BenchSettings(
        backends=tuple(names),
        batches=BATCHES if on_gpu else BATCHES[:2],
        frames=FRAMES,
        curve=False,
        threads=(1,) if on_gpu else (usable_cores(),),
        rounds=2 if quick else 10,
        seconds_per_case=0.2 if quick else 2.5,
        starts=1 if quick else 3,
        reply_timeout_s=600.0,  # torch.compile takes minutes for its first shapes
    )


def proof_rows(proofs: dict[str, dict[str, Any]]) -> list[str]:
    """Return the table of proofs as Markdown; what was not executed stands in it too."""
    rows = [
        "| backend | file | executed | grid and clips: largest logit difference | padding, batch, order | "
        "labels agree | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, proof in proofs.items():
        if not proof["executed"]:
            rows.append(f"| {name} | | **no** | | | | {cell(proof['why'])} |")
            continue
        facts = proof["facts"]
        moves = [f["max_logit_diff"] for f in facts["invariance"] if f["runner"] != facts["reference"]]
        most = max((move for move in moves if move is not None), default=float("nan"))
        clips = [clip for group in facts["clips"] for clip in group["clips"]]
        agree = sum(clip["reference"] == clip["candidate"] for clip in clips)
        verdict = "holds" if proof["passed"] else "FAILS: " + "; ".join(proof["failures"][:5])
        rows.append(
            f"| {name} | {proof['artefact']} | yes | {proof['max_logit_diff']:.1e} | {most:.1e} | "
            f"{agree} of {len(clips)} | {cell(verdict)} |"
        )
    return rows


def cell(text: str) -> str:
    """Return a text that stays within a cell of a Markdown table, without places of this machine."""
    from spoter_toolkit.bench.host.environment import without_places
    from spoter_toolkit.bench.report.markdown import markdown_cell

    return markdown_cell(without_places(text))


def page(title: str, command: str, result: dict[str, Any], work: Path, pictures: str) -> str:
    """Return the whole result as a page, whose pictures are files that begin with `pictures`."""
    lines = [f"# {title}", "", f"`{command}`", "", "## Proof, against float64 on the CPU", ""]
    lines += proof_rows(result["proofs"])
    if result["refused"]:
        lines += ["", "## Engines that were not built", ""]
        lines += [f"- {what}: {cell(why)}" for what, why in result["refused"].items()]
    for bench in result["benches"]:
        lines += ["", f"## {bench['part']}", ""]
        if "error" in bench:
            lines.append(bench["error"])
            continue
        report = (work / bench["part"] / "bench.md").read_text(encoding="utf-8")
        lines.append(report.replace("](", f"]({pictures}-{bench['part'].lower()}-"))
    return "\n".join([*lines, "", "```json", json.dumps(result["environment"], indent=2), "```", ""])


def say(text: str) -> None:
    """Tell what is being done, on stderr."""
    print(text, file=sys.stderr, flush=True)


def accept(arguments: argparse.Namespace) -> int:
    """Do what has not been done yet, and write the result; 3 if a proof failed."""
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_toolkit.backends import CPU_BACKENDS, backends_of, split_backend
    from spoter_toolkit.bench.host.environment import environment, slug
    from spoter_toolkit.locate import last_run
    from spoter_toolkit.runs.run import read_run

    work = arguments.work
    run = read_run(arguments.run or last_run())
    if arguments.prove:
        out = work / "proofs" / f"{arguments.prove.replace(':', '-')}.out.json"
        write_json(out, prove_one(arguments.prove, run, work))
        return 0
    for name in arguments.only or ():
        split_backend(name)  # a wrong name is found now, not after the export
    refused = kept(work / "build.json", lambda: build(run, work / "gpu.spoter"))["refused"]
    names = arguments.only or (
        [*CPU_BACKENDS, "ort-cpu:fp16"]
        if arguments.rehearse
        else backends_of(read_bundle(work / "gpu.spoter"))
    )
    proofs = {}
    for name in names:
        done = work / "proofs" / f"{name.replace(':', '-')}.json"
        proofs[name] = kept(done, lambda name=name: prove_apart(name, run, work))  # type: ignore[misc]
    groups: dict[str, list[str]] = {"GPU": [], "CPU": []}
    for name in names:
        if proofs[name]["executed"]:
            groups["CPU" if split_backend(name)[0] in CPU_BACKENDS else "GPU"].append(name)
    benches = []
    for part, group in groups.items():
        if group:
            settings = settings_of(group, quick=arguments.quick, on_gpu=part == "GPU")
            path = work / f"bench-{part.lower()}.json"
            benches.append(kept(path, lambda p=part, s=settings: measure(run, work, p, s)))  # type: ignore[misc]
    result = {
        "proofs": proofs,
        "refused": refused,
        "benches": benches,
        "environment": environment(),
    }
    gpu = result["environment"]["gpu"]
    device = gpu["name"] if gpu else "no GPU"
    flags = [*(["quick"] if arguments.quick else []), *(["partly"] if arguments.only else [])]
    stem = "-".join(["gpu", slug(device), *flags, f"{datetime.now(timezone.utc):%Y-%m}"])
    folder = work if arguments.rehearse else RESULTS
    write_json(folder / f"{stem}.json", result)
    command = f"python benchmarks/gpu.py {' '.join(arguments.typed)}".strip()
    write_text(folder / f"{stem}.md", page(f"{run.name} on {device}", cell(command), result, work, stem))
    for picture in work.glob("[GC]PU/*.png"):
        shutil.copyfile(picture, folder / f"{stem}-{picture.parent.name.lower()}-{picture.name}")
    print(folder / f"{stem}.md")
    return 0 if all(proof.get("passed", True) for proof in proofs.values()) else 3


def main() -> int:
    """Run everything; 0 done, 1 something needed is missing, 3 a proof failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="default: the last run")
    parser.add_argument(
        "--work", type=Path, default=Path("gpu-acceptance"), help="what is done is kept there"
    )
    parser.add_argument("--only", nargs="+", metavar="BACKEND", help="default: every backend there is")
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU alone")
    parser.add_argument("--prove", metavar="BACKEND", help=argparse.SUPPRESS)  # what a process of ours does
    arguments = parser.parse_args()
    arguments.typed = sys.argv[1:]
    if not arguments.prove:
        found = parts()
        for part in found:
            print(f"MISSING  {part.name}: {part.missing}" if part.missing else f"ok       {part.name}")
        lacking = [part.name for part in found if part.missing and part.needed]
        if arguments.rehearse:
            lacking = [name for name in lacking if not name.startswith("NVIDIA")]
        if lacking:
            say(f"nothing was measured, because this is missing: {'; '.join(lacking)}")
            return 1
    return accept(arguments)


if __name__ == "__main__":
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # ONNX Runtime's TensorRT has no other switch for it
    try:
        sys.exit(main())
    except SpoterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
