"""The cases: rounds in which the peers take turns, and fresh processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from client import FAILED
from peer import samples_ns

from spoter_toolkit.bench.scenarios.interleave import interleaved
from spoter_toolkit.bench.worker.roofline import Roofline
from spoter_toolkit.report.words import without_places

WARM_UPS = (10, 2)  # calls: before the first round, and before each later one


class Asked(Protocol):
    """A `client.PeerProcess`, or an engine of this process that answers the same requests."""

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the reply; raises one of `FAILED`."""


class AskedRoofline:
    """The model's matrix products alone, asked like a peer: one clip a call, on one thread."""

    def __init__(self, model: bytes, workers: int = 1) -> None:
        """Read the bytes of an ONNX file; `workers` clips are multiplied at a time where there are many."""
        self._engines = [Roofline(model, 1) for _ in range(workers)]

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the samples of ``time``, of clips of one length, or ``time_many``, of many."""
        lengths = request["lengths"] if request["do"] == "time_many" else [request["frames"]]
        # Long clips first, then every n-th to each engine: as even as shares can be.
        clips = [np.zeros((1, frames, 108), np.float32) for frames in sorted(lengths, reverse=True)]
        shares = [clips[start :: len(self._engines)] for start in range(len(self._engines))]

        def multiply(engine: Roofline, share: list[Any]) -> None:
            for clip in share:
                engine.infer(clip)

        with ThreadPoolExecutor(len(shares)) as pool:
            # One engine computes in this thread: handing a short call to another one would be timed.
            run_all = pool.map if len(shares) > 1 else map
            call = lambda: list(run_all(multiply, self._engines, shares))  # noqa: E731
            return {"samples_ns": samples_ns(call, request["calls"], request["warm_up"])}


def take_turns(
    asked: Mapping[str, Asked], rounds: int, *, warm_ups: tuple[int, int] = WARM_UPS, **request: Any
) -> dict[str, Any]:
    """Return ``samples_ns`` (name → round → samples) and ``failed`` (name → reason).

    A peer that fails once has no further turn.
    """
    samples: dict[str, list[list[int]]] = {name: [] for name in asked}
    failed: dict[str, str] = {}
    for number, name in interleaved([*asked], rounds, warm_up=1):
        if name in failed:
            continue
        try:
            reply = asked[name].ask(**request, warm_up=warm_ups[number >= 0])
        except FAILED as error:
            failed[name] = without_places(str(error))
            del samples[name]
            continue
        if number >= 0:
            samples[name].append(reply["samples_ns"])
    return {"samples_ns": samples, "failed": failed}


def cold_starts(
    start: Mapping[str, Callable[[], AbstractContextManager[Asked]]], rounds: int, frames: int
) -> dict[str, Any]:
    """Return ``samples_ns`` and ``peak_rss_bytes`` of fresh processes: name → one a round, and ``failed``."""
    samples: dict[str, list[list[int]]] = {name: [] for name in start}
    peaks: dict[str, list[int]] = {name: [] for name in start}
    failed: dict[str, str] = {}
    for number, name in interleaved([*start], rounds, warm_up=1):  # the first round fills the page cache
        begin_ns = time.perf_counter_ns()
        try:
            with start[name]() as asked:
                reply = asked.ask(do="first", frames=frames)
                taken_ns = time.perf_counter_ns() - begin_ns
        except FAILED as error:
            failed[name] = without_places(str(error))
            continue
        if number >= 0:
            samples[name].append([taken_ns])
            peaks[name].append(reply["peak_rss_bytes"])
    return {"samples_ns": samples, "peak_rss_bytes": peaks, "failed": failed}
