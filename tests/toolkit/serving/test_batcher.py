"""Batches form by length while all threads are busy; beyond the budget clips are refused."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import BackendError
from spoter_runtime.runner import Runner
from spoter_toolkit.serving.batcher import Batcher
from spoter_toolkit.serving.limits import Limits
from spoter_toolkit.serving.protocol import Refused


class Gated(Runner):
    """Answers with each clip's first value, once its gate is open; notes the lengths of each call."""

    def __init__(self, name="gated"):
        self.name = name
        self.contract = GraphContract(labels=(Label(name="a"),), max_frames=300, max_batch=8)
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.calls = []

    def _infer(self, poses_NTD, lengths_N):
        self.calls.append(sorted(lengths_N.tolist()))
        self.entered.set()
        self.gate.wait(10)
        if (poses_NTD[:, 0, 0] < 0).any():
            raise RuntimeError("a broken clip")
        return poses_NTD[:, :1, 0].copy()


def clip(frames, value=1.0):
    return np.full((frames, 54, 2), value, np.float32)


def batched(runner, first, later, **limits):
    """Answer clips of some lengths, one request each; `later` ones come while the first is computed."""

    async def run():
        batcher = Batcher(Limits(**limits), workers=1, on_batch=lambda *_: None)
        try:
            tasks = [asyncio.ensure_future(batcher.answer(runner, [first]))]
            await asyncio.to_thread(runner.entered.wait, 10)
            for one in later:
                tasks.append(asyncio.ensure_future(batcher.answer(runner, one)))
                await asyncio.sleep(0)
            runner.gate.set()
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            runner.gate.set()
            await asyncio.to_thread(batcher.close)

    return asyncio.run(run())


def test_clips_of_similar_length_share_a_call_and_the_oldest_comes_first():
    runner = Gated()
    answers = batched(
        runner, clip(5), [[clip(60)], [clip(10)], [clip(58)], [clip(11)], [clip(62, 7.0)]], budget_ms=10_000
    )
    assert runner.calls == [[5], [58, 60, 62], [10, 11]]
    assert [float(answer[0, 0]) for answer in answers] == [1, 1, 1, 1, 1, 7]


def test_a_request_of_many_clips_is_answered_in_its_order():
    runner = Gated()
    clips = [clip(frames, frames) for frames in (100, 3, 50, 99, 4, 51)]
    _, answer = batched(runner, clip(5), [clips], budget_ms=10_000)
    assert answer[:, 0].tolist() == [100, 3, 50, 99, 4, 51]
    assert sorted(map(len, runner.calls[1:])) == [1, 1, 2, 2]  # 3 and 4 would be a seventh of padding


def test_a_batch_is_no_longer_than_the_oldest_clip_can_wait():
    runner = Gated()
    batched(runner, clip(5), [[clip(100)]] * 5, budget_ms=10)  # 3 ms a clip of 100, until more is known
    assert len(runner.calls) > 2
    assert max(map(len, runner.calls)) < 5
    longer = Gated()
    batched(longer, clip(5), [[clip(100)]] * 5, budget_ms=10_000)
    assert longer.calls == [[5], [100] * 5]


def test_what_would_wait_longer_than_the_budget_is_refused_with_the_time_to_come_again():
    found = batched(Gated(), clip(200), [[clip(200)]] * 9, budget_ms=25)
    refused = [one for one in found if isinstance(one, Refused)]
    assert 0 < len(refused) < 9
    assert {one.status for one in refused} == {429}
    assert refused[0].headers == {"retry-after": "1"}
    assert "busy: " in str(refused[0])
    assert all(one.shape == (1, 1) for one in found if not isinstance(one, Refused))


def test_no_more_clips_wait_than_the_queue_holds():
    found = batched(Gated(), clip(2), [[clip(2)]] * 5, queue_clips=3)
    assert sum(isinstance(one, Refused) for one in found) == 2


def test_one_broken_clip_fails_alone():
    found = batched(Gated(), clip(5), [[clip(9)], [clip(9, -1.0)], [clip(9, 3.0)]], budget_ms=10_000)
    assert isinstance(found[2], BackendError)
    assert [float(found[i][0, 0]) for i in (1, 3)] == [1, 3]


def test_clips_of_two_models_never_share_a_call():
    first, second = Gated("first"), Gated("second")
    second.gate.set()

    async def run():
        batcher = Batcher(Limits(), workers=1, on_batch=lambda *_: None)
        tasks = [asyncio.ensure_future(batcher.answer(first, [clip(9)]))]
        await asyncio.to_thread(first.entered.wait, 10)
        tasks += [asyncio.ensure_future(batcher.answer(one, [clip(9)])) for one in (first, second) * 2]
        await asyncio.sleep(0.01)
        first.gate.set()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(batcher.close)

    asyncio.run(run())
    assert (first.calls, second.calls) == ([[9], [9, 9]], [[9, 9]])


@pytest.mark.parametrize("workers", [1, 2])
def test_idle_threads_share_what_waits(workers):
    runner = Gated()
    runner.gate.set()

    async def run():
        batcher = Batcher(Limits(budget_ms=10_000), workers=workers, on_batch=lambda *_: None)
        await asyncio.sleep(0.05)  # all threads wait
        await batcher.answer(runner, [clip(9)] * 8)
        await asyncio.to_thread(batcher.close)

    asyncio.run(run())
    assert max(map(len, runner.calls)) == 8 // workers
