"""Compute the logits of many clips: batches of similar lengths, on several threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from time import perf_counter_ns
from typing import Final, NamedTuple

import numpy as np

from spoter_runtime.engine_calls import ENGINE_CALLS
from spoter_runtime.landmarks import NUM_FEATURES, Float32Array
from spoter_runtime.runner import Int32Array, Runner, pad_clips

# With more padding than this share of a batch, a second call is cheaper. Measured at 60 frames: a batch of
# one takes 1.3 times as long per clip as a batch of eight.
MOST_PADDING: Final = 0.1


class Answered(NamedTuple):
    """One clip's logits, and how long its batch took.

    Attributes:
        logits_C: (classes,) float32.
    """

    logits_C: Float32Array
    latency_ms: float


def batches_of(lengths: Sequence[int], most_clips: int) -> list[list[int]]:
    """Return batches of indices into `lengths`: clips of similar length together, longest first.

    Longest first, so that no core ends with a long batch while the others are idle.

    Args:
        lengths: frames of each clip.
        most_clips: largest batch.
    """
    batches: list[list[int]] = []
    frames = 0  # of the clips in the last batch, without padding
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        batch = batches[-1] if batches else []
        padded = (len(batch) + 1) * lengths[batch[0]] if batch else 0
        if batch and len(batch) < most_clips and padded - frames - lengths[place] <= MOST_PADDING * padded:
            batch.append(place)
            frames += lengths[place]
        else:
            batches.append([place])
            frames = lengths[place]
    return batches


def infer_many(
    runner: Runner, clips: Sequence[Float32Array], *, workers: int = 1, most_clips: int | None = None
) -> list[Answered]:
    """Return the logits of each clip, in the order given.

    Args:
        runner: must be thread-safe if there is more than one worker.
        clips: (frames, 54, 2) each, from `check_clip`.
        workers: concurrent calls.
        most_clips: largest batch; None means the contract's.

    Raises:
        BackendError: the engine failed.
    """
    limit = runner.contract.max_batch
    batches = batches_of([len(clip) for clip in clips], min(most_clips or limit, limit))

    def answer(batch: list[int]) -> list[Answered]:
        poses_NTD, lengths_N = _batch_of([clips[place] for place in batch])
        begin_ns = perf_counter_ns()
        logits_NC = runner.infer_checked(poses_NTD, lengths_N)
        latency_ms = (perf_counter_ns() - begin_ns) / 1e6
        return [Answered(logits_C=logits_C, latency_ms=latency_ms) for logits_C in logits_NC]

    workers = 1 if ENGINE_CALLS.ended else min(workers, len(batches))
    answers = [answer(batch) for batch in batches] if workers == 1 else _in_threads(answer, batches, workers)
    found = dict(
        zip((place for batch in batches for place in batch), chain.from_iterable(answers), strict=True)
    )
    return [found[place] for place in range(len(clips))]


def _in_threads(
    answer: Callable[[list[int]], list[Answered]], batches: list[list[int]], workers: int
) -> list[list[Answered]]:
    """Return the answers of each batch, computed by up to `workers` threads, this one included.

    No pool of concurrent.futures: it refuses to work while Python is ending, and a process that is forked
    during its import can never import it.
    """
    waiting = deque(range(len(batches)))
    answers: dict[int, list[Answered]] = {}
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while waiting:
                try:
                    place = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                answers[place] = answer(batches[place])
        except BaseException as error:  # noqa: BLE001  (raised below, in the caller's thread)
            errors.append(error)
            waiting.clear()

    threads = [threading.Thread(target=work, name="spoter") for _ in range(workers - 1)]
    with suppress(RuntimeError):  # Python is ending, or the system gives no more threads
        for thread in threads:
            thread.start()
    work()
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    if errors:
        raise errors[0]
    return [answers[place] for place in range(len(batches))]


def _batch_of(clips: list[Float32Array]) -> tuple[Float32Array, Int32Array]:
    """Return `pad_clips(clips)`; a single clip is not copied."""
    if len(clips) > 1:
        return pad_clips(clips)
    frames = len(clips[0])
    return clips[0].reshape(1, frames, NUM_FEATURES), np.array([frames], np.int32)
