"""The acceptance run on a machine with an NVIDIA GPU: build, prove, measure everything that is installed.

    python benchmarks/gpu.py [RUN] [--work FOLDER] [--only BACKEND ...] [--quick]

RUN is a trained or imported run; default: the last one. Stops at once, with a list, where a part is missing
without which nothing can be measured; a backend that cannot run is a row of the result. Every backend is
compared with the model in float64 on the CPU, each in a process of its own, then measured at 1, 16 and 256
clips of 30, 60 and 164 frames. Each step is written to the work folder when done, and is not done again:
a run that was stopped goes on. Exit 3 if a proof fails.

An engine library that needs an environment of its own is given with its interpreter, which has spoter-kit,
numpy, filelock, cuda-bindings and that library:

    python benchmarks/gpu.py --python trt=/opt/trt86/bin/python --python trt-lean=/opt/lean/bin/python

Then it is built there, and each of its proofs and measurements runs there. trt-lean runs the
version-compatible engine that trt builds. `benchmarks/pack.py` makes such environments for a machine without
a network.

--rehearse does the same without a GPU, on the CPU's backends, and writes into the work folder. ONNX Runtime's
plug-in for TensorRT-RTX and onnxruntime-gpu do not go into one environment: run twice, with --only, from two.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from result_files import RESULTS, result_name, stored, write_result

from spoter_runtime.bundle.libraries import BACKEND_OF
from spoter_runtime.doctor import diagnose
from spoter_runtime.errors import ConfigError, SpoterError
from spoter_runtime.machine import usable_cores
from spoter_runtime.runner import Runner
from spoter_toolkit.backends import CPU_BACKENDS, backends_of, open_backend, split_backend
from spoter_toolkit.bench.analysis.serialize import values_from_result
from spoter_toolkit.bench.host.environment import environment
from spoter_toolkit.bench.report.folder import write_report
from spoter_toolkit.bench.run import run_bench
from spoter_toolkit.bench.settings import BenchSettings
from spoter_toolkit.bench.worker.client import WORKERS_VARIABLE, elsewhere_of, start_worker
from spoter_toolkit.report.table import markdown_cell, markdown_table
from spoter_toolkit.report.words import without_places
from spoter_toolkit.workspace import last_run

if TYPE_CHECKING:  # torch and onnx come with these: a part that is missing is named before they are imported
    from spoter_runtime.bundle.libraries import Library
    from spoter_runtime.bundle.manifest import Artefact, Bundle
    from spoter_runtime.landmarks import Float32Array
    from spoter_runtime.runner import Int32Array
    from spoter_toolkit.runs.run import Run

NEEDED = ("gpu", "torch", "onnx", "onnxscript", "accelerate", "safetensors", "ort-cpu")
PRECISIONS = ("fp32", "fp16")
MAX_BATCH = 256
BATCHES, FRAMES = (1, 16, MAX_BATCH), (30, 60, 164)
PROOF_TIMEOUT_S = 1800
# Fresh processes: CUDA does not survive a fork, and a process that ends gives its GPU memory back.
APART = multiprocessing.get_context("spawn")
PROOF_COLUMNS = (
    *("backend", "file", "executed", "grid and clips: largest logit difference", "padding, batch, order"),
    *("labels agree", "verdict"),
)


def missing_parts(*, rehearse: bool) -> list[str]:
    """Print everything that the run could use, and return the needed parts that are not here."""
    with ProcessPoolExecutor(1, mp_context=APART) as apart:
        findings = apart.submit(diagnose).result()
    for finding in findings:
        fix = f" Fix: {finding.fix}" if finding.fix else ""
        print(f"{finding.status:8} {finding.name}: {finding.detail}.{fix}")
    needed = [name for name in NEEDED if not (rehearse and name == "gpu")]
    return [finding.name for finding in findings if finding.name in needed and finding.status != "ok"]


def build(run: Run, folder: Path, pythons: Mapping[str, str]) -> dict[str, Any]:
    """Export the run for large batches and add engines; return why some could not be built."""
    from spoter_export.bundle.engines import add_engines
    from spoter_export.bundle.trt8 import add_trt8_files
    from spoter_runtime.bundle.libraries import LIBRARIES
    from spoter_toolkit.export import export

    say("exporting and building engines")
    export(
        run.folder,
        folder,
        precisions=PRECISIONS,
        max_batch=MAX_BATCH,
        keep_goldens=False,
        tune_seconds=0,
        force=True,
    )
    if pythons:
        add_trt8_files(folder, precisions=PRECISIONS)  # the library there may be 8.6
    refused: dict[str, str] = {}
    for library in LIBRARIES:
        for precision in PRECISIONS:
            if python := pythons.get(BACKEND_OF[library]):
                refused |= build_elsewhere(python, folder, library, precision, lean="trt-lean" in pythons)
                continue
            try:
                # Not executed here: the proofs below execute them, and report wrong answers too.
                add_engines(folder, library=library, precisions=(precision,), execute=False)
            except Exception as error:  # noqa: BLE001  (the other engines are wanted all the same)
                refused[f"{library}, {precision}"] = f"{type(error).__name__}: {error}"
    return {"refused": refused}


def build_elsewhere(
    python: str, folder: Path, library: Library, precision: str, *, lean: bool
) -> dict[str, str]:
    """Build an engine by another interpreter, with `lean` a compatible one too; return what failed."""
    from spoter_runtime.bundle.libraries import EXTRAS

    refused = {}
    for options in ([], ["--version-compatible"]) if lean and library == "tensorrt" else ([],):
        command = [
            python,
            "-m",
            "spoter_export",
            str(folder),
            f"--{EXTRAS[library]}",
            "--precision",
            precision,
        ]
        begun = time.perf_counter()
        done = subprocess.run([*command, *options, "--force"], capture_output=True, text=True, check=False)
        say(f"  {library}, {precision} {' '.join(options)}: {time.perf_counter() - begun:.1f} s")
        if done.returncode:
            refused[" ".join([f"{library}, {precision}", *options])] = done.stderr.strip()[-2000:]
    return refused


class WorkerRunner(Runner):
    """A backend in a worker of another interpreter."""

    def __init__(self, name: str, bundle: Bundle) -> None:
        self.name = split_backend(name)[0]
        self.contract = bundle.contract
        self._worker = start_worker(bundle.folder, name, 1, timeout_s=PROOF_TIMEOUT_S)
        try:
            self._worker.answer()
        except BaseException:
            self.close()
            raise

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        sent = {"poses": poses_NTD, "lengths": lengths_N}
        encoded = {key: base64.b64encode(array.tobytes()).decode("ascii") for key, array in sent.items()}
        answer = self._worker.ask(do="infer", shape=list(poses_NTD.shape), **encoded)
        logits = np.frombuffer(base64.b64decode(answer["logits"]), np.float32)
        return logits.reshape(len(poses_NTD), -1).copy()

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


def open_anywhere(name: str, bundle: Bundle, run: Path) -> tuple[Runner, Artefact]:
    """Open a backend here, or in the interpreter that has its library; return its file too."""
    if not elsewhere_of(name):
        opened = open_backend(name, bundle, run=run)
        return opened.runner, opened.artefact or bundle.onnx()
    backend, precision = split_backend(name)
    library = next((library for library, its in BACKEND_OF.items() if its == backend), None)
    if library is None:
        return WorkerRunner(name, bundle), bundle.onnx(precision)
    engines = bundle.engines(library, precision)
    fits = [a for a in engines if a.engine and a.engine.version_compatible == (backend == "trt-lean")]
    return WorkerRunner(name, bundle), (fits or engines)[0]


class StoredReference(Runner):
    """A slow reference that is asked the same for every backend: its answers are kept in a file."""

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
        content = (repr(poses_NTD.shape).encode(), poses_NTD.tobytes(), lengths_N.tobytes())
        key = hashlib.sha256(b"".join(content)).hexdigest()
        if key not in self._answers:
            self._answers[key] = self._runner.infer(poses_NTD, lengths_N)
        return self._answers[key].copy()

    def close(self) -> None:
        """Write the answers for the next backend."""
        np.savez(self._path, **self._answers)  # type: ignore[arg-type]  # names are digests


def prove_one(name: str, folder: Path, work: Path) -> dict[str, Any]:
    """Compare one backend with the model in double precision on the CPU."""
    import torch

    from spoter_export.parity.proof import prove
    from spoter_export.torch_runner import TorchRunner
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_toolkit.export import proof_clips
    from spoter_toolkit.runs.run import read_run

    run, bundle = read_run(folder), read_bundle(work / "gpu.spoter")
    clips = proof_clips(run.training_data())
    double = TorchRunner(
        run.load_model().double(), bundle.contract, name="torch float64, CPU", dtype=torch.float64
    )
    opened, artefact = open_anywhere(name, bundle, folder)
    with StoredReference(double, work / "reference.npz") as reference, opened as runner:
        proof = prove(
            reference,
            runner,
            artefact,
            [clips] if clips else [],
            on_gpu=split_backend(name)[0] not in CPU_BACKENDS,
        )
    return {"executed": True} | proof.as_json() | {"max_logit_diff": proof.facts.max_logit_diff}


def send_proof(answer: Connection, name: str, folder: Path, work: Path) -> None:
    """Send a backend's proof, or why there is none; the body of a process."""
    try:
        answer.send(prove_one(name, folder, work))
    except SpoterError as error:
        answer.send({"executed": False, "why": str(error)})
    except Exception as error:  # noqa: BLE001  (an engine that fails is a row of the result)
        answer.send({"executed": False, "why": f"{type(error).__name__}: {error}"})


def prove_apart(name: str, folder: Path, work: Path) -> dict[str, Any]:
    """Prove a backend in a process of its own: its faults and its memory stay there."""
    say(f"proving {name}")
    answers, answer = APART.Pipe(duplex=False)
    process = APART.Process(target=send_proof, args=(answer, name, folder, work))
    process.start()
    answer.close()  # the process has its own end; while this one is open, nothing says that it has died
    try:
        if not answers.poll(PROOF_TIMEOUT_S):
            return {"executed": False, "why": f"no answer within {PROOF_TIMEOUT_S} s"}
        proof: dict[str, Any] = answers.recv()
        return proof
    except EOFError:
        process.join()
        return {"executed": False, "why": f"its process ended with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def measure(run: Run, work: Path, part: str, settings: BenchSettings) -> dict[str, Any]:
    """Measure some backends in turn, and write the report; an error is a result too."""
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
    return {"part": part} | values_from_result(result)


def settings_of(names: Sequence[str], *, quick: bool, on_gpu: bool) -> BenchSettings:
    """Return the bench's settings; on the CPU without the largest batches, which would take longest."""
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


def proof_cells(name: str, proof: dict[str, Any]) -> tuple[str, ...]:
    """Return a proof as the cells of the page's table; a backend that was not executed has a row too."""
    if not proof["executed"]:
        return (name, "", "**no**", "", "", "", without_places(proof["why"]))
    facts = proof["facts"]
    moves = [f["max_logit_diff"] for f in facts["invariance"] if f["runner"] != facts["reference"]]
    most = max((move for move in moves if move is not None), default=float("nan"))
    clips = [clip for group in facts["clips"] for clip in group["clips"]]
    agree = f"{sum(clip['reference'] == clip['candidate'] for clip in clips)} of {len(clips)}"
    verdict = "holds" if proof["passed"] else "FAILS: " + "; ".join(proof["failures"][:5])
    differences = (f"{proof['max_logit_diff']:.1e}", f"{most:.1e}")
    return (name, proof["artefact"], "yes", *differences, agree, without_places(verdict))


def page(result: dict[str, Any], work: Path, pictures: str) -> list[str]:
    """Return the whole result as Markdown, whose pictures are files that begin with `pictures`."""
    rows = [proof_cells(name, proof) for name, proof in result["proofs"].items()]
    proofs = markdown_table(PROOF_COLUMNS, rows, figures=False)
    lines = ["## Proof, against float64 on the CPU", "", proofs]
    if result["refused"]:
        lines += ["", "## Engines that were not built", ""]
        lines += [
            f"- {what}: {markdown_cell(without_places(why))}" for what, why in result["refused"].items()
        ]
    for bench in result["benches"]:
        lines += ["", f"## {bench['part']}", ""]
        if "error" in bench:
            lines.append(bench["error"])
            continue
        report = (work / bench["part"] / "bench.md").read_text(encoding="utf-8")
        lines.append(report.replace("](", f"]({pictures}-{bench['part'].lower()}-"))
    return lines


def say(text: str) -> None:
    """Print the step that begins, on stderr."""
    print(text, file=sys.stderr, flush=True)


def measure_all(
    proofs: dict[str, dict[str, Any]], run: Run, work: Path, *, quick: bool
) -> list[dict[str, Any]]:
    """Return a bench of the GPU's backends and one of the CPU's, of those that were executed."""
    groups: dict[str, list[str]] = {"GPU": [], "CPU": []}
    for name, proof in proofs.items():
        if proof["executed"]:
            groups["CPU" if split_backend(name)[0] in CPU_BACKENDS else "GPU"].append(name)
    return [
        stored(
            work / f"bench-{part.lower()}.json",
            lambda part=part, names=names: measure(
                run, work, part, settings_of(names, quick=quick, on_gpu=part == "GPU")
            ),
            is_final=lambda bench: "error" not in bench,
        )
        for part, names in groups.items()
        if names
    ]


def accept(given: argparse.Namespace) -> int:
    """Do every step that is not done yet, and write the result; 3 if a proof failed."""
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_toolkit.runs.run import read_run

    work = given.work
    pythons = pythons_of(given.python or ())
    if pythons:
        # Read by each worker's client, here and in the processes of the proofs.
        workers = {name: {"python": path, "allow_host_code": True} for name, path in pythons.items()}
        os.environ[WORKERS_VARIABLE] = json.dumps(workers)
    run = read_run(given.run or last_run())
    for name in given.only or ():
        split_backend(name)  # a wrong name is found now, not after the export
    refused = stored(work / "build.json", lambda: build(run, work / "gpu.spoter", pythons))["refused"]
    names = given.only or (
        [*CPU_BACKENDS, "ort-cpu:fp16"] if given.rehearse else backends_of(read_bundle(work / "gpu.spoter"))
    )
    proofs = {
        name: stored(
            work / "proofs" / f"{name.replace(':', '-')}.json",
            lambda name=name: prove_apart(name, run.folder, work),
            is_final=lambda proof: proof["executed"],
        )
        for name in names
    }
    benches = measure_all(proofs, run, work, quick=given.quick)
    result = {"proofs": proofs, "refused": refused, "benches": benches}
    gpu = environment()["gpu"]
    device = gpu["name"] if gpu else "no GPU"
    processor = device + " quick" * given.quick + " partly" * bool(given.only)
    folder = work if given.rehearse else RESULTS
    stem = result_name("gpu", processor)
    for picture in work.glob("[GC]PU/*.png"):
        shutil.copyfile(picture, folder / f"{stem}-{picture.parent.name.lower()}-{picture.name}")
    title = f"{run.name} on {device}"
    write_result("gpu", title, "", page(result, work, stem), result, folder=folder, processor=processor)
    return 0 if all(proof.get("passed", True) for proof in proofs.values()) else 3


def pythons_of(given: Sequence[str]) -> dict[str, str]:
    """Return backend → interpreter, from ``trt=/opt/trt86/bin/python``.

    Raises:
        ConfigError: another form, an unknown backend, or no such file.
    """
    found = {}
    for text in given:
        backend, _, path = text.partition("=")
        split_backend(backend)
        if shutil.which(path) is None:
            raise ConfigError(
                f"--python {text}: no interpreter {path!r}", fix="--python trt=/opt/trt86/bin/python"
            )
        found[backend] = path
    return found


def main() -> int:
    """Run everything; 0 done, 1 a needed part is missing, 3 a proof failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="default: the last run")
    parser.add_argument("--work", type=Path, default=Path("gpu-acceptance"), help="keeps finished steps")
    parser.add_argument("--only", nargs="+", metavar="BACKEND", help="default: every backend there is")
    parser.add_argument(
        "--python", action="append", metavar="BACKEND=PATH", help="run this backend in another interpreter"
    )
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU alone")
    given = parser.parse_args()
    if missing := missing_parts(rehearse=given.rehearse):
        say(f"nothing was measured, because this is missing: {'; '.join(missing)}")
        return 1
    return accept(given)


if __name__ == "__main__":
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # ONNX Runtime's TensorRT has no other switch for it
    try:
        sys.exit(main())
    except SpoterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
