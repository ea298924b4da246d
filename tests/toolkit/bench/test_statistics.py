from __future__ import annotations

import numpy as np
import pytest

from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import ConfigError
from spoter_runtime.machine import usable_cores
from spoter_runtime.statistics import ROUNDS_NEEDED, ROUNDS_TO_CLAIM
from spoter_toolkit.bench.settings import QUICK, BenchSettings, Case, notebook_case, settings_for
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED, paired_ratio, percentile_ms
from spoter_toolkit.report.words import format_sig3, slug, without_places

CONTRACT = GraphContract(labels=(Label(name="a"), Label(name="b")))


@pytest.mark.parametrize("percent", SAMPLES_NEEDED)
def test_a_percentile_needs_two_samples_beyond_it_with_99_percent_confidence(percent):
    q = percent / 100
    risk = [q**n + n * (1 - q) * q ** (n - 1) for n in range(1, 1000)]
    assert SAMPLES_NEEDED[percent] == 1 + next(i for i, value in enumerate(risk) if value <= 0.01)


def test_a_percentile_is_given_from_exactly_enough_samples_on():
    samples = [1_000_000 * n for n in range(1, 65)]
    assert percentile_ms(samples[:63], 90) is None
    assert percentile_ms(samples, 90) == pytest.approx(57.7)
    assert percentile_ms(samples, 99) is None
    assert percentile_ms(samples, 50) == pytest.approx(32.5)
    assert percentile_ms(samples[:10], 50) is None


def test_a_disturbance_of_both_backends_leaves_the_ratio_as_it_is():
    slow = [1, 1, 5, 30, 1, 1, 2]
    torch = [[300 * factor, 310 * factor, 900 * factor] for factor in slow]
    ort = [[100 * factor, 102 * factor] for factor in slow]
    ratio = paired_ratio(torch, ort, seed=0)
    assert ratio is not None
    assert ratio.estimate == pytest.approx(310 / 101)
    assert ratio.low == ratio.high == pytest.approx(310 / 101)


def test_the_ratio_interval_covers_the_true_ratio():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        machine = np.exp(generator.normal(0, 0.5, 10))  # what both meet in a round
        above, below = (
            [[float(t)] for t in 1e6 * factor * machine * np.exp(generator.normal(0, 0.1, 10))]
            for factor in (1.3, 1.0)
        )
        ratio = paired_ratio(above, below, seed=0)
        assert ratio is not None
        assert ratio.low is not None
        assert ratio.high is not None
        covered += ratio.low <= 1.3 <= ratio.high
        assert ratio.high / ratio.low < 1.6  # the machine's own swings are not in it
    assert covered >= 0.92 * 200


def test_the_same_seed_gives_the_same_interval():
    rounds = [[100 + 7 * n % 11, 105] for n in range(8)], [[50 + 5 * n % 13] for n in range(8)]
    assert paired_ratio(*rounds, seed=1) == paired_ratio(*rounds, seed=1)


def test_too_few_rounds_give_a_ratio_without_an_interval():
    rounds = [[10 + n] for n in range(ROUNDS_NEEDED)]
    enough = paired_ratio(rounds, rounds, seed=0)
    assert enough is not None
    assert enough.low == enough.high == 1.0
    few = paired_ratio(rounds[:-1], rounds, seed=0)
    assert few is not None
    assert (few.estimate, few.low, few.high, few.rounds) == (1.0, None, None, ROUNDS_NEEDED - 1)
    assert paired_ratio([], rounds, seed=0) is None


def test_the_cases_are_the_grid_and_the_notebooks_own():
    settings = BenchSettings(batches=(1, 2), frames=(5,), threads=(1,), curve=False)
    assert settings.cases(CONTRACT) == (
        Case(batch=1, frames=5, threads=1),
        Case(batch=2, frames=5, threads=1),
        Case(batch=16, frames=100, threads=usable_cores()),
    )
    holds_it = BenchSettings(batches=(16,), frames=(100,), threads=(usable_cores(),), curve=False)
    assert holds_it.cases(CONTRACT) == (notebook_case(usable_cores()),)


def test_what_nobody_asked_for_is_cut_to_what_the_bundle_takes():
    small = GraphContract(labels=CONTRACT.labels, max_frames=99, max_batch=8)
    settings = settings_for(small)
    assert (settings.batches, settings.frames) == ((1,), (30, 60))
    assert settings.cases(small)
    asked = settings_for(small, batches=(1, 16))
    with pytest.raises(ConfigError, match=r"batch 16: the bundle's contract takes 1\.\.8"):
        asked.cases(small)


def test_the_curves_are_along_lengths_and_batches_as_far_as_the_contract_goes():
    contract = GraphContract(labels=CONTRACT.labels, max_frames=99, max_batch=8)
    settings = BenchSettings(batches=(1,), frames=(30,), threads=(2, 1))
    cases = [case for case in settings.cases(contract) if case.threads == 1]
    assert len(cases) == len(set(cases))
    assert sorted(case.frames for case in cases if case.batch == 1) == [8, 16, 30, 60]
    assert sorted(case.batch for case in cases if case.frames == 60) == [1, 2, 4, 8]
    alone = BenchSettings(batches=(1,), frames=(30,), threads=(1,), curve=False)
    assert alone.cases(contract) == (Case(batch=1, frames=30, threads=1),)


def test_one_thread_and_all_cores_are_the_default():
    assert {case.threads for case in BenchSettings().cases(CONTRACT)} == {1, usable_cores()}


def test_every_round_measures_enough_calls_for_a_median():
    for rounds in (1, 2, 6, 10, 11, 50):
        settings = BenchSettings(rounds=rounds)
        assert settings.rounds * settings.min_calls_per_round >= SAMPLES_NEEDED[50]


def test_quick_settings_still_give_the_ratios_an_interval_and_a_verdict():
    assert BenchSettings(**QUICK).rounds >= ROUNDS_NEEDED
    assert BenchSettings(**QUICK).rounds >= ROUNDS_TO_CLAIM


def test_a_quick_look_has_a_limit_unless_its_rounds_are_asked_for():
    assert settings_for(CONTRACT).limit_s is None
    assert settings_for(CONTRACT, quick=True, batches=(1,)).limit_s == QUICK["limit_s"]
    for asked in ({"rounds": 8}, {"seconds_per_case": 1.0}):
        assert settings_for(CONTRACT, quick=True, **asked).limit_s is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backends": ("tpu",)}, r"unknown backend 'tpu'; there are torch, "),
        ({"backends": ("ort-cpu#x",)}, r"unknown backend 'ort-cpu#x'; did you mean 'ort-cpu'\?"),
        ({"backends": ("ort-cpu#2", "ort-cpu#2")}, r"backend: a value is named twice"),
        ({"scenarios": ("latancy",)}, r"unknown scenario 'latancy'; did you mean 'latency'\?"),
        ({"scenarios": ()}, r"scenario: expected at least one value"),
        ({"offline_batch": 0}, r"offline batch: expected 1 or more, got 0"),
        ({"rate": 0.0}, r"rate: expected more than 0 and at most 1e\+06 clips a second, got 0"),
        ({"bound_ms": -1.0}, r"bound: expected more than 0 and at most .* ms, got -1"),
        ({"backends": ()}, r"backend: expected at least one value"),
        ({"batches": (1, 1)}, r"batch: a value is named twice in 1, 1"),
        ({"batches": (0,)}, r"batch: expected 1 or more, got 0"),
        ({"frames": (-3,)}, r"frames: expected 1 or more, got -3"),
        ({"threads": (1, 5000)}, r"threads: expected 1\.\.256, got 5000"),
        ({"rounds": 0}, r"rounds: expected 1\.\.1000, got 0"),
        ({"starts": 0}, r"starts: expected 1\.\.1000, got 0"),
        ({"seconds_per_case": 0.0}, r"seconds per case: expected more than 0 and at most 3600 s, got 0"),
        ({"seconds_per_case": float("nan")}, r"seconds per case: .* got nan"),
        ({"reply_timeout_s": float("inf")}, r"reply timeout: .* got inf"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(values, message):
    with pytest.raises(ConfigError, match=message):
        BenchSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batches": (1, 33)}, r"batch 33: the bundle's contract takes 1\.\.32"),
        ({"frames": (300,)}, r"frames 300: the bundle's contract takes 1\.\.299"),
    ],
)
def test_a_case_beyond_the_contract_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        BenchSettings(**values).cases(CONTRACT)


def test_errors_lose_the_folders_that_name_people(tmp_path):
    spaced = tmp_path / "Ada Lovelace" / "runs" / "a"
    text = f'{spaced}: no such folder, see /home/ada/notes.txt and File "/usr/lib/x.py", or runs/a'
    assert without_places(text, spaced) == (
        '…/a: no such folder, see …/notes.txt and File "…/x.py", or runs/a'
    )
    assert without_places("3 / 4 and 1/2 of bundles/a.spoter/model.onnx") == (
        "3 / 4 and 1/2 of bundles/a.spoter/model.onnx"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Intel(R) Xeon(R) Processor", "intel-xeon"),
        ("Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", "intel-core-i7-1165g7"),
        ("AMD Ryzen 7 5800X 8-Core Processor", "amd-ryzen-7-5800x-8-core"),
        ("Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5-model-b-rev-1-0"),
        ("বাংলা", "unnamed"),
    ],
)
def test_a_processors_name_makes_a_folder_name(name, expected):
    assert slug(name) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (1.2345, "1.23"), (12.345, "12.3"), (123.45, "123"), (12345.6, "12346")],
)
def test_a_figure_has_three_significant_digits(value, text):
    assert format_sig3(value) == text
