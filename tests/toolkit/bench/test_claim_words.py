"""A difference is claimed only where it is sure, and a change of speed is flagged only where there is one."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from shutil import which

import numpy as np
import pytest

from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.statistics import Ratio
from spoter_toolkit.bench.analysis.claim_words import claim_in_words, explained
from spoter_toolkit.bench.analysis.drift import find_drift
from spoter_toolkit.bench.analysis.result import analyse
from spoter_toolkit.bench.analysis.serialize import values_from_result
from spoter_toolkit.bench.host.monitor import MachineRound, MachineWatch, core_mhz
from spoter_toolkit.bench.host.nvml import gpu_bytes, gpu_clocks, gpu_joules
from spoter_toolkit.bench.records import BenchRecords, Timing
from spoter_toolkit.bench.report.tables import tables
from spoter_toolkit.bench.settings import BenchSettings, Case
from spoter_toolkit.bench.statistics import paired_ratio


def rounds(factors, *, seed, between=0.03, within=0.05, calls=30):
    """Return rounds of calls of 1 ms times each round's factor; noise between and within the rounds."""
    generator = np.random.default_rng(seed)
    return [
        (1e6 * factor * np.exp(generator.normal(0, between) + generator.normal(0, within, calls)))
        .astype(int)
        .tolist()
        for factor in factors
    ]


def ratio(low, high, *, count=10, p=0.001):
    return Ratio(estimate=(low + high) / 2, low=low, high=high, rounds=count, p=p)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (ratio(1.18, 1.24), "1.21× as fast (1.18–1.24)"),
        (ratio(0.25, 0.45), "0.35× as fast (0.25–0.45)"),
        (ratio(0.98, 1.30), "no difference detectable (0.98–1.30)"),
        (ratio(1.005, 1.015), "no difference detectable (1.00–1.01)"),  # so may two processes of one program
        (ratio(1.04, 1.30, p=0.02), "not sure (1.04–1.30)"),
        (ratio(1.5, 1.6, count=7), "not enough rounds (1.50–1.60)"),  # p cannot be below 2 / 2**7
        (Ratio(estimate=2.0, low=None, high=None, rounds=5), "not enough rounds"),
    ],
)
def test_a_verdict_is_in_words(found, words):
    assert claim_in_words(found) == words
    assert (found.claim in ("faster", "slower")) == ("as fast" in words)


def test_a_verdict_that_claims_nothing_is_explained_below_its_table():
    """Seven rounds are one too few for a claim."""
    few = [Timing(backend=t.backend, case=CASE, rounds_ns=t.rounds_ns[:7]) for t in records().timings]
    (table,) = (
        t for t in tables(analyse(records(timings=tuple(few)))) if t.title.startswith("Times as fast")
    )
    assert table.note == (
        "not enough rounds: with fewer than 8 that agree nothing is claimed. Run again with --rounds 8 or "
        "more; for the start-up, without --quick."
    )
    (sure,) = (t for t in tables(analyse(records())) if t.title.startswith("Times as fast"))
    assert sure.note == ""
    assert explained(["not sure", "no difference detectable"]) == (
        "not sure: most rounds lean to one side, but not significantly (p > 0.01). "
        "Run again with more --rounds."
    )


def test_swapping_the_two_swaps_faster_and_slower():
    fast, slow = rounds([1.0] * 10, seed=1), rounds([1.2] * 10, seed=2)
    there, back = paired_ratio(slow, fast, seed=0), paired_ratio(fast, slow, seed=0)
    assert (there.claim, back.claim) == ("faster", "slower")
    assert [f"{one.estimate:.2f}× as fast" in claim_in_words(one) for one in (there, back)] == [True, True]
    assert there.estimate * back.estimate == pytest.approx(1)


@pytest.mark.parametrize("count", [8, 10, 20])
@pytest.mark.parametrize("between", [0.01, 0.05, 0.2])
def test_equal_backends_are_hardly_ever_told_apart(count, between):
    """400 pairs: the signed-rank test alone lets 4 through; the interval of 95 % alone about 20."""
    claims = 0
    for seed in range(400):
        pair = [rounds([1.0] * count, seed=2 * seed + side, between=between, calls=5) for side in (0, 1)]
        claims += paired_ratio(*pair, seed=seed).claim in ("faster", "slower")
    assert claims <= 12


def test_a_slow_down_by_a_tenth_is_found():
    found = 0
    for seed in range(100):
        ratio = paired_ratio(rounds([1.0] * 10, seed=2 * seed), rounds([1.1] * 10, seed=2 * seed + 1), seed=0)
        found += ratio.claim == "slower"
    assert found >= 85


# --- drift


def test_a_machine_that_becomes_slower_in_the_middle_is_flagged_with_the_round():
    for seed in range(20):
        drift = find_drift(rounds([1.0] * 5 + [1.4] * 5, seed=seed))
        assert (drift.kind, drift.rounds) == ("step", 10)
        assert drift.from_round in (5, 6, 7)
        assert 0.3 < drift.change < 0.5
    assert str(drift).startswith("step of +")


def test_a_machine_that_becomes_faster_is_flagged_too():
    assert find_drift(rounds([1.5] * 4 + [1.0] * 6, seed=3)).change < -0.2


def test_a_slow_rise_is_a_trend():
    drift = find_drift(rounds(np.linspace(1, 1.5, 12), seed=1, between=0.01))
    assert drift.kind == "trend"
    assert 0.4 < drift.change < 0.6
    assert str(drift) == f"trend of {drift.change:+.0%} over 12 rounds"


@pytest.mark.parametrize("between", [0.0, 0.03, 0.3])
@pytest.mark.parametrize("count", [6, 10, 25])
def test_a_noisy_machine_is_not_flagged(between, count):
    """300 honest series each, of which a thousandth may be flagged: more than four would be a defect."""
    flagged = sum(
        find_drift(rounds([1.0] * count, seed=seed, between=between)) is not None for seed in range(300)
    )
    assert flagged <= 4


def test_one_disturbed_round_is_no_drift():
    assert find_drift(rounds([1, 1, 1, 1, 3, 1, 1, 1, 1, 1], seed=0)) is None


def test_a_change_that_the_spread_within_the_rounds_explains_is_no_drift():
    """The medians alone would be a clean step of 10 %, but each of them is unsure by as much."""
    step = [1e6] * 5 + [1.1e6] * 5
    sure = [[int(ns * f) for f in (0.999, 1.0, 1.001)] for ns in step]
    unsure = [[int(ns * f) for f in (0.7, 1.0, 1.3)] for ns in step]
    assert find_drift(sure).change == pytest.approx(0.1, abs=1e-3)
    assert find_drift(unsure) is None


def test_too_few_rounds_and_too_small_a_change_are_no_drift():
    assert find_drift(rounds([1.0] * 2 + [2.0] * 3, seed=0)) is None
    assert find_drift([[1000, 1001]] * 5 + [[1030, 1031]] * 5) is None


# --- what a result says of it

CASE = Case(batch=1, frames=60, threads=1)
CONTRACT = GraphContract(labels=(Label(name="a"), Label(name="b")))


def as_tuples(series):
    return tuple(map(tuple, series))


def records(**changed):
    values = {
        "bundle": "tiny",
        "model_sha256": "0" * 64,
        "month": "2026-11",
        "settings": BenchSettings(backends=("torch", "ort-cpu"), threads=(1,), notebook=False),
        "contract": CONTRACT,
        "environment": {"usable_cores": 2, "packages": {}},
        "model_bytes": {},
        "timings": (
            Timing(backend="torch", case=CASE, rounds_ns=as_tuples(rounds([1.2] * 10, seed=0))),
            Timing(backend="ort-cpu", case=CASE, rounds_ns=as_tuples(rounds([1.0] * 10, seed=1))),
        ),
        "starts": {},
        "start_frames": 60,
        "skipped": {},
    }
    return BenchRecords(**(values | changed))


def machine(factors, **changed):
    """Return the machine before ten rounds; its fixed loop takes 2 ms times each factor."""
    values = {"scenario": "latency", "mhz": None, "steal_share": 0.0, "others_cores": 0.0, "gpu": None}
    return tuple(
        MachineRound(round=number, loop_ns=tuple(2 * ns for ns in loop_ns), **(values | changed))
        for number, loop_ns in enumerate(rounds(factors, seed=7, between=0.01, calls=7), 1)
    )


def test_a_quiet_run_has_no_caveat_and_its_verdict_in_table_and_json():
    quiet = analyse(records(machine=machine([1.0] * 10)))
    assert quiet.caveats == ()
    (comparison,) = values_from_result(quiet)["comparisons"]
    (table,) = (t for t in tables(quiet) if t.title.startswith("Times as fast"))
    ((_, _, pair, times, interval, _, claim),) = table.rows
    assert (pair, claim) == ("ort-cpu against torch", "faster")
    assert comparison["verdict"] == f"{times} as fast ({interval.replace(' – ', '–')})"


def test_a_machine_that_changes_its_speed_is_said_with_backend_case_and_round():
    slower = [1.0] * 5 + [1.5] * 5
    shifted = analyse(
        records(
            timings=(
                Timing(backend="torch", case=CASE, rounds_ns=as_tuples(rounds([1.2] * 10, seed=0))),
                Timing(backend="ort-cpu", case=CASE, rounds_ns=as_tuples(rounds(slower, seed=1))),
            ),
            machine=machine(slower),
        )
    )
    (caveat,) = shifted.caveats
    assert "the machine, a fixed loop before each round: step of +" in caveat
    assert "ort-cpu, 1 × 60 on 1 thread: step of +" in caveat
    assert "from round 6 of 10 on" in caveat
    assert "torch" not in caveat
    drifts = json.loads(json.dumps(values_from_result(shifted)))["drifts"]
    assert [(d["backend"], d["drift"]["from_round"]) for d in drifts] == [(None, 6), ("ort-cpu", 6)]
    (table,) = (t for t in tables(shifted) if t.title.startswith("Drift"))
    assert [row[0] for row in table.rows] == ["the machine", "ort-cpu"]


def test_other_load_and_stolen_time_are_said():
    busy = records(machine=machine([1.0] * 10, others_cores=0.8, steal_share=0.07))
    assert analyse(busy).caveats == (
        "other programs used up to 0.8 cores during the run (more than 0.25 in 10 of 10 rounds)",
        "other guests of the host took up to 7% of the processor in a round",
    )


def test_a_warm_up_that_did_not_settle_is_said():
    unsettled = records()
    one = replace(unsettled.timings[0], unsettled=(1, 4), warmup_calls=(9,) * 10)
    (caveat,) = analyse(replace(unsettled, timings=(one,))).caveats
    assert caveat.endswith("still moved by more than 5%: torch in 2 of 10 turns")
    once = replace(one, unsettled=(1,))
    assert analyse(replace(unsettled, timings=(once,))).caveats == ()


def test_the_watch_times_a_fixed_loop_and_sees_what_others_use():
    watch = MachineWatch()
    first = watch.look("latency", 1, [])
    assert len(first.loop_ns) >= 5
    assert all(ns > 0 for ns in first.loop_ns)
    assert (first.steal_share, first.others_cores) == (None, None)  # nothing to compare with
    second = watch.look("latency", 2, [])
    assert (second.scenario, second.round) == ("latency", 2)
    for share in (second.steal_share, second.others_cores):
        assert share is None or share >= 0
    assert core_mhz() is None or all(mhz > 0 for mhz in core_mhz())


@pytest.mark.skipif(which("nvidia-smi") is not None, reason="needs a machine without a GPU")
def test_without_a_driver_a_gpu_tells_nothing():
    assert gpu_clocks() is None
    assert gpu_bytes(1) is None


@pytest.mark.gpu
@pytest.mark.skipif(gpu_clocks() is None, reason="needs a GPU that NVML knows")
def test_a_gpu_tells_its_clocks_and_counts_its_energy():
    clocks = gpu_clocks()
    assert clocks.sm_mhz > 0
    assert clocks.memory_mhz > 0
    assert 0 < clocks.temperature_c < 120
    before = gpu_joules()
    time.sleep(0.5)
    assert all(now > then for now, then in zip(gpu_joules(), before, strict=True))
