from __future__ import annotations

import contextlib
import dataclasses
import getpass
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Timer

import numpy as np
import onnx
import psutil
import pytest
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner

from spoter_runtime.bundle.manifest import MANIFEST, Artefact, Bundle, manifest_from_bundle
from spoter_runtime.contract import LENGTHS, LOGITS, METADATA_KEY, POSES, GraphContract, Label
from spoter_runtime.errors import BackendError, BundleError, ConfigError, UsageError
from spoter_runtime.files import write_json
from spoter_runtime.landmarks import NUM_FEATURES
from spoter_runtime.machine import usable_cores
from spoter_toolkit.backends import BACKENDS
from spoter_toolkit.bench.analysis.result import analyse
from spoter_toolkit.bench.analysis.serialize import values_from_result, without_samples
from spoter_toolkit.bench.host.nvml import GpuClocks
from spoter_toolkit.bench.records import Failure
from spoter_toolkit.bench.report.batch_plot import batch_curves
from spoter_toolkit.bench.report.folder import write_report
from spoter_toolkit.bench.report.latency_plot import batches_with_lengths
from spoter_toolkit.bench.report.tables import environment_table
from spoter_toolkit.bench.run import run_bench
from spoter_toolkit.bench.settings import BenchSettings, Case
from spoter_toolkit.bench.worker.client import THREAD_VARIABLES, WorkerLost, start_worker, worker_environment
from spoter_toolkit.bench.worker.protocol import ENGINES, ROOFLINE
from spoter_toolkit.cli.app import app
from spoter_toolkit.cli.bench import stopped_by_signal
from spoter_toolkit.cli.bench_view import show_summary
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.model.spoter import model_from_config
from spoter_toolkit.report.words import format_sig3
from spoter_toolkit.runs.run import read_run, write_run_json
from spoter_toolkit.runs.weights import save_weights

LABELS = (Label(name="a"), Label(name="b"), Label(name="c"))
ONE_CALL = {"do": "latency", "warm_up": None, "min_calls": 1, "min_ns": 0}
WARM_UP = {"min_calls": 3, "block_ns": 0, "limit_ns": 10**9, "tolerance": 1e9}
FEW = {"scenarios": ("start", "latency", "memory"), "curve": False, "floor": False}
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def write_bundle(folder: Path, contract: GraphContract, run: dict[str, str]) -> Path:
    """Write a bundle whose graph is a mean over the frames and a matrix product."""
    weights = np.linspace(-1, 1, NUM_FEATURES * len(LABELS), dtype=np.float32).reshape(NUM_FEATURES, -1)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", [POSES, "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], [LOGITS]),
        ],
        "tiny",
        [
            helper.make_tensor_value_info(POSES, TensorProto.FLOAT, ["batch", "frames", NUM_FEATURES]),
            helper.make_tensor_value_info(LENGTHS, TensorProto.INT32, ["batch"]),
        ],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", len(LABELS)])],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(contract.as_json())})
    content = model.SerializeToString()
    folder.mkdir()
    (folder / "model.onnx").write_bytes(content)
    artefact = Artefact(
        path="model.onnx",
        kind="onnx",
        precision="fp32",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        max_logit_diff=1e-4,
    )
    bundle = Bundle(
        folder=folder,
        name="tiny",
        contract=contract,
        artefacts=(artefact,),
        files={},
        provenance={"run": run},
    )
    write_json(folder / MANIFEST, manifest_from_bundle(bundle))
    return folder


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory):
    """A bundle too small for the notebook's case, whose run is not there."""
    contract = GraphContract(labels=LABELS, max_batch=4, max_frames=50)
    run = {"name": "gone", "weights_sha256": "0" * 64}
    return write_bundle(tmp_path_factory.mktemp("small") / "tiny.spoter", contract, run)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    config = ModelConfig(num_classes=len(LABELS), num_encoder_layers=1, d_ff=8)
    torch.manual_seed(0)
    save_weights(model_from_config(config), folder / "model.safetensors")
    write_run_json(
        folder,
        name="tiny",
        config=config,
        labels=LABELS,
        status="done",
        train=None,
        data=None,
        metrics={},
        origin="generated",
    )
    return folder


@contextlib.contextmanager
def one_core():
    """Keep this process and its children on one core: torch's threads wait long for a busy one."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def steps():
    """(done, total, what) of every step of `result`, which fills it."""
    return []


@pytest.fixture(scope="module")
def result(tmp_path_factory, run_folder, steps):
    """A real run on two backends, and on one that cannot run; the notebook's case included."""
    run = {"name": "tiny", "weights_sha256": read_run(run_folder).weights_sha256()}
    contract = GraphContract(labels=LABELS)
    bundle = write_bundle(tmp_path_factory.mktemp("both") / "tiny.spoter", contract, run)
    settings = BenchSettings(
        backends=("torch", "trt-rtx", "ort-cpu"),
        batches=(1,),
        frames=(5, 9),
        threads=(1,),
        curve=False,
        rounds=6,
        seconds_per_case=0.06,
        offline_seconds=0.01,
        server_seconds=1.2,
        starts=1,
    )
    with one_core():
        return run_bench(bundle, settings, run=run_folder, on_progress=lambda *step: steps.append(step))


@pytest.fixture(scope="module")
def report(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "bench"
    write_report(result, folder)
    return folder


# --- the worker


def test_every_backend_has_an_engine_to_import():
    assert set(ENGINES) == {*BACKENDS, ROOFLINE}


def test_the_ort_worker_imports_no_torch_and_no_command(small_bundle):
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "spoter_toolkit.bench.worker",
            "ort-cpu",
            "1",
            small_bundle,
        ],
        input=json.dumps({"batch": 1, "frames": 3, **ONE_CALL}) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"onnxruntime", "numpy"} <= imported
    assert not imported & {"torch", "onnx", "typer", "click", "rich", "matplotlib", "safetensors"}
    opened, answer = map(json.loads, done.stdout.splitlines())
    assert opened["import_ns"] > 0
    assert opened["load_ns"] > 0
    assert len(answer["samples_ns"]) == 1


def test_what_a_library_prints_does_not_reach_the_protocol(small_bundle):
    program = (
        "import sys, spoter_runtime.ort.runner as ort\n"
        "load = ort.import_onnxruntime\n"
        "ort.import_onnxruntime = lambda *_: print('noise', flush=True) or load()\n"
        "from spoter_toolkit.bench.worker.__main__ import main\n"
        "main('ort-cpu', '1', sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, small_bundle], input="", capture_output=True, text=True, check=True
    )
    assert set(done.stderr.split()) == {"noise"}
    assert json.loads(done.stdout)["load_ns"] > 0


def test_a_worker_measures_as_many_calls_and_as_long_as_it_is_asked(small_bundle):
    with start_worker(small_bundle, "ort-cpu", 1, timeout_s=60) as worker:
        opened = worker.answer()
        asked = {"do": "latency", "batch": 2, "frames": 7}
        calls = worker.ask(**asked, warm_up=WARM_UP, min_calls=5, min_ns=0)
        long = worker.ask(**asked, warm_up=None, min_calls=1, min_ns=50_000_000)
    assert len(calls["samples_ns"]) == 5
    assert calls["warm_up"]["calls"] == 3
    assert long["warm_up"] is None
    assert all(isinstance(ns, int) and ns > 0 for ns in calls["samples_ns"] + long["samples_ns"])
    assert sum(long["samples_ns"]) > 10_000_000  # of 50 ms; the machine may be busy
    peaks = [opened[f"peak_{moment}_bytes"] for moment in ("at_start", "imported", "loaded")]
    assert peaks == sorted(peaks)
    assert peaks[-1] <= long["peak_rss_bytes"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_workers_memory_is_not_that_of_the_program_that_started_it(small_bundle):
    ballast = np.ones(20_000_000)  # 160 MB
    with start_worker(small_bundle, "ort-cpu", 1, timeout_s=60) as worker:
        assert worker.answer()["peak_at_start_bytes"] < ballast.nbytes / 4


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_threads_are_set_for_the_worker_alone(small_bundle):
    before = dict(os.environ)
    with start_worker(small_bundle, "ort-cpu", 3, timeout_s=60) as worker:
        worker.answer()
        environment = psutil.Process(worker.pid).environ()
    assert {environment[name] for name in THREAD_VARIABLES} == {"3"}
    assert dict(os.environ) == before


def test_a_shape_the_contract_refuses_is_the_workers_own_words(small_bundle):
    with start_worker(small_bundle, "ort-cpu", 1, timeout_s=60) as worker:
        worker.answer()
        with pytest.raises(BackendError, match=r"batch of 5, the contract takes 1\.\.4"):
            worker.ask(batch=5, frames=1, **ONE_CALL)


def test_a_silent_worker_is_ended(small_bundle):
    with start_worker(small_bundle, "ort-cpu", 1, timeout_s=0.001) as worker:
        with pytest.raises(WorkerLost, match=r"no answer within 0.001 s, so it was ended"):
            worker.answer()
        assert psutil.Process(worker.pid).wait(10) is not None


def test_a_worker_that_crashes_shows_its_last_line(small_bundle):
    crashed = pytest.raises(WorkerLost, match=r"ended with exit code 1: ValueError: .* 'many'")
    with start_worker(small_bundle, "ort-cpu", "many", timeout_s=60) as worker, crashed:
        worker.answer()


# --- the run


def worker_with(threads: int) -> psutil.Process | None:
    """Return this process's worker for a thread count, found in the system's process table."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.cmdline()[2:5] == ["spoter_toolkit.bench.worker", "ort-cpu", str(threads)]:
                return child
    return None


@posix
def test_a_worker_that_dies_or_hangs_is_named_and_the_others_go_on(small_bundle):
    one, dies, hangs = 1, 2, 3  # threads
    settings = BenchSettings(
        backends=("ort-cpu",),
        batches=(1,),
        frames=(3,),
        threads=(one, dies, hangs),
        rounds=3,
        seconds_per_case=0.03,
        starts=1,
        reply_timeout_s=4,
        **FEW,
    )

    def disturb(done, total, what):
        if what.startswith(f"round 1 of 3: ort-cpu, 1 × 3 on {hangs} threads"):
            worker_with(dies).send_signal(signal.SIGKILL)
            worker_with(hangs).send_signal(signal.SIGSTOP)

    result = run_bench(small_bundle, settings, on_progress=disturb)
    assert {t.case.threads: len(t.rounds_ns) for t in result.records.timings} == {one: 3, dies: 1, hangs: 1}
    died, hung = result.records.failures
    assert (died.backend, died.threads, died.doing) == ("ort-cpu", dies, f"round 2, 1 × 3 on {dies} threads")
    assert "ended by SIGKILL" in died.reason
    assert (hung.threads, hung.reason) == (hangs, "no answer within 4 s, so it was ended")
    assert not any(worker_with(threads) for threads in (one, dies, hangs))


def test_a_run_that_is_stopped_keeps_what_was_measured_and_says_so(small_bundle, tmp_path):
    settings = BenchSettings(
        backends=("ort-cpu",),
        batches=(1,),
        frames=(3,),
        threads=(1,),
        rounds=7,
        seconds_per_case=0.01,
        starts=1,
        **FEW,
    )
    stop = Event()

    def on_progress(done, total, what):
        if what.startswith("round 2 of 7"):
            stop.set()

    stopped = run_bench(small_bundle, settings, on_progress=on_progress, stop=stop)
    (timing,) = stopped.records.timings
    assert (len(timing.rounds_ns), len(stopped.records.starts["ort-cpu"]), stopped.records.memory) == (
        2,
        1,
        (),
    )
    assert stopped.records.failures == ()
    done, of = stopped.records.stopped_after
    assert done < of == 1 + 1 + 7
    assert stopped.caveats[0].startswith(
        f"stopped early, after {done} of 9 steps: cases and scenarios that are"
    )
    write_report(stopped, tmp_path / "bench")
    assert json.loads((tmp_path / "bench" / "bench.json").read_text())["stopped_after"] == {
        "steps": done,
        "of": 9,
    }
    assert f"**Note:** {stopped.caveats[0]}." in (tmp_path / "bench" / "bench.md").read_text(encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):  # before anything was measured
        run_bench(small_bundle, settings, stop=stop)


@posix
def test_a_run_that_is_stopped_does_not_wait_for_its_step(small_bundle):
    asked = {"batches": (1,), "frames": (3,), "threads": (1,), "rounds": 2, "starts": 1}
    settings = BenchSettings(backends=("ort-cpu",), seconds_per_case=600, **asked, **FEW)
    stop = Event()

    def on_progress(done, total, what):
        if what.startswith("loading"):
            Timer(0.2, stop.set).start()

    begin = time.monotonic()
    stopped = run_bench(small_bundle, settings, on_progress=on_progress, stop=stop)
    assert time.monotonic() - begin < 60
    assert (stopped.records.timings, len(stopped.records.starts["ort-cpu"])) == ((), 1)
    assert (stopped.records.failures, worker_with(1)) == ((), None)


@posix
def test_a_worker_ends_with_the_process_that_started_it(small_bundle):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from spoter_toolkit.bench.worker.client import start_worker\n"
        "worker = start_worker(Path(sys.argv[1]), 'ort-cpu', 1, timeout_s=600)\n"
        "worker.answer()\n"
        "print(worker.pid, flush=True)\n"
        "worker.ask(do='latency', batch=1, frames=3, warm_up=None, min_calls=1, min_ns=600 * 10**9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, small_bundle], stdout=subprocess.PIPE) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.2)  # it has got its request
        parent.kill()
    end = time.monotonic() + 20
    with contextlib.suppress(psutil.NoSuchProcess):
        while worker.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end, "it goes on"
            time.sleep(0.05)


def test_a_backend_that_cannot_run_is_listed_with_the_reason(small_bundle):
    settings = BenchSettings(
        backends=("torch", "ort-cpu"),
        batches=(1,),
        frames=(3,),
        threads=(usable_cores() + 1,),
        rounds=1,
        seconds_per_case=0.01,
        starts=1,
        **FEW,
    )
    result = run_bench(small_bundle, settings)
    said = "\n".join(result.caveats)  # those about the machine's load come first
    assert f"threads {usable_cores() + 1}: more than the {usable_cores()} usable core" in said
    assert "the notebook's case 16 × 100 is not among the cases" in said
    assert result.records.backends == ["ort-cpu"]
    assert re.search(
        r"made from the run 'gone', which is not at .*Fix: name it with --run; without the RUN",
        result.records.skipped["torch"],
    )
    assert result.records.failures == ()


def test_nothing_measured_is_an_error_with_every_reason(small_bundle):
    settings = BenchSettings(
        backends=("ort-cpu",), batches=(1,), frames=(3,), threads=(1,), reply_timeout_s=0.001, **FEW
    )
    reason = r"nothing was measured:\n  ort-cpu: start-up 1: no answer within 0.001 s"
    with pytest.raises(BackendError, match=reason):
        run_bench(small_bundle, settings)


def test_a_damaged_model_is_the_bundles_fault_and_no_backends(small_bundle, tmp_path):
    damaged = tmp_path / "damaged.spoter"
    damaged.mkdir()
    for file in small_bundle.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    with (damaged / "model.onnx").open("r+b") as model:
        model.write(b"\0")
    with pytest.raises(BundleError, match="sha256 is"):
        run_bench(damaged, BenchSettings(batches=(1,), frames=(3,)))


def test_a_case_beyond_the_contract_starts_no_worker(small_bundle):
    with pytest.raises(ConfigError, match=r"frames 164: the bundle's contract takes 1\.\.50"):
        run_bench(small_bundle, BenchSettings(batches=(1,)), on_progress=lambda *step: pytest.fail("started"))


def test_both_backends_are_measured_in_every_round(result):
    assert result.records.backends == ["torch", "ort-cpu"]
    assert len(result.records.timings) == 2 * 3  # two lengths, and the notebook's case
    for timing in result.records.timings:
        assert len(timing.rounds_ns) == 6
        assert all(
            len(samples_ns) >= result.records.settings.min_calls_per_round for samples_ns in timing.rounds_ns
        )
    assert list(result.records.skipped) == ["trt-rtx"]
    assert "no fp32 engine for tensorrt_rtx" in result.records.skipped["trt-rtx"]
    assert result.records.failures == ()


def test_the_backend_that_goes_first_changes_from_round_to_round(result, steps):
    turns = [what.split(": ")[1].split(",")[0] for _, _, what in steps if what.startswith("round")]
    rounds = [turns[start : start + 9] for start in range(0, 54, 9)]
    forward = ["torch", "ort-cpu", "floor"]  # no step of trt-rtx, which cannot run here
    assert rounds == [forward * 3, forward[::-1] * 3] * 3


def test_progress_counts_every_step_once(result, steps):
    assert [done for done, _, _ in steps] == list(range(len(steps)))
    assert {total for _, total, _ in steps[2:]} == {len(steps) - 1}  # before: with those of trt-rtx


def test_the_start_up_is_the_sum_of_its_parts(result):
    for backend in result.records.backends:
        (start,) = result.records.starts[backend]
        parts = (start.process_ns, start.import_ns, start.load_ns, start.first_ns)
        assert min(parts) > 0
        assert sum(parts) == start.total_ns


def test_the_size_is_that_of_the_file_each_backend_loads(result, run_folder):
    assert result.records.model_bytes["torch"] == (run_folder / "model.safetensors").stat().st_size
    assert result.records.model_bytes["ort-cpu"] != result.records.model_bytes["torch"]


def test_the_notebooks_targets_are_judged_on_its_own_case(result):
    for backend in result.records.backends:
        own = (one for one in result.latencies if one.backend == backend)
        latency = next(one for one in own if (one.case.batch, one.case.frames) == (16, 100))
        batch, memory, model, clips = result.targets[backend]
        assert (batch.value, batch.passed) == (latency.median_ms, latency.median_ms < 100)
        assert memory.value == max(m.after_runs for m in result.records.memory if m.backend == backend) / 1e6
        assert memory.passed
        assert model.passed
        assert (clips.value, clips.passed) == (latency.clips_per_s, latency.clips_per_s > 10)


def test_a_slow_case_and_a_big_model_fail_their_targets(result):
    slow = dataclasses.replace(result.records.timings[-1], rounds_ns=((2_000_000_000,) * 11,))
    sizes = {"ort-cpu": 50_000_001, "torch": 49_999_999}
    changed = analyse(dataclasses.replace(result.records, timings=(slow,), model_bytes=sizes))
    assert [target.passed for target in changed.targets["ort-cpu"]] == [False, True, False, False]
    assert [target.passed for target in changed.targets["torch"]] == [None, True, True, None]


# --- the report


def markdown_rows(report: Path, title: str) -> list[dict[str, str]]:
    section = (report / "bench.md").read_text(encoding="utf-8").split(f"## {title}")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_the_report_is_json_markdown_and_a_picture(report):
    assert {file.name for file in report.iterdir()} == {"bench.json", "bench.md", "latency.png"}
    assert (report / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_along_the_batches_has_a_picture_and_lone_batches_no_panel(result, tmp_path):
    along = tuple(
        dataclasses.replace(timing, case=Case(batch=batch, frames=60, threads=1))
        for batch in (1, 4, 16)
        for timing in result.records.timings[:2]
    )
    curved = analyse(dataclasses.replace(result.records, timings=(*result.records.timings, *along)))
    curves = batch_curves(curved)
    assert {name: [t.case.batch for t in line] for name, line in curves.items()} == {
        "torch": [1, 4, 16],
        "ort-cpu": [1, 4, 16],
    }
    assert batches_with_lengths(curved) == [1, 16]  # of 4 clips there is one length
    assert batch_curves(result) == {}
    write_report(curved, tmp_path / "curved")
    assert (tmp_path / "curved" / "batches.png").read_bytes().startswith(b"\x89PNG")
    assert "](batches.png)" in (tmp_path / "curved" / "bench.md").read_text(encoding="utf-8")


def test_in_a_pipe_no_line_of_the_summary_is_longer_than_a_terminal(result, capsys):
    many = {f"backend-{number}": "why" for number in range(15)}
    result = dataclasses.replace(
        result,
        records=dataclasses.replace(result.records, skipped=many),
        caveats=("cut: " + 40 * "x, ", "2nd"),
    )
    for shown in (result, dataclasses.replace(result, latencies=())):
        show_summary(shown, asked=())
        lines = "".join(capsys.readouterr()).splitlines()
        assert max(map(len, lines)) <= 80, lines
        assert "15 backends cannot run here (-v: which, and why)" in lines
        assert "note: cut (-v: 1 more)" in lines


def test_the_json_keeps_every_sample_as_whole_nanoseconds(report, result):
    written = json.loads((report / "bench.json").read_text(encoding="utf-8"))
    assert [t["rounds_ns"] for t in written["timings"]] == [
        [list(samples_ns) for samples_ns in t.rounds_ns] for t in result.records.timings
    ]
    assert all(isinstance(ns, int) for t in written["timings"] for ns in t["rounds_ns"][0])
    assert "rounds_ns" not in json.dumps(without_samples(values_from_result(result)))
    assert written["bundle"]["model_sha256"] == result.records.model_sha256


def test_the_markdown_states_the_figures_of_the_json(report):
    written = json.loads((report / "bench.json").read_text(encoding="utf-8"))
    rows = markdown_rows(report, "Latency of a call, and throughput")
    assert len(rows) == len(written["timings"])
    for row, timing in zip(rows, written["timings"], strict=True):
        assert row["clips × frames"] == f"{timing['batch']} × {timing['frames']}"
        assert (row["backend"], row["threads"]) == (timing["backend"], str(timing["threads"]))
        assert row["clips/s"] == format_sig3(timing["clips_per_s"])
        for percent in (50, 90, 99):
            value = timing[f"p{percent}_ms"]
            expected = f"too few samples ({timing['calls']})" if value is None else format_sig3(value)
            assert row[f"p{percent} ms"] == expected
    ratios = markdown_rows(report, "Times as fast")
    assert [row["as fast"] for row in ratios] == [
        f"{comparison['ratio']['estimate']:.2f}×" for comparison in written["comparisons"]
    ]
    assert all("not enough rounds" in row["the first is"] for row in ratios if row["case"] == "start-up")
    assert [row["95 % interval"] for row in ratios if row["case"] == "start-up"] == ["too few rounds"]
    starts = markdown_rows(report, "Start-up")
    assert [row["total ms"] for row in starts] == [
        format_sig3(s["median_total_ms"]) for s in written["starts"]
    ]


def test_the_report_says_what_it_could_not_measure(result, tmp_path):
    failure = Failure(backend="ort-cpu", threads=2, doing="round 2", reason="was ended by SIGKILL")
    skipped = {"torch": "no | torch\nhere"}
    lossy = dataclasses.replace(result.records, skipped=skipped, failures=(failure,))
    write_report(analyse(lossy), tmp_path / "bench")
    rows = markdown_rows(tmp_path / "bench", "Not measured, or not to the end")
    assert [row["why"] for row in rows] == ["no \\| torch here", "was ended by SIGKILL"]
    assert "worker with 2 threads lost in round 2" in rows[1]["what"]


def test_the_report_names_no_person_machine_or_folder(report, tmp_path):
    for file in ("bench.json", "bench.md"):
        text = (report / file).read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.<])/\w+/", text)
        assert str(tmp_path.parent) not in text
        for name in (getpass.getuser(), socket.gethostname()):
            assert not re.search(rf"\b{re.escape(name)}\b", text)


def test_the_environment_says_what_was_measured_on(result):
    told = result.records.environment
    assert told["usable_cores"] in (1, usable_cores())
    assert told["packages"]["torch"] == torch.__version__
    assert set(told["worker_threads"]) == {"1", str(told["usable_cores"])}
    assert {
        "cpu",
        "ram_bytes",
        "system",
        "python",
        "load_average_before",
        "load_average_after",
    } <= told.keys()


def test_what_a_worker_imports_is_compiled_once(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = worker_environment(2)
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert (environment["OMP_NUM_THREADS"], environment["PYTHONSAFEPATH"]) == ("2", "1")


def test_one_thread_is_one_thread_in_the_environment():
    told = {"worker_cores": {"ort-cpu#2, 1": [0], "torch, 2": [0, 1]}}
    assert environment_table(told).rows == [
        ("cores of ort-cpu#2, 1 thread", "0"),
        ("cores of torch, 2 threads", "0, 1"),
    ]


def test_a_gpu_is_described_in_words_and_units():
    told = {
        "gpu": {"name": "NVIDIA H200", "compute_capability": "9.0", "memory_bytes": 150_109_880_320},
        "gpu_clocks": dataclasses.asdict(
            GpuClocks(sm_mhz=1980.0, memory_mhz=3201.0, temperature_c=37.0, power_w=None)
        ),
    }
    assert environment_table(told).rows == [
        ("gpu", "NVIDIA H200, compute capability 9.0, memory 150.1 GB"),
        ("gpu clocks", "sm 1980.0 MHz, memory 3201.0 MHz, temperature 37.0 °C, power not readable"),
    ]


# --- the command


def spoter_kit(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "spoter_toolkit", *map(str, arguments)]


QUICK = ("--quick", "--backend", "ort-cpu", "--frames", 4, "--scenario", "start,latency", "--no-floor")


def test_the_command_writes_a_report_and_never_over_another(small_bundle, tmp_path):
    command = spoter_kit(
        *("bench", small_bundle, *QUICK, "--threads", 1, "--seconds-per-case", 0.05, "-o", "out", "--json"),
        "--html",
    )
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(first.stdout)["timings"][0]["backend"] == "ort-cpu"
    assert "page: out/bench.html\n" in first.stderr
    assert (tmp_path / "out" / "bench.html").is_file()
    before = (tmp_path / "out" / "bench.json").read_bytes()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error: out: is there already. Fix: --force replaces it, or name another")
    assert (tmp_path / "out" / "bench.json").read_bytes() == before


@posix
def test_the_command_ends_with_1_when_a_worker_was_lost_and_keeps_the_rest(small_bundle, tmp_path):
    many = usable_cores() + 1  # a start-up has as many threads as there are cores
    command = spoter_kit(
        *("bench", small_bundle, *QUICK, "--threads", f"1,{many}", "--seconds-per-case", 0.4, "-o", "out")
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as bench:
        while (worker := worker_with(many)) is None:
            assert bench.poll() is None
            time.sleep(0.01)
        worker.kill()
        output, remarks = bench.communicate()
    assert bench.returncode == 1
    lost = f"error: 1 worker lost: ort-cpu, {many} threads: was ended by SIGKILL"
    assert lost in remarks
    assert "What was measured is in out" in remarks
    assert "for 1 clip of 4 frames" in output
    written = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    assert [failure["threads"] for failure in written["failures"]] == [many]
    assert any(timing["threads"] == 1 and len(timing["rounds_ns"]) == 8 for timing in written["timings"])


@posix
def test_ctrl_c_ends_the_command_with_130_and_a_report_of_what_was_measured(small_bundle, tmp_path, ctrl_c):
    many = usable_cores() + 1  # a start-up has as many threads as there are cores
    command = spoter_kit(
        *("bench", small_bundle, *QUICK, "--threads", many, "--seconds-per-case", 60, "-o", "out")
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes) as bench:
        while worker_with(many) is None:
            assert bench.poll() is None
            time.sleep(0.01)
        os.killpg(bench.pid, signal.SIGINT)  # as a terminal does: to all of the group
        output, remarks = bench.communicate()
    assert bench.returncode == 130, remarks
    assert remarks.startswith("stopping; what was measured is kept.")
    assert "note: stopped early, after 2 of 11 steps" in remarks
    assert remarks.endswith("stopped early; what was measured is in out\n")
    assert "Fresh process to its first answer" in output
    assert len(json.loads((tmp_path / "out" / "bench.json").read_text())["starts"][0]["samples"]) == 2


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_a_run_a_second_one_at_once_and_an_ignored_one_never(name):
    number = getattr(signal, name)
    kept = signal.signal(number, signal.SIG_DFL)
    try:
        with stopped_by_signal() as stop:
            signal.raise_signal(number)
            assert (stop.is_set(), stop.exit_code) == (True, 128 + number)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        signal.signal(number, signal.SIG_IGN)
        with stopped_by_signal() as stop:
            signal.raise_signal(number)
            assert not stop.is_set()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch", "1,x"), "--batch: expected whole numbers with commas, like 1,16, got '1,x'"),
        (("--threads", "0"), "threads: expected 1..256, got 0"),
        (("--backend", "tpu"), "unknown backend 'tpu'; there are torch, "),
        (("--backend", "ort_cpu"), "unknown backend 'ort_cpu'; did you mean 'ort-cpu'?"),
        (("--scenario", ""), "--scenario: expected names with commas, like latency,server, got ''"),
        (("--scenario", "start,,server"), "like latency,server, got 'start,,server'. Fix: name one at least"),
        (("--scenario", "ofline"), "unknown scenario 'ofline'; did you mean 'offline'?"),
        (
            ("--quick", "--rate", "5"),
            "--rate: is for the scenario server, which is not measured. Fix: --scenario start,latency,",
        ),
        (
            ("--scenario", "latency", "--find-rate"),
            "--find-rate: is for the scenario server, which is not measured. Fix: --scenario latency,server",
        ),
        (("--rate", "0"), "rate: expected more than 0 and at most 1e+06 clips a second, got 0"),
        (("--rate", "-3"), "rate: expected more than 0 and at most 1e+06 clips a second, got -3"),
        (("--rate", "0.1"), "rate 0.1: fewer than the 11 clips of a median come in 10 s"),
        (("--bound-ms", "nan"), "bound: expected more than 0 and at most 3.6e+06 ms, got nan"),
    ],
)
def test_a_wrong_option_is_one_clear_error(small_bundle, tmp_path, options, message):
    out = tmp_path / "out"
    ran = CliRunner().invoke(app, ["bench", str(small_bundle), *options, "-o", str(out)])
    assert isinstance(ran.exception, UsageError)
    assert message in str(ran.exception)
    assert not out.exists()


def test_a_wrong_option_is_answered_before_an_engine_or_a_picture_is_imported(small_bundle, tmp_path):
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from spoter_toolkit.cli.app import app\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'matplotlib', 'jinja2', 'spoter_export'}\n"
        "for pair in sys.argv[2:]:\n"
        "    words = ['bench', sys.argv[1], *pair.split('=')]\n"
        "    print(type(CliRunner().invoke(app, words).exception).__name__, *heavy & sys.modules.keys())\n"
    )
    options = ("--batch=1,x", "--frames=1000", "--against=none.json", "--lengths=none.json")
    command = [sys.executable, "-c", program, small_bundle, *options, f"-o={small_bundle}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answers = done.stdout.splitlines()
    assert len(answers) == 5
    assert all(re.fullmatch(r"[A-Z]\w+Error", answer) for answer in answers), (
        answers
    )  # and no module behind it
