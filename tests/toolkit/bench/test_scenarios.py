"""The scenarios on clips of different lengths, the floor, the meters, and workers that are lost."""

from __future__ import annotations

import json
import math
import re
import signal
from dataclasses import replace

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper

from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.errors import BackendError
from spoter_runtime.statistics import ROUNDS_NEEDED, ROUNDS_TO_CLAIM
from spoter_toolkit.bench.analysis.result import analyse
from spoter_toolkit.bench.analysis.serialize import values_from_result, without_samples
from spoter_toolkit.bench.records import PADDING_STRATEGIES, HighestRate, Served, ServerRecord
from spoter_toolkit.bench.report.summary import summary_of
from spoter_toolkit.bench.report.tables import tables
from spoter_toolkit.bench.run import run_bench
from spoter_toolkit.bench.scenarios import steps as steps_left
from spoter_toolkit.bench.scenarios.offline import batches_of, padding_of
from spoter_toolkit.bench.scenarios.server import SEARCH_STEPS
from spoter_toolkit.bench.scenarios.steps import Step, Steps
from spoter_toolkit.bench.settings import BenchSettings
from spoter_toolkit.bench.worker.client import start_worker
from spoter_toolkit.bench.worker.energy import Reading, read_meters, used_joules, why_not_readable
from spoter_toolkit.bench.worker.roofline import Product, ProductFinder, Roofline
from spoter_toolkit.data.lengths import (
    ClipLengths,
)


def settings(*scenarios, **changed):
    """Return settings for a run of seconds on the small bundle."""
    few = {
        "backends": ("ort-cpu",),
        "batches": (1,),
        "frames": (5,),
        "threads": (1,),
        "curve": False,
        "floor": False,
        "rounds": 2,
        "seconds_per_case": 0.02,
        "starts": 1,
        "offline_seconds": 0.01,
        "server_seconds": 1.0,
    }
    return BenchSettings(scenarios=scenarios, **(few | changed))


# --- offline


def test_three_ways_of_padding_the_same_clips():
    lengths = (10, 40, 20, 30, 10)
    plans = {way: batches_of(lengths, 2, way) for way in PADDING_STRATEGIES}
    in_order = ((10, 40), (20, 30), (10,))
    assert plans == {
        "longest": (in_order, (40, 40, 40)),
        "batch": (in_order, (40, 30, 10)),
        "sorted": (((10, 10), (20, 30), (40,)), (10, 30, 40)),
    }
    padding = [padding_of(*plans[strategy]) for strategy in PADDING_STRATEGIES]
    assert padding == pytest.approx([1 - 110 / 200, 1 - 110 / 150, 1 - 110 / 120])


@pytest.fixture(scope="module")
def measured(bundle_folder):
    """The scenarios of many clips, on two workers of one backend, as the command would run them."""
    steps = []
    lengths = ClipLengths(counts={5: 40, 20: 30, 60: 26}, source="a test")
    asked = settings(
        *("offline", "server"),
        backends=("ort-cpu", "ort-cpu#2"),
        lengths=lengths,
        rounds=ROUNDS_NEEDED,
        rate=120.0,
        find_rate=True,
        server_seconds=1.0,
    )
    result = run_bench(bundle_folder, asked, on_progress=lambda *step: steps.append(step))
    return result, steps


def test_the_time_that_is_left_is_that_of_the_backends_that_run(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(steps_left.time, "monotonic", lambda: now[0])
    steps, start, call = Steps(), Step("start"), Step("latency", 0.5)
    for name in ("torch", "trt"):
        for step in (start, start, *[call] * 100):
            steps.plan(name, step)

    def take(name, step, took):
        now[0] += took
        return steps.take(name, step)

    assert take("torch", start, 4.0)
    assert steps.time_left() == ""  # nobody knows yet whether trt runs
    steps.drop("trt")
    assert not take("trt", start, 30.0)
    assert (steps.done, steps.total) == (1, 102)
    assert steps.time_left() == "  about 2 minutes left"  # 4 s, and 50 s with their warm-up
    assert take("torch", start, 4.0)
    assert take("torch", call, 0.6)
    assert steps.time_left() == "  about 60 seconds left"  # 99 steps as the one
    for _ in range(99):
        take("torch", call, 0.6)
    assert (steps.done, steps.total, steps.time_left()) == (102, 102, "")


def test_the_time_that_is_left_is_that_of_each_kind_of_step_and_at_most_the_limit(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(steps_left.time, "monotonic", lambda: now[0])
    steps, passes = Steps(), Step("offline", 0.1, needed=False)
    calls = [Step("latency", 0.1, needed=number < 6) for number in range(20)]
    for step in (*calls, *[passes] * 20):
        steps.plan("torch", step)
    for step, took in ((calls[0], 1.0), (passes, 20.0)):
        now[0] += took
        steps.take("torch", step)
    assert steps.time_left() == "  about 7 minutes left"  # 19 steps as the one, 19 as the other
    assert steps.time_left(40.0) == "  about 40 seconds left"
    assert steps.time_left(-3.0) == "  about 10 seconds left"  # five calls for an interval


def test_a_second_worker_of_a_backend_is_measured_beside_the_first(measured):
    result, steps = measured
    assert result.records.backends == ["ort-cpu", "ort-cpu#2"]
    assert [done for done, _, _ in steps] == list(range(len(steps)))
    assert {total for _, total, _ in steps} == {len(steps) - 1}
    what = [(c.what, c.ratio.rounds) for c in result.comparisons]
    ways = ["padded to the longest clip", "padded to the batch's longest", "sorted by length, in batches"]
    assert what == [(f"offline, {way}", 6) for way in ways] + [("server", 6)]


def test_offline_counts_the_clips_of_every_pass(measured):
    result, _ = measured
    assert [(o.strategy, o.backend) for o in result.records.offline] == [
        (way, backend) for way in PADDING_STRATEGIES for backend in result.records.backends
    ]
    for passes in result.records.offline:
        assert (passes.clips, len(passes.rounds_ns)) == (96, 6)
        total_s = sum(map(sum, passes.rounds_ns)) / 1e9
        assert passes.clips_per_s == pytest.approx(96 * passes.passes / total_s)
    longest, batch, ordered = (
        next(o for o in result.records.offline if o.strategy == way) for way in PADDING_STRATEGIES
    )
    assert longest.padding > batch.padding > ordered.padding
    assert ordered.clips_per_s > longest.clips_per_s


def test_the_server_meets_the_stated_rate_and_counts_from_when_clips_were_due(measured):
    result, _ = measured
    one, other = result.records.server.served
    assert one.rate == other.rate == 120.0
    assert one.clips == other.clips == pytest.approx(120, rel=0.4)
    for served in (one, other):
        assert served.percentile_ms(99) is None  # 120 clips are not enough
        assert served.percentile_ms(50) > 0
        assert 0 <= served.share_within <= 1
        assert served.achieved_rate <= 1.01 * served.clips / 1.0


def test_the_highest_rate_is_found_by_halving_and_keeps_the_bound(measured):
    result, _ = measured
    for found in result.records.server.highest:
        assert len(found.trials) == SEARCH_STEPS
        assert found.trials[0][0] == pytest.approx(result.records.server.capacity[found.backend] / 2)
        kept = [rate for rate, _, held in found.trials if held]
        broken = [rate for rate, _, held in found.trials if not held]
        assert found.rate == max(kept, default=None)
        assert not kept or not broken or max(kept) < min(broken)


def test_json_and_tables_hold_the_scenarios(measured):
    result, _ = measured
    written = json.loads(json.dumps(values_from_result(result), allow_nan=False))
    assert len(written["offline"]) == 6
    assert written["server"]["served"][0]["rate"] == 120.0
    assert written["lengths"]["source"] == "a test"
    titles = [table.title.partition(",")[0].partition(";")[0] for table in tables(result)]
    drifted = [title for title in titles if title.startswith("Drift")]  # the machine may change its speed
    assert len(drifted) == bool(result.drifts)
    assert [title for title in titles if title not in drifted] == [
        "Times as fast",
        "Many clips at once",
        "Single clips at random times",
        "Highest rate of arriving clips that keeps the latency within 33 ms",
    ]


def test_what_was_found_in_the_scenarios_is_told_in_sentences(measured):
    result, _ = measured
    at_once, arriving, kept = summary_of(result)
    assert re.match(
        r"96 clips at once, sorted by length, in batches: ort-cpu [\d.]+ clips a "
        r"second, ort-cpu#2 [\d.]+ clips a second\. ort-cpu#2 against ort-cpu: ",
        at_once,
    )
    assert re.match(
        r"Single clips at random times, 120 a second, from when each was due: ort-cpu median [\d.]+ ms, "
        r"[\d.]+% within 33 ms; ort-cpu#2 median",
        arriving,
    )
    assert re.match(r"The bound of 33 ms is kept by ort-cpu (up to [\d.]+ a second|at no rate), ort", kept)


def test_a_server_that_answers_too_few_clips_for_a_median_says_so(measured):
    result, _ = measured
    few, late = served([[5.0] * 4], (0,)), served([[5.0] * 20], (80,), backend="ort-cpu#2")
    server = ServerRecord(capacity={}, served=(few, late), highest=())
    (told,) = summary_of(analyse(replace(result.records, offline=(), server=server)))
    assert "ort-cpu too few clips for a median, 100.0% within 33 ms; " in told
    assert told.endswith("ort-cpu#2 no answer for most clips, 20.0% within 33 ms.")


def served(rounds_ms, unanswered, **changed):
    values = {
        "backend": "ort-cpu",
        "threads": 1,
        "rate": 10.0,
        "bound_ms": 33.0,
        "rounds_ns": tuple(tuple(int(1e6 * ms) for ms in latencies) for latencies in rounds_ms),
        "unanswered": unanswered,
        "elapsed_ns": (1_000_000_000,) * len(rounds_ms),
    }
    return Served(**(values | changed))


def test_a_clip_without_an_answer_is_not_within_the_bound():
    one = served([[10.0] * 40, [30.0] * 30], (0, 30))
    assert one.clips == 100
    assert one.share_within == 0.7
    assert one.percentile_ms(50) == 30.0
    assert one.percentile_ms(90) == math.inf
    assert one.achieved_rate == 35.0


def test_an_overloaded_server_is_said_and_not_compared(measured):
    result, _ = measured
    one, other = result.records.server.served
    late_server = ServerRecord(
        capacity=result.records.server.capacity, served=(replace(one, unanswered=(9,) * 6), other), highest=()
    )
    overloaded = analyse(replace(result.records, server=late_server))
    assert "server" not in [c.what for c in overloaded.comparisons]
    assert any(
        f"could not keep up with 120 clips a second: 54 of {late_server.served[0].clips}" in caveat
        for caveat in overloaded.caveats
    )


def test_a_percentile_without_a_figure_tells_too_few_samples_from_no_answer(measured):
    result, _ = measured
    one = served([[10.0] * 40, [30.0] * 30], (0, 30))
    trials = ((8.0, math.inf, False), (4.0, None, False), (2.0, 3.0, True))
    highest = HighestRate(backend="ort-cpu", percent=90, rate=2.0, trials=trials)
    server = ServerRecord(capacity={"ort-cpu": 9.0}, served=(one,), highest=(highest,))
    late = analyse(replace(result.records, server=server))
    told = json.loads(json.dumps(without_samples(values_from_result(late)), allow_nan=False))["server"]
    (row,) = told["served"]
    assert [row[f"p{percent}_ms"] for percent in (50, 90, 99)] == [30.0, None, None]
    no_answer = "no answer: it lies among the clips without one"
    assert row["why_null"] == {"p90_ms": no_answer, "p99_ms": "too few samples: 100, needed 662"}
    assert [why for *_, why in told["highest_rate"][0]["trials"]] == [no_answer, "too few samples", None]
    (table,) = (t for t in tables(late) if t.title.startswith("Single clips"))
    assert table.rows[0][4:7] == ("30.0", "no answer (30 of 100 had none)", "too few samples (100)")


# --- a limited time


def test_where_the_time_is_over_one_clip_gets_the_rounds_of_a_claim_and_nothing_else(bundle_folder):
    asked = settings(
        *("start", "latency", "offline", "memory"),
        frames=(5, 9),
        threads=(1, 2),
        rounds=9,
        starts=3,
        limit_s=1e-9,
    )
    told = []
    result = run_bench(bundle_folder, asked, on_progress=lambda *step: told.append(step))
    (timing,) = result.records.timings
    assert (str(timing.case), len(timing.rounds_ns)) == ("1 × 9 on 1 thread", ROUNDS_TO_CLAIM)
    assert [len(starts) for starts in result.records.starts.values()] == [1]
    assert result.records.offline == ()
    done, of = result.records.cut_after
    assert done == 1 + 1 + ROUNDS_TO_CLAIM
    assert result.caveats[0].startswith(f"1e-09 s were over after {done} of {of} steps, --rounds 9 measures")
    assert values_from_result(result)["stopped_after"] == {"steps": done, "of": of}
    kinds = [what.partition(":")[0].split(" ")[0] for _, _, what in told[1:]]
    # The headline comes first: a run that is stopped early has it.
    assert list(dict.fromkeys(kinds)) == ["loading", "round", "start-up"]
    assert told[-1][2].endswith("about 10 seconds left") or not told[-1][2].endswith("left")


# --- workers that are lost


@pytest.mark.parametrize(
    ("scenario", "moment", "doing"),
    [
        (
            "offline",
            "offline, round 1 of 2: ort-cpu, sorted by length, in batches",
            "offline round 2, padded to the longest clip",
        ),
        ("server", "server: capacity of ort-cpu#2", "server round 1"),
        ("server", "server, round 1 of 2: ort-cpu", "server round 2"),
        ("memory", "memory: ort-cpu, 1 × 5 on 1 thread", "reading its memory"),
    ],
)
def test_a_worker_that_dies_in_any_scenario_is_named_and_the_other_goes_on(
    bundle_folder, scenario, moment, doing
):
    killed = []

    def kill_first(done, total, what):
        if what.startswith(moment) and not killed:
            for child in psutil.Process().children():
                if child.cmdline()[3:5] == ["ort-cpu", "1"]:
                    killed.append(child)
            killed[0].send_signal(signal.SIGKILL)

    asked = settings(scenario, backends=("ort-cpu", "ort-cpu#2"), rate=40.0)
    result = run_bench(bundle_folder, asked, on_progress=kill_first)
    (failure,) = result.records.failures
    assert (failure.backend, failure.doing) == ("ort-cpu", doing)
    assert "ended by SIGKILL" in failure.reason
    whole = [
        *(passes for passes in result.records.offline if len(passes.rounds_ns) == 2),
        *(
            one
            for one in (result.records.server.served if result.records.server else ())
            if len(one.rounds_ns) == 2
        ),
        *(memory for memory in result.records.memory if memory.pss),
    ]
    assert {one.backend for one in whole} >= {"ort-cpu#2"}


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="needs Linux's prlimit")
def test_a_worker_that_runs_out_of_memory_is_named(bundle_folder):
    limited = []

    def limit(done, total, what):
        if what == "loading: ort-cpu, 1 thread":
            (child,) = (c for c in psutil.Process().children() if c.cmdline()[3:4] == ["ort-cpu"])
            held = child.memory_info().vms
            child.rlimit(psutil.RLIMIT_AS, (held, held))
            limited.append(child.pid)

    asked = settings("offline", backends=("ort-cpu", "ort-cpu#2"))
    asked_of_one = BenchSettings(**{f: getattr(asked, f) for f in asked.__slots__} | {"offline_batch": 8})
    result = run_bench(bundle_folder, asked_of_one, on_progress=limit)
    assert limited
    (failure,) = result.records.failures
    assert failure.backend == "ort-cpu"
    assert "emory" in failure.reason or "bad_alloc" in failure.reason or "alloc" in failure.reason
    assert {passes.backend for passes in result.records.offline} >= {"ort-cpu#2"}


def test_nothing_measured_in_a_scenario_is_an_error(bundle_folder):
    with pytest.raises(BackendError, match=r"nothing was measured:\n  ort-cpu: loading the model: no answer"):
        run_bench(bundle_folder, settings("offline", reply_timeout_s=0.001))


# --- the GEMM roofline


POSES_AND_LENGTHS = {
    "poses": (TensorProto.FLOAT, ["batch", "frames", 108]),
    "lengths": (TensorProto.INT32, ["batch"]),
}


@pytest.fixture
def products(onnx_model):
    """A model of a product by a weight, one of two operands, and a Gemm with a transposed weight."""
    nodes = [
        helper.make_node("MatMul", ["poses", "w"], ["a"]),  # (N, T, 4)
        helper.make_node("Transpose", ["a"], ["at"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "at"], ["b"]),  # (N, T, T)
        helper.make_node("ReduceMean", ["a", "one"], ["c"], keepdims=0),  # (N, 4)
        helper.make_node("Gemm", ["c", "v"], ["d"], transB=1),  # (N, 3)
        helper.make_node("ReduceSum", ["b"], ["e"], keepdims=0),
        helper.make_node("Add", ["d", "e"], ["logits"]),
    ]
    weights = {"w": np.ones((108, 4), np.float32), "v": np.ones((3, 4), np.float32), "one": np.array([1])}
    logits = {"logits": (TensorProto.FLOAT, ["batch", 3])}
    return ProductFinder(onnx_model(nodes, POSES_AND_LENGTHS, logits, weights).SerializeToString())


def test_the_roofline_has_every_product_of_the_model_with_its_operands(products):
    found = products.find(6, 50)
    assert found == [
        Product(
            kind="MatMul",
            shapes=((6, 50, 108), (108, 4)),
            weights=(False, True),
            result=(6, 50, 4),
        ),
        Product(
            kind="MatMul",
            shapes=((6, 50, 4), (6, 4, 50)),
            weights=(False, False),
            result=(6, 50, 50),
        ),
        Product(
            kind="Gemm",
            shapes=((6, 4), (3, 4)),
            weights=(False, True),
            result=(6, 3),
            transposed=(False, True),
        ),
    ]


def test_the_shapes_are_those_the_model_has_when_it_runs(bundle_folder):
    """At a size far from where they were looked up; one of them is the frames and the class token."""
    bundle = read_bundle(bundle_folder)
    found = ProductFinder(bundle.read(bundle.onnx().path)).find(7, 90)
    assert {p.shapes for p in found if p.weights == (False, False)} >= {((7, 4, 91, 9), (7, 4, 9, 91))}
    assert sum(p.weights == (False, True) for p in found) >= 2 * 6  # two layers


def test_a_model_without_a_product_has_no_roofline(onnx_model):
    logits = {"logits": (TensorProto.FLOAT, ["batch", "frames", 108])}
    model = onnx_model([helper.make_node("Identity", ["poses"], ["logits"])], POSES_AND_LENGTHS, logits)
    with pytest.raises(BackendError, match="has no MatMul or Gemm: there is no roofline"):
        Roofline(model.SerializeToString(), 1)


def test_the_roofline_takes_turns_and_every_backend_of_the_processor_is_a_multiple_of_it(bundle_folder):
    asked = settings("latency", batches=(1, 8), frames=(60,), floor=True, rounds=6)
    result = run_bench(bundle_folder, asked)
    assert [(t.backend, t.case.batch, len(t.rounds_ns)) for t in result.records.roofline] == [
        ("floor", 1, 6),
        ("floor", 8, 6),
    ]
    assert result.records.backends == ["ort-cpu"]
    ratios = result.roofline_ratios
    assert [r.case.batch for r in ratios] == [1, 8]
    assert all(r.ratio.estimate > 1 for r in ratios)  # the products are a part of the model
    (table,) = (t for t in tables(result) if t.title.startswith("Against the limit"))
    assert [row[4] for row in table.rows] == [f"{r.ratio.estimate:.2f}×" for r in ratios]


# --- pinned cores


@pytest.mark.skipif(not hasattr(psutil.Process, "cpu_affinity"), reason="needs an affinity to set")
def test_a_pinned_worker_tells_its_cores(bundle_folder):
    core = psutil.Process().cpu_affinity()[-1]
    options = {"cores": [core]}
    with start_worker(bundle_folder, "ort-cpu", 1, timeout_s=60, options=options) as worker:
        assert worker.answer()["cores"] == [core]
        assert psutil.Process(worker.pid).cpu_affinity() == [core]
    result = run_bench(bundle_folder, settings("memory", pin=True))
    assert result.records.environment["worker_cores"] == {"ort-cpu, 1": [psutil.Process().cpu_affinity()[0]]}


# --- energy


def zone(folder, name, counted_uj, wraps_uj=1_000_000_000):
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{counted_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_uj}\n")


def test_the_packages_are_read_and_what_is_inside_them_is_not_counted_twice(tmp_path):
    zone(tmp_path / "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path / "intel-rapl:0:0", "core", 3_000_000)
    assert read_meters(tmp_path) == {"package-0": Reading(joules=5.0, wraps_at=1000.0)}
    assert why_not_readable(tmp_path) is None


def test_a_counter_that_began_again_is_continued():
    before = {"package-0": Reading(joules=990.0, wraps_at=1000.0), "gone": Reading(joules=1, wraps_at=None)}
    after = {"package-0": Reading(joules=15.0, wraps_at=1000.0)}
    assert used_joules(before, after) == {"package-0": 25.0}


@pytest.mark.skipif(why_not_readable() is None, reason="needs a machine whose meters cannot be read")
def test_energy_alone_where_no_meter_can_be_read_is_an_error_with_the_reason(bundle_folder):
    with pytest.raises(BackendError, match=r"nothing was measured:\n  energy: .*RAPL.*; NVML: "):
        run_bench(bundle_folder, settings("energy"))


def test_why_energy_cannot_be_read_is_said_with_the_fix(tmp_path):
    assert "shows no RAPL zone" in why_not_readable(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir(parents=True)  # is there, and cannot be read
    assert f"Fix: sudo chmod a+r {tmp_path}/intel-rapl:0/energy_uj" in why_not_readable(tmp_path)
    assert "NVML: " in why_not_readable(tmp_path)
