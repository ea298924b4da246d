"""The cases: rounds in which the peers take turns, and fresh processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np

from spoter_toolkit.bench.worker.roofline import Floor

WARM_UPS = (10, 2)  # calls: before the first round, and before each


class Askable(Protocol):
    """What takes a turn."""

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Return the reply; one with ``error`` where it cannot."""


class AskedFloor:
    """The model's matrix products alone, asked like a peer: one clip a call, on one thread."""

    def __init__(self, model: bytes, workers: int = 1) -> None:
        """Read the model.

        Args:
            model: bytes of its ONNX file.
            workers: clips at a time, where there are many.
        """
        self._workers = [Floor(model, 1) for _ in range(workers)]

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Return the samples of ``time``, of clips of one length, or ``time_many``, of many."""
        lengths = request["lengths"] if do == "time_many" else [request["frames"]]
        clips = [np.zeros((1, frames, 108), np.float32) for frames in lengths]
        for _ in range(request["warm_up"]):
            self._multiply(clips)
        samples_ns = []
        for _ in range(request["calls"]):
            begin = time.perf_counter_ns()
            self._multiply(clips)
            samples_ns.append(time.perf_counter_ns() - begin)
        return {"samples_ns": samples_ns}

    def _multiply(self, clips: list[Any]) -> None:
        if len(self._workers) == 1:
            _all_of(self._workers[0], clips)
            return
        # Long ones first, and then every so manyth to each: as even as shares can be.
        ordered = sorted(clips, key=lambda clip: -clip.shape[1])
        shares = [ordered[start :: len(self._workers)] for start in range(len(self._workers))]
        with ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(_all_of, self._workers, shares))


def _all_of(floor: Floor, clips: list[Any]) -> None:
    for clip in clips:
        floor.infer(clip)


def in_turn(
    asked: Mapping[str, Askable],
    rounds: int,
    do: str,
    *,
    warm_ups: tuple[int, int] = WARM_UPS,
    **request: Any,
) -> dict[str, Any]:
    """Return ``samples_ns`` (name → round → samples) and ``failed`` (name → reason).

    Every other round goes backwards, so that none always follows the same one. Who fails once is out.
    """
    samples: dict[str, list[list[int]]] = {name: [] for name in asked}
    failed: dict[str, str] = {}
    for round_ in range(rounds + 1):  # the first one warms up
        for name in [*asked][:: -1 if round_ % 2 else 1]:
            if name in failed:
                continue
            reply = asked[name].ask(do, **request, warm_up=warm_ups[round_ > 0])
            if "error" in reply:
                failed[name] = reply["error"]
                del samples[name]
            elif round_:
                samples[name].append(reply["samples_ns"])
    return {"samples_ns": samples, "failed": failed}


def cold_starts(start: Mapping[str, Callable[[], Any]], rounds: int, frames: int) -> dict[str, Any]:
    """Return ``samples_ns`` and ``peak_rss_bytes`` of fresh processes: name → one a round, and ``failed``."""
    samples: dict[str, list[list[int]]] = {name: [] for name in start}
    peaks: dict[str, list[int]] = {name: [] for name in start}
    failed: dict[str, str] = {}
    for round_ in range(rounds + 1):  # the first one fills the page cache
        for name in [*start][:: -1 if round_ % 2 else 1]:
            with ExitStack() as ending:
                asked = ending.enter_context(start[name]())
                reply = asked.ask("first", frames=frames)
                taken_ns = time.perf_counter_ns() - asked.begin_ns
            if "error" in reply:
                failed[name] = reply["error"]
            elif round_:
                samples[name].append([taken_ns])
                peaks[name].append(reply["peak_rss_bytes"])
    return {"samples_ns": samples, "peak_rss_bytes": peaks, "failed": failed}
