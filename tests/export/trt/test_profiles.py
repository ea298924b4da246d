"""Profiles and buckets: the cheapest for the clips at hand, and every shape that the model takes."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from spoter_export.trt.profiles import check_profiles, parse_profile, plan_profiles
from spoter_runtime.contract import GraphContract, Label, Profile, uncovered
from spoter_runtime.errors import ConfigError, InputError

CONTRACT = GraphContract(labels=(Label(name="a"), Label(name="b")))
SIGNS = np.random.default_rng(0).normal(60, 20, 400).clip(5, 290).astype(int).tolist()


def padded_frames(lengths, buckets):
    return sum(min(bucket for bucket in buckets if bucket >= length) for length in lengths)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_other_buckets_pad_fewer_frames(seed, count):
    lengths = np.random.default_rng(seed).integers(1, 13, 30).tolist()
    plan = plan_profiles(lengths, replace(CONTRACT, max_frames=13), buckets=count)
    others = itertools.combinations(range(1, 13), count - 1)
    fewest = min(padded_frames(lengths, (*ends, 13)) for ends in others)
    assert padded_frames(lengths, plan.buckets) == fewest


@pytest.mark.parametrize("count", [1, 2, 8, 300])
@pytest.mark.parametrize("lengths", [SIGNS, [20] * 50, [1], [299], None])
def test_buckets_rise_and_end_with_the_most_frames(lengths, count):
    buckets = plan_profiles(lengths, CONTRACT, buckets=count).buckets
    assert len(buckets) == min(count, 299)
    assert list(buckets) == sorted(set(buckets))
    assert buckets[-1] == 299


def test_buckets_that_the_clips_do_not_need_split_the_widest_gap():
    plan = plan_profiles([20] * 50, CONTRACT, buckets=4)
    assert plan.buckets == (20, 159, 229, 299)
    assert plan.padding.single == 0.0


@pytest.mark.parametrize("lengths", [None, []])
def test_without_lengths_the_buckets_are_even_and_the_plan_says_so(lengths):
    plan = plan_profiles(lengths, replace(CONTRACT, max_frames=80), buckets=8)
    assert plan.buckets == (10, 20, 30, 40, 50, 60, 70, 80)
    assert plan.source == "no lengths were given: every length from 1 to 80 is taken to be equally frequent"


def test_one_profile_for_a_clip_and_one_for_batches_both_tuned_for_shapes_that_are_run():
    plan = plan_profiles(SIGNS, CONTRACT)
    single, batches = plan.profiles
    assert (single.batch, batches.batch) == ((1, 1, 1), (1, 16, 32))
    for profile, percentile in ((single, 50), (batches, 90)):
        low, opt, high = profile.frames
        assert (low, high) == (1, 299)
        length = np.percentile(SIGNS, percentile, method="inverted_cdf")
        assert opt == min(bucket for bucket in plan.buckets if bucket >= length)
    assert single.frames[1] < batches.frames[1]


@pytest.mark.parametrize("max_batch", [1, 2, 15, 32])
@pytest.mark.parametrize("max_frames", [1, 2, 299])
def test_every_plan_covers_its_contract(max_batch, max_frames):
    contract = replace(CONTRACT, max_batch=max_batch, max_frames=max_frames)
    for lengths in (None, [1], [1, max_frames]):
        plan = plan_profiles(lengths, contract)
        check_profiles(plan.profiles, contract)
        assert len(plan.profiles) == (1 if max_batch == 1 else 2)
        assert plan.buckets[-1] == max_frames
        assert all(low <= opt <= high for p in plan.profiles for low, opt, high in (p.batch, p.frames))


def test_padding_is_what_counting_it_gives():
    plan = plan_profiles(SIGNS, CONTRACT)
    padding, real = plan.padding, sum(SIGNS)
    table = np.array([padded_frames([length], plan.buckets) for length in range(1, 300)])
    assert padding.batch == 16
    assert padding.single == pytest.approx(1 - real / table[np.array(SIGNS) - 1].sum())
    assert padding.longest == pytest.approx(1 - real / (len(SIGNS) * 299))
    batches = [sorted(SIGNS)[i : i + 16] for i in range(0, len(SIGNS), 16)]
    computed = sum(len(batch) * table[max(batch) - 1] for batch in batches)
    assert padding.sorted_batches == pytest.approx(1 - real / computed)
    drawn = np.random.default_rng(1).choice(SIGNS, (20_000, 16))
    computed = 16 * table[drawn.max(1) - 1].sum()
    assert padding.unsorted_batches == pytest.approx(1 - drawn.sum() / computed, abs=0.005)
    assert padding.single < padding.sorted_batches < padding.unsorted_batches < padding.longest


def test_a_last_batch_that_is_not_full_is_counted_as_it_is():
    plan = plan_profiles([5] * 17, replace(CONTRACT, max_frames=10), buckets=1)
    assert plan.padding.sorted_batches == pytest.approx(0.5)


def test_clips_longer_than_the_model_takes_are_left_out_and_counted():
    plan = plan_profiles([10, 20, 300, 500], CONTRACT)
    assert plan.source == "2 clips of 10 to 20 frames; 2 longer than 299 left out"
    assert plan == replace(plan_profiles([10, 20], CONTRACT), source=plan.source)


@pytest.mark.parametrize(
    ("lengths", "buckets", "error", "message"),
    [
        ([3, 0], 8, InputError, r"^a clip of 0 frames; the model takes 1\.\.299\. Fix: leave it out$"),
        (
            [300, 301],
            8,
            InputError,
            r"^all 2 clips are longer than 299 frames, .* --set model.max_seq_length=302$",
        ),
        ([3], 0, ConfigError, r"^0 buckets; at least 1 is needed\. Fix: buckets=8$"),
    ],
)
def test_what_cannot_be_planned_is_refused(lengths, buckets, error, message):
    with pytest.raises(error, match=message):
        plan_profiles(lengths, CONTRACT, buckets=buckets)


@pytest.mark.parametrize("text", ["1x1,16x60,32x299", " 1X1, 16X60, 32X299 "])
def test_a_profile_is_read_from_text(text):
    assert parse_profile(text) == Profile(batch=(1, 16, 32), frames=(1, 60, 299))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"^profile '': expected clips × frames of min, opt and max\."),
        ("60", "expected clips × frames of min, opt and max"),
        ("1x1,1x60", "expected clips × frames of min, opt and max"),
        ("1x1,1x60,1x299,1x300", "expected clips × frames"),
        ("1x1x108,1x60x108,1x299x108", "expected clips × frames"),
        ("1x1,1x-60,1x299", "expected clips × frames"),
        ("1x1,1x\u0666\u0660,1x299", "expected clips × frames"),
        ("0x1,1x60,1x299", r"'0x1,1x60,1x299': a shape of nothing\. Fix: --profile 1x1,1x60,1x299$"),
        (
            "1x1,1x300,1x299",
            r"^profile '1x1,1x300,1x299' does not contain its opt shape 1x300: expected min <= opt <= max in "
            r"clips and in frames\. Fix: --profile 1x1,1x299,1x299$",
        ),
        ("8x1,4x60,32x299", r"its opt shape 4x60: .* Fix: --profile 8x1,8x60,32x299$"),
        ("1x299,1x60,1x1", r"its opt shape 1x60: .* Fix: --profile 1x1,1x60,1x299$"),
    ],
)
def test_a_profile_that_is_none_is_refused_with_one_that_is(text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        parse_profile(text)
    fix = re.search(r"Fix: --profile (\S+)$", str(raised.value))
    assert parse_profile(fix[1])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], r"^no profile takes 1 clips × 1 frames, which the model does \(profiles: none\)\. Fix: add "),
        (["1x1,1x60,1x299"], r"^no profile takes 2 clips × 1 frames, .*: 1\.\.1 \(1\) × 1\.\.299 \(60\)\)"),
        (["1x1,16x60,32x298"], "no profile takes 1 clips × 299 frames"),
        (["1x2,16x60,32x299"], "no profile takes 1 clips × 1 frames"),
        (["1x1,1x60,8x299", "10x1,16x60,32x299"], "no profile takes 9 clips × 1 frames"),
    ],
)
def test_a_hole_is_named_with_a_profile_that_fills_it(texts, message):
    profiles = [parse_profile(text) for text in texts]
    with pytest.raises(ConfigError, match=message) as raised:
        check_profiles(profiles, CONTRACT)
    fix = re.search(r"Fix: add --profile (\S+)$", str(raised.value))
    assert uncovered((*profiles, parse_profile(fix[1])), CONTRACT) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1x1,16x60,33x299",
            r"^profile 1\.\.33 \(16\) × 1\.\.299 \(60\): the model takes 1\.\.32 clips of 1\.\.299 frames\. "
            r"Fix: --profile 1x1,16x60,32x299$",
        ),
        ("1x1,40x350,64x400", r"Fix: --profile 1x1,32x299,32x299$"),
    ],
)
def test_a_profile_beyond_the_contract_is_refused(text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        check_profiles([parse_profile(text)], CONTRACT)
    check_profiles([parse_profile(str(raised.value).rpartition(" ")[2])], CONTRACT)
