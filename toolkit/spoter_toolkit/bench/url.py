"""Load on a server of the Open Inference Protocol v2, open loop: clips come when they are due.

A client that waits for an answer before it sends the next clip would hide how long a busy server makes others
wait. Here latency counts from the moment when a clip was due.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from spoter_runtime._types import OnProgress
from spoter_runtime.errors import BackendError
from spoter_runtime.landmarks import NUM_LANDMARKS, Float32Array
from spoter_toolkit.bench.records import HighestRate, Served
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED, percentile_ms
from spoter_toolkit.bench.worker.tasks import arrivals_ns, generated_clips
from spoter_toolkit.data.lengths import ClipLengths
from spoter_toolkit.serving.client import ServedModel, body_of

CLIPS: Final = 64  # different lengths, repeated
TRIES: Final = 5  # of a clip whose connection broke, or whose server failed: an answer changes nothing there
CLOSED_CLIENTS: Final = 8  # that ask without a pause, to find the capacity
SEARCH_STEPS: Final = 6
LONGEST_S: Final = 10.0  # of a trial
SPARE: Final = 1.2  # factor on the number of clips needed, because arrivals are random
_AGAIN: Final = (500, 502, 503)
_WRONG: Final = 1e-3  # logits further off than batches and engines differ


@dataclass(slots=True)
class Load:
    """What became of the clips of one trial.

    Attributes:
        latencies_ns: of the answered ones, from when they were due.
        statuses: HTTP status of each clip's last answer → clips; 0: none.
        again: clips sent once more because a server or a connection broke.
        wrong: answers that are not the model's.
        elapsed_ns: to the last answer, and at least as long as clips came.
    """

    latencies_ns: list[int] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    again: int = 0
    wrong: int = 0
    elapsed_ns: int = 0

    @property
    def clips(self) -> int:
        """Clips that were due."""
        return self.statuses.total()

    @property
    def lost(self) -> int:
        """Clips that were neither answered nor refused for want of room."""
        return self.clips - self.statuses[200] - self.statuses[429]

    def percentiles_ms(self) -> dict[int, float | None]:
        """Return percent → percentile of the answered clips; None of too few."""
        return {percent: percentile_ms(self.latencies_ns, percent) for percent in SAMPLES_NEEDED}

    def served(self, url: str, rate: float, bound_ms: float) -> Served:
        """Return it as a record of a trial; a refused clip counts as unanswered."""
        return Served(
            backend=url,
            threads=0,
            rate=rate,
            bound_ms=bound_ms,
            rounds_ns=(tuple(self.latencies_ns),),
            unanswered=(self.clips - len(self.latencies_ns),),
            elapsed_ns=(self.elapsed_ns,),
        )


class Target:
    """A model on a server, the requests for clips of some lengths, and the right answers."""

    def __init__(self, url: str, lengths: Sequence[int]) -> None:
        """Ask once for each clip.

        Raises:
            BackendError: nothing answers there.
        """
        model = ServedModel(url)
        self.url, self.host, self.port = url, model.host, model.port
        clips = {
            frames: generated_clips(1, frames).reshape(frames, NUM_LANDMARKS, 2) for frames in set(lengths)
        }
        self.right: dict[int, list[Float32Array]] = {}
        requests = {}
        for frames, clip in clips.items():
            self.right[frames] = [model.infer([clip])[0]]
            body, headers = body_of([clip])
            lines = [
                f"POST {model.path}/infer HTTP/1.1",
                f"Host: {self.host}:{self.port}",
                f"Content-Length: {len(body)}",
                *(f"{name}: {value}" for name, value in headers.items()),
            ]
            requests[frames] = "\r\n".join((*lines, "", "")).encode() + body
        self.requests = [(frames, requests[frames]) for frames in lengths]
        model.close()

    def is_right(self, frames: int, body: bytes) -> bool:
        """Tell whether an answer is the model's, or one of the models' between which it is reloaded."""
        classes = len(self.right[frames][0])
        found = np.frombuffer(body[-4 * classes :], "<f4")
        return len(found) == classes and any(
            float(np.abs(found - right).max()) < _WRONG for right in self.right[frames]
        )


class _Connection(asyncio.Protocol):
    """One connection; a request at a time."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.buffer = b""
        self.usable = True

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self.answer and not self.answer.done():
            self.answer.set_result((0, b""))

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        self.answer = self.loop.create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        head = head.lower()
        before, found, after = head.partition(b"content-length:")
        length = int(after.split(b"\r\n", 1)[0]) if found else 0
        if len(body) < length or not self.answer or self.answer.done():
            return
        self.usable &= b"connection: close" not in head
        self.buffer = b""
        self.answer.set_result((int(before.split(b" ", 2)[1]), body))


class _Clients:
    """Connections to a target, as many as there are clips under way."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: list[_Connection] = []
        self.load = Load()

    async def ask(self, number: int, due_ns: int) -> int:
        """Send a clip, again where a server broke; note what became of it, and return the last status."""
        frames, request = self._target.requests[number % len(self._target.requests)]
        status, body = 0, b""
        for attempt in range(TRIES):
            if attempt:
                self.load.again += 1
                await asyncio.sleep(0.05 * 2**attempt)
            status, body = await self._once(request)
            if status and status not in _AGAIN:
                break
        self.load.statuses[status] += 1
        if status == 200:
            self.load.latencies_ns.append(time.perf_counter_ns() - due_ns)
            self.load.wrong += not self._target.is_right(frames, body)
        return status

    async def _once(self, request: bytes) -> tuple[int, bytes]:
        connection = None
        while self._idle and not (connection and connection.usable):
            connection = self._idle.pop()
        if not (connection and connection.usable):
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection, self._target.host, self._target.port
                )
            except OSError:
                return 0, b""
        answer = await connection.ask(request)
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.transport.close()
        return answer

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()


def open_loop(target: Target, *, rate: float, seconds: float, seed: int = 0) -> Load:
    """Let clips arrive at random times, `rate` a second on average, and wait for all answers."""

    async def run(clients: _Clients) -> None:
        begin_ns = time.perf_counter_ns()
        tasks = set()
        for number, after_ns in enumerate(arrivals_ns(rate, seconds, seed)):
            due_ns = begin_ns + after_ns
            while (left_ns := due_ns - time.perf_counter_ns()) > 0:
                await asyncio.sleep(left_ns / 1e9)
            task = asyncio.ensure_future(clients.ask(number, due_ns))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(tasks)
        clients.load.elapsed_ns = max(time.perf_counter_ns() - begin_ns, round(1e9 * seconds))

    return _run(target, run)


def closed_loop(target: Target, *, seconds: float, clients: int = CLOSED_CLIENTS) -> Load:
    """Let some clients ask without a pause: what a server can do at most, if it is asked politely."""

    async def run(found: _Clients) -> None:
        begin = time.perf_counter()

        async def one(number: int) -> None:
            while time.perf_counter() - begin < seconds:
                if await found.ask(number, time.perf_counter_ns()) not in (200, 429):
                    return
                number += clients

        await asyncio.gather(*map(one, range(clients)))
        found.load.elapsed_ns = round(1e9 * (time.perf_counter() - begin))

    return _run(target, run)


def _run(target: Target, run: Callable[[_Clients], Any]) -> Load:
    async def whole() -> Load:
        clients = _Clients(target)
        try:
            await run(clients)
        finally:
            clients.close()
        return clients.load

    with suppress(ImportError):
        import uvloop  # half of asyncio's own time, which is taken from a server on the same cores

        return uvloop.run(whole())
    return asyncio.run(whole())


def capacity_of(target: Target, *, seconds: float = 2.0) -> float:
    """Return how many clips a second a server answers `CLOSED_CLIENTS` clients.

    Raises:
        BackendError: it answers none.
    """
    load = closed_loop(target, seconds=seconds)
    if not load.latencies_ns:
        raise BackendError(f"{target.url}: answers no clip, statuses {dict(load.statuses)}")
    return 1e9 * len(load.latencies_ns) / load.elapsed_ns


def highest_rate(
    target: Target,
    *,
    most: float,
    bound_ms: float,
    seconds: float,
    seed: int = 0,
    percent: int | None = None,
    least: float = 0.0,
    steps: int = SEARCH_STEPS,
) -> HighestRate:
    """Return the highest rate at which a percentile of all clips, refused ones too, is within a bound.

    It is looked for between `least` and `most`, by so many halvings; None if no rate that was tried keeps it.
    `percent` None is 99, or 90 where half of `most` gives too few clips for that in `LONGEST_S`.
    """
    percent = percent or (99 if most / 2 * LONGEST_S >= SPARE * SAMPLES_NEEDED[99] else 90)
    low, high = least, most
    trials: list[tuple[float, float | None, bool]] = []
    for step in range(steps):
        rate = (low + high) / 2
        longer = min(max(seconds, SPARE * SAMPLES_NEEDED[percent] / rate), LONGEST_S)
        load = open_loop(target, rate=rate, seconds=longer, seed=seed + step)
        value_ms = load.served(target.url, rate, bound_ms).percentile_ms(percent)
        kept = value_ms is not None and value_ms <= bound_ms
        trials.append((rate, value_ms if value_ms != math.inf else None, kept))
        low, high = (rate, high) if kept else (low, rate)
    return HighestRate(
        backend=target.url, percent=percent, rate=low if low > least else None, trials=tuple(trials)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlBench:
    """What `bench --url` measured."""

    url: str
    lengths: str
    capacity: float
    rate: float
    load: Load
    served: Served
    highest: HighestRate | None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "url": self.url,
            "lengths": self.lengths,
            "capacity": self.capacity,
            "rate": self.rate,
            "clips": self.load.clips,
            "statuses": {str(status): n for status, n in sorted(self.load.statuses.items())},
            "again": self.load.again,
            "wrong": self.load.wrong,
            "bound_ms": self.served.bound_ms,
            "share_within": self.served.share_within,
            "answered_ms": {f"p{percent}": value for percent, value in self.load.percentiles_ms().items()},
            "highest_rate": self.highest.rate if self.highest else None,
        }


def measure_url(
    url: str,
    lengths: ClipLengths,
    *,
    rate: float | None = None,
    seconds: float = 10.0,
    bound_ms: float = 33.0,
    find_rate: bool = False,
    on_progress: OnProgress | None = None,
) -> UrlBench:
    """Measure a server: its capacity, then clips that arrive at a rate; `find_rate` looks for the highest.

    Args:
        url: see `ServedModel`.
        lengths: of the clips.
        rate: clips a second; None is half of the capacity.
        seconds: how long clips arrive.
        bound_ms: the time to an answer that is asked for.
        find_rate: look for the highest rate at which 99 of 100 clips keep it, too.
        on_progress: called with (done, total, what).

    Raises:
        BackendError: nothing answers there.
    """
    tell = on_progress or (lambda done, total, what: None)
    total = 2 + find_rate
    target = Target(url, lengths.sample(CLIPS, seed=0))
    tell(0, total, "finding its capacity")
    capacity = capacity_of(target)
    rate = rate or capacity / 2
    tell(1, total, f"{rate:.0f} clips a second")
    load = open_loop(target, rate=rate, seconds=seconds)
    tell(2, total, "looking for the highest rate")
    highest = highest_rate(target, most=1.5 * capacity, bound_ms=bound_ms, seconds=2.0) if find_rate else None
    return UrlBench(
        url=url,
        lengths=str(lengths),
        capacity=capacity,
        rate=rate,
        load=load,
        served=load.served(url, rate, bound_ms),
        highest=highest,
    )
