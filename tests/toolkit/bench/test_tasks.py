"""What a worker does: it warms up until the speed stands still, and waits for clips that are due."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from spoter_toolkit.bench.host.monitor import pss_bytes
from spoter_toolkit.bench.worker import tasks
from spoter_toolkit.bench.worker.tasks import Slowed, arrivals_ns, offline, serve, warmed_up

SETTLED = {"min_calls": 1, "block_ns": 0, "limit_ns": 10**9, "tolerance": 1e9}


class Clock:
    """A clock that stands still but for what calls and sleeps take."""

    def __init__(self, monkeypatch):
        self.now_ns = 0
        monkeypatch.setattr(tasks.time, "perf_counter_ns", self.read)
        monkeypatch.setattr(tasks.time, "sleep", self.pass_s)

    def read(self):
        self.now_ns += 1
        return self.now_ns

    def pass_s(self, seconds):
        self.now_ns += round(1e9 * seconds)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Engine:
    """Takes its time on the clock, and keeps what it was given."""

    def __init__(self, clock, take_ms):
        self.clock, self.take_ms, self.given = clock, take_ms, []

    def infer(self, poses_NTD, lengths_N=None):
        self.given.append((poses_NTD.shape, lengths_N))
        self.clock.pass_s(self.take_ms(len(self.given)) / 1e3)


def test_warming_up_goes_on_until_two_blocks_agree(clock):
    times_ms = iter([9, 6, 4, 3, 2.5, 2.45, 2.45, 2.45])
    calls = []

    def call():
        calls.append(next(times_ms))
        clock.pass_s(calls[-1] / 1e3)

    told = warmed_up(call, min_calls=2, block_ns=0, limit_ns=10**9, tolerance=0.05)
    assert calls == [9, 6, 4, 3, 2.5, 2.45]
    assert (told["calls"], told["settled"]) == (6, True)


def test_warming_up_that_never_settles_ends_at_the_limit_and_says_so(clock):
    fast = iter([True, False] * 1000)

    def call():
        clock.pass_s(0.001 if next(fast) else 0.002)

    told = warmed_up(call, min_calls=2, block_ns=0, limit_ns=50_000_000, tolerance=0.05)
    assert told["settled"] is False
    assert 50e6 <= told["ns"] < 53e6


def test_slow_calls_end_at_the_limit_after_two_blocks_and_can_have_settled(clock):
    def call():
        clock.pass_s(0.4)

    told = warmed_up(call, min_calls=10, block_ns=10_000_000, limit_ns=500_000_000, tolerance=0.05)
    assert (told["calls"], told["settled"]) == (2, True)


def test_a_block_is_as_long_as_asked_and_the_least_calls_are_made(clock):
    def call():
        clock.pass_s(0.001)

    told = warmed_up(call, min_calls=25, block_ns=10_000_000, limit_ns=10**9, tolerance=0.05)
    assert told["settled"]
    assert told["calls"] >= 25
    assert told["calls"] <= 35


def test_a_clip_that_waits_for_a_slow_one_is_late_from_when_it_was_due(clock):
    """One answer of 100 ms: everybody behind it waits, though each of their own calls takes 1 ms."""
    slow_one = Engine(clock, lambda number: 100.0 if number == 12 else 1.0)
    due = arrivals_ns(100, 1.0, 5)
    told = serve(slow_one, lengths=[4, 7], rate=100, seconds=1.0, seed=5, warm_up=SETTLED)
    latencies_ms = np.array(told["latencies_ns"]) / 1e6
    warm = len(slow_one.given) - len(due)
    expected, free_ms = [], 0.0
    for number, arrived_ms in enumerate(np.array(due) / 1e6):
        begin_ms = max(free_ms, arrived_ms)
        free_ms = begin_ms + (100.0 if number + warm + 1 == 12 else 1.0)
        expected.append(free_ms - arrived_ms)
    assert latencies_ms == pytest.approx(expected, abs=0.05)
    assert (latencies_ms > 50).sum() >= 4  # of closed-loop timing there would be one
    assert told["unanswered"] == 0
    assert [shape for shape, _ in slow_one.given[warm:][:3]] == [(1, 4, 108), (1, 7, 108), (1, 4, 108)]


def test_an_overloaded_server_gives_up_and_counts_who_got_no_answer(clock):
    told = serve(Engine(clock, lambda _: 100.0), lengths=[3], rate=50, seconds=1.0, seed=0, warm_up=SETTLED)
    due = len(arrivals_ns(50, 1.0, 0))
    assert told["unanswered"] == due - len(told["latencies_ns"]) > 0
    assert 18 <= len(told["latencies_ns"]) <= 21  # two seconds of 100 ms each
    assert told["elapsed_ns"] < 2.3e9


def test_arrivals_are_poisson_and_the_same_for_the_same_seed():
    due = np.array(arrivals_ns(1000, 20.0, 1))
    assert arrivals_ns(1000, 20.0, 1) == due.tolist() != arrivals_ns(1000, 20.0, 2)
    gaps_ms = np.diff(due) / 1e6
    assert due[-1] < 20e9
    assert gaps_ms.mean() == pytest.approx(1.0, rel=0.03)
    assert gaps_ms.std() == pytest.approx(1.0, rel=0.05)  # an exponential's deviation is its mean
    assert (gaps_ms > 3).mean() == pytest.approx(np.exp(-3), rel=0.2)


def test_a_pass_pads_each_batch_as_planned_and_tells_the_lengths(clock):
    engine = Engine(clock, lambda _: 2.0)
    told = offline(
        engine,
        batches=[[3, 5], [4]],
        frames=[6, 4],
        warm_up=SETTLED,
        warm_passes=0,
        min_passes=2,
        min_ns=0,
    )
    assert [ns / 1e6 for ns in told["samples_ns"]] == pytest.approx([4.0, 4.0], abs=0.01)
    (first, first_lengths), (second, second_lengths) = engine.given[-2:]
    assert (first, second) == ((2, 6, 108), (1, 4, 108))
    assert (first_lengths.tolist(), second_lengths.tolist()) == ([3, 5], [4])


def test_a_planted_slow_down_takes_its_share_of_each_calls_own_time(clock):
    slowed = Slowed(Engine(clock, lambda number: 1.0 if number == 1 else 10.0), 0.1)
    took_ms = []
    for _ in range(2):
        begin_ns = clock.read()
        slowed.infer(np.zeros((1, 1, 108), np.float32))
        took_ms.append((clock.read() - begin_ns) / 1e6)
    assert took_ms == pytest.approx([1.1, 11.0], abs=0.001)


@pytest.mark.skipif(pss_bytes(os.getpid()) is None, reason="needs Linux")
def test_pss_grows_with_what_is_held():
    before = pss_bytes(os.getpid())
    ballast = np.ones(8_000_000)  # more than malloc ever takes from what it has
    time.sleep(0)
    assert pss_bytes(os.getpid()) - before > 0.9 * ballast.nbytes
