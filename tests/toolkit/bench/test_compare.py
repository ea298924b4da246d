"""A build fails only where a run is surely slower than the earlier one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import ConfigError, DataError
from spoter_toolkit.bench.analysis.compare import (
    EarlierRun,
    bound_from_text,
    check_comparable,
    compare_runs,
    earlier_run,
)
from spoter_toolkit.bench.analysis.result import analyse
from spoter_toolkit.bench.analysis.serialize import values_from_result, without_samples
from spoter_toolkit.bench.host.monitor import MachineRound
from spoter_toolkit.bench.records import BenchRecords, Start, Timing
from spoter_toolkit.bench.settings import BenchSettings, Case
from spoter_toolkit.bench.statistics import unpaired_ratio

LOOK = {
    "scenario": "latency",
    "round": 1,
    "mhz": None,
    "steal_share": None,
    "others_cores": None,
    "gpu": None,
}
CASE = Case(batch=1, frames=60, threads=1)
CONTRACT = GraphContract(labels=(Label(name="a"), Label(name="b")))


def timing(scale=1.0, *, seed=0, rounds=10, backend="ort-cpu", case=CASE):
    """Return rounds of 20 calls of about 1 ms, noisy by 3 %, times `scale`."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(1e6 * scale, 3e4 * scale, (rounds, 20)).astype(int)
    rounds_ns = tuple(tuple(map(int, row)) for row in samples)
    return Timing(backend=backend, case=case, rounds_ns=rounds_ns)


def records(*timings):
    start = Start(total_ns=4, import_ns=1, load_ns=1, first_ns=1)
    return BenchRecords(
        bundle="tiny",
        model_sha256="0" * 64,
        month="2026-11",
        settings=BenchSettings(backends=("ort-cpu", "ort-cpu#2")),
        contract=CONTRACT,
        environment={"usable_cores": 1, "packages": {}},
        model_bytes={"ort-cpu": 1},
        timings=timings,
        starts={"ort-cpu": (start,)},
        start_frames=60,
        skipped={},
    )


def written(measured, *, samples=True):
    values = values_from_result(analyse(measured))
    return json.dumps(values if samples else without_samples(values))


def judged(now, before, text="p50 > 1.05"):
    (gate,) = compare_runs(records(now), earlier(before), bound_from_text(text)).gates
    return gate


def earlier(before, loop_ms=None):
    environment = {"packages": {}}
    timings = {(before.backend, before.case): before}
    return EarlierRun(model_sha256="", environment=environment, timings=timings, loop_ms=loop_ms)


def test_a_run_that_is_a_tenth_slower_is_beyond_and_the_same_again_is_within():
    assert judged(timing(1.10, seed=1), timing()).verdict == "beyond"
    assert judged(timing(1.00, seed=1), timing()).verdict == "within"


def test_without_a_bound_the_medians_are_compared_and_nothing_is_judged():
    before = timing()
    against = compare_runs(records(timing(2.0, seed=1)), earlier(before), None)
    (gate,) = against.gates
    assert gate.verdict is None
    assert gate.ratio == judged(timing(2.0, seed=1), before).ratio
    assert against.note == (
        "Compared: the median of a call, of every backend and case that both runs have. Nothing fails: that "
        "takes a bound, such as --fail-if 'p50 > 1.05'."
    )


def test_a_difference_at_the_limit_is_not_claimed():
    gate = judged(timing(1.05, seed=2), timing())
    assert gate.verdict == "cannot tell"
    assert gate.ratio.low < 1.05 < gate.ratio.high


def test_too_few_rounds_tell_nothing():
    assert judged(timing(2.0, rounds=5), timing()).verdict == "cannot tell"


def test_fewer_clips_a_second_can_be_the_bound():
    assert judged(timing(1.3, seed=1), timing(), "clips_per_s < 0.9").verdict == "beyond"
    assert judged(timing(0.7, seed=1), timing(), "clips_per_s < 0.9").verdict == "within"


def test_the_same_program_twice_is_hardly_ever_called_slower():
    """400 pairs of equal runs against a bound of 1.0: a one-sided tail of 1 % gives about 4."""
    claims = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        ratio = unpaired_ratio(rng.normal(1, 0.03, 10), rng.normal(1, 0.03, 10), seed=seed)
        claims += ratio.low > 1.0
    assert claims <= 16


def test_a_written_report_is_read_back(tmp_path):
    (tmp_path / "bench.json").write_text(written(records(timing())))
    assert earlier_run(tmp_path).timings == {("ort-cpu", CASE): timing()}
    assert earlier_run(tmp_path / "bench.json") == earlier_run(tmp_path)


def test_a_report_of_an_older_spoter_kit_is_read_and_todays_has_its_keys():
    """Written by the command before the analysis became one object; shortened to a few calls a round."""
    stored = Path(__file__).parent / "bench-of-2026-11.json"
    old = json.loads(stored.read_text(encoding="utf-8"))
    read = earlier_run(stored)
    assert [backend for backend, _ in read.timings] == ["ort-cpu", "ort-cpu#2"]
    (mine, other) = read.timings.values()
    now = replace(records(mine, other), environment=read.environment, model_sha256=read.model_sha256)
    against = compare_runs(now, read, bound_from_text("p50 > 1.05"))
    assert [gate.ratio.estimate for gate in against.gates] == [1.0, 1.0]
    assert against.differences == ()
    today = json.loads(written(replace(now, roofline=(mine,), machine=(MachineRound(**LOOK, loop_ns=(1,)),))))
    assert list(today) == list(old)
    for name in ("timings", "comparisons", "floor", "machine"):
        assert list(today[name][0]) == list(old[name][0])
    assert list(today["comparisons"][0]["ratio"]) == list(old["comparisons"][0]["ratio"])


def test_what_else_differs_from_the_earlier_run_is_said(tmp_path):
    here = {"cpu": "A", "usable_cores": 2, "packages": {"torch": "2.13.0", "onnxruntime": None}}
    there = {"cpu": "B", "usable_cores": 2, "packages": {"torch": "2.12.0", "onnxruntime": "1.32"}}
    looks = [MachineRound(**LOOK, loop_ns=(ns,)) for ns in (2_000_000, 2_300_000)]
    now = replace(records(timing()), environment=here, machine=looks[:1])
    then = replace(records(timing()), environment=there, machine=looks[1:], model_sha256="f" * 64)
    (tmp_path / "bench.json").write_text(written(then))
    assert compare_runs(now, earlier_run(tmp_path), None).differences == (
        "model: ffffffffffff… → 000000000000…",
        "cpu: B → A",
        "torch: 2.12.0 → 2.13.0",
        "onnxruntime: 1.32 → not installed",
        "a fixed loop of Python: 2.30 ms → 2.00 ms",
    )
    (tmp_path / "bench.json").write_text(written(now))
    assert compare_runs(now, earlier_run(tmp_path), None).differences == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"bench\.json: is no JSON \(.*\), expected the report of a bench\. Fix: name the bench\.json"),
        ('{"proofs": []}', "bench.json: is the facts of a parity run, expected the report of a bench"),
        ("{}", "'schema_version' is missing"),
        ("[]", "the file: .*, expected a table"),
        (
            written(records(timing())).replace('"environment": {', '"environment": "x", "e": {'),
            "environment: 'x'",
        ),
        (json.dumps({"schema_version": 99}), "schema version 99, this spoter-kit reads"),
        (written(records(timing()), samples=False), "rounds_ns"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, content, message):
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(DataError, match=message):
        earlier_run(tmp_path)


def test_a_report_that_is_not_there_is_named_with_what_to_name_instead(tmp_path):
    with pytest.raises(DataError, match=r"/bench\.json: no such file, expected the report .* -o wrote$"):
        earlier_run(tmp_path)
    with pytest.raises(DataError, match=r"none: no such file, expected the report of a bench\. Fix: name"):
        earlier_run(tmp_path / "none")


def test_runs_without_a_common_case_cannot_be_compared():
    other = timing(case=replace(CASE, frames=30))
    with pytest.raises(DataError, match="no backend and case in common"):
        judged(timing(), other)


@pytest.mark.parametrize("text", ["p50", "p99 > 1.05", "p50 > x", "p50 >= 1", "p50 > 1.05; rm", ""])
def test_a_wrong_bound_is_refused_with_a_right_one(text):
    with pytest.raises(ConfigError, match=r"Fix: 'p50 > 1\.05'"):
        bound_from_text(text)


@pytest.mark.parametrize(
    ("text", "slower", "verdict"),
    [
        ("p50 > 1.05", 2.0, "cannot tell"),  # the machine's, or the program's: nobody knows
        ("p50 > 1.05", 4.0, "beyond"),  # twice as slow even with the machine's share taken out
        ("p50 > 5", 2.0, "within"),
        ("clips_per_s < 0.95", 2.0, "cannot tell"),
        ("clips_per_s < 0.95", 4.0, "beyond"),
    ],
)
def test_a_machine_that_has_become_slower_is_not_blamed_on_the_program(text, slower, verdict):
    before = timing()
    now = replace(records(timing(slower, seed=1)), machine=(MachineRound(**LOOK, loop_ns=(2_000_000,)),))
    (gate,) = compare_runs(now, earlier(before, loop_ms=1.0), bound_from_text(text)).gates
    assert gate.verdict == verdict


def test_the_machine_counts_as_it_was_while_the_compared_times_were_taken():
    before = timing()
    slow = MachineRound(**LOOK, loop_ns=(2_000_000,))
    fast = [MachineRound(**LOOK | {"scenario": "offline"}, loop_ns=(1_000_000,)) for _ in range(9)]
    now = replace(records(timing(2.0, seed=1)), machine=(slow, *fast))
    (gate,) = compare_runs(now, earlier(before, loop_ms=1.0), bound_from_text("p50 > 1.05")).gates
    assert gate.verdict == "cannot tell"


def test_nothing_to_compare_is_found_before_the_measuring():
    contract = GraphContract(labels=(Label(name="a"), Label(name="b")), max_frames=99, max_batch=8)
    before = earlier(timing())
    settings = BenchSettings(backends=("ort-cpu",), batches=(1,), frames=(60,), threads=(1,))
    check_comparable(before, settings, contract)
    for other in (replace(settings, backends=("torch",)), replace(settings, scenarios=("start",))):
        with pytest.raises(DataError, match="no backend and case of the scenario latency in common"):
            check_comparable(before, other, contract)
