"""Batches of waiting clips: of similar length, within a latency budget, from all requests."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter_ns
from typing import Final

import numpy as np

from spoter_runtime.batching import MOST_PADDING
from spoter_runtime.errors import BackendError, SpoterError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort.execution import MOST_CLIPS
from spoter_runtime.runner import Runner, pad_clips
from spoter_toolkit.serving.limits import Limits
from spoter_toolkit.serving.protocol import Refused

_LOOKED_AT: Final = 64  # of the clips that wait longest, for one batch
_FIRST_NS: Final = 30_000  # a frame, before any was measured
_FADE: Final = 0.95  # of the time of earlier batches, with each new one


@dataclass(slots=True, eq=False)
class _Job:
    """The clips of one request."""

    logits: list[Float32Array | None]
    left: int
    done: asyncio.Future[Float32Array]


@dataclass(slots=True, eq=False)
class _Waiting:
    """One clip that waits."""

    runner: Runner
    clip_TLD: Float32Array
    job: _Job
    place: int  # in its request
    since_ns: int = field(default_factory=perf_counter_ns)


# (clips, frames without and with padding, longest wait in s, time of the call in s)
OnBatch = Callable[[int, int, int, float, float], None]


class Batcher:
    """Answers clips on threads, one engine call each at a time.

    An idle thread never waits for more clips: batches form while all threads are busy, and only then they
    pay. The clip that waits longest comes first; clips of similar length join it, as many as the rest of its
    budget allows.
    """

    def __init__(self, limits: Limits, *, workers: int, on_batch: OnBatch) -> None:
        self._limits = limits
        self._on_batch = on_batch
        self._workers = workers
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._idle = 0
        self._frames = 0  # waiting or running
        self._spent_ns, self._padded = 1000.0 * _FIRST_NS, 1000.0  # of the last batches, the newest most
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._threads = [threading.Thread(target=self._work, name="batcher") for _ in range(workers)]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    @property
    def waiting(self) -> int:
        """The number of clips that wait."""
        return len(self._waiting)

    def expected_ms(self) -> float:
        """Return how long a clip that comes now would wait, by the speed of the last batches."""
        return self._frames * self._ns_per_frame / self._workers / 1e6

    @property
    def _ns_per_frame(self) -> float:
        """By totals: the mean of each batch's own speed would follow every pause of a short clip's call."""
        return self._spent_ns / self._padded

    def check_room(self, clips: int = 1) -> None:
        """Check that as many clips may come.

        Raises:
            Refused: with 429 and Retry-After; with 400 where there will never be room.
        """
        most = self._limits.queue_clips
        if clips > most:
            raise Refused(f"{clips} clips, this server lets {most} wait", fix="send fewer in a request")
        wait_ms = self.expected_ms()
        if wait_ms > self._limits.budget_ms or len(self._waiting) + clips > most:
            seconds = str(max(1, math.ceil(wait_ms / 1000)))
            raise Refused(
                f"busy: {len(self._waiting)} clips wait, the next one for about {wait_ms:.0f} ms",
                status=429,
                fix=f"send it again after {seconds} s",
                headers={"retry-after": seconds},
            )

    async def answer(self, runner: Runner, clips: list[Float32Array]) -> Float32Array:
        """Return the logits (N, C) of checked clips, in the order given.

        Raises:
            Refused: too many wait.
            BackendError: the engine failed on one of them.
        """
        self.check_room(len(clips))
        job = _Job([None] * len(clips), len(clips), self._loop.create_future())
        with self._changed:
            self._waiting.extend(_Waiting(runner, clip, job, place) for place, clip in enumerate(clips))
            self._frames += sum(map(len, clips))
            self._changed.notify(len(clips))
        return await job.done

    def close(self) -> None:
        """End the threads, once the clips that wait are answered."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                batch = self._take()
                self._idle -= 1
            begin_ns = perf_counter_ns()
            answers = _answers(batch)
            took_ns = perf_counter_ns() - begin_ns
            self._loop.call_soon_threadsafe(self._deliver, batch, answers, begin_ns, took_ns)

    def _take(self) -> list[_Waiting]:
        """Remove the next batch from those that wait."""
        first = self._waiting.popleft()
        most = min(MOST_CLIPS, first.runner.contract.max_batch, -(-(len(self._waiting) + 1) // self._idle))
        if most == 1:
            return [first]
        left_ns = 1e6 * self._limits.budget_ms - (perf_counter_ns() - first.since_ns)
        frames = longest = len(first.clip_TLD)
        batch = [first]
        others = [one for one in islice(self._waiting, _LOOKED_AT) if one.runner is first.runner]
        for one in sorted(others, key=lambda one: abs(len(one.clip_TLD) - frames)):
            padded = (len(batch) + 1) * max(longest, len(one.clip_TLD))
            real = frames + len(one.clip_TLD)
            if len(batch) == most or padded - real > MOST_PADDING * padded:
                break
            if padded * self._ns_per_frame > left_ns:
                break
            batch.append(one)
            frames, longest = real, max(longest, len(one.clip_TLD))
        taken = set(map(id, batch))
        self._waiting = deque(one for one in self._waiting if id(one) not in taken)
        return batch

    def _deliver(
        self,
        batch: list[_Waiting],
        answers: list[Float32Array | SpoterError],
        begin_ns: int,
        took_ns: int,
    ) -> None:
        lengths = [len(one.clip_TLD) for one in batch]
        padded = len(batch) * max(lengths)
        with self._changed:
            self._frames -= sum(lengths)
            # Not took_ns: until an answer is here, the cores have more to do than the engine's call.
            self._spent_ns = _FADE * self._spent_ns + perf_counter_ns() - begin_ns
            self._padded = _FADE * self._padded + padded
        wait_s = (begin_ns - min(one.since_ns for one in batch)) / 1e9
        self._on_batch(len(batch), sum(lengths), padded, wait_s, took_ns / 1e9)
        for one, answer in zip(batch, answers, strict=True):
            job = one.job
            if job.done.done():
                continue  # another of its clips failed, or nobody waits for it any more
            if isinstance(answer, SpoterError):
                job.done.set_exception(answer)
                continue
            job.logits[one.place] = answer
            job.left -= 1
            if not job.left:
                job.done.set_result(np.stack([row for row in job.logits if row is not None]))


def _answers(batch: list[_Waiting]) -> list[Float32Array | SpoterError]:
    """Return each clip's logits, or its error: one clip must not fail the others of its batch."""
    try:
        return list(batch[0].runner.infer_checked(*pad_clips([one.clip_TLD for one in batch])))
    except SpoterError as error:
        if len(batch) == 1:
            return [error]
    except Exception as error:  # noqa: BLE001  (a thread that ended would answer nobody any more)
        return [BackendError(f"{type(error).__name__}: {error}")] * len(batch)
    return [answer for one in batch for answer in _answers([one])]
