"""The tasks of a worker: time single calls, passes over many clips, arriving clips.

Every task runs in the worker's process, takes the engine and the request's fields, and returns plain JSON
values. ``infer`` gives an array on the host: on a GPU a sample holds both transfers, and all its work.
At the top only the standard library is imported, as in `spoter_toolkit.bench.worker.__main__`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from spoter_runtime.landmarks import Float32Array

_SPIN_NS: Final = 200_000  # busy wait before a clip arrives: a sleep may end later than asked


class Infers(Protocol):
    """A `spoter_runtime.runner.Runner`, or another object with its `infer`."""

    def infer(self, poses_NTD: Any, lengths_N: Any = None) -> Any:
        """Compute a batch; see `spoter_runtime.runner.Runner.infer`."""


class Slowed:
    """An engine whose calls take longer by a known share of their own time; 0.1 is 10 %."""

    def __init__(self, engine: Infers, share: float) -> None:
        self._engine = engine
        self._share = share

    def infer(self, poses_NTD: Any, lengths_N: Any = None) -> Any:
        """Call the engine, then busy-wait."""
        begin_ns = time.perf_counter_ns()
        answer = self._engine.infer(poses_NTD, lengths_N)
        end_ns = time.perf_counter_ns()
        wait_until(end_ns + round((end_ns - begin_ns) * self._share), sleep=False)
        return answer


def latency(
    engine: Infers, *, batch: int, frames: int, warm_up: dict[str, Any] | None, min_calls: int, min_ns: int
) -> dict[str, Any]:
    """Warm up, then time single calls on full clips, `batch` of them a call.

    `warm_up` holds the arguments of `warmed_up`; with None the very first call is timed.
    """
    poses_NTD = generated_clips(batch, frames)

    def call() -> None:
        engine.infer(poses_NTD)

    warm = warmed_up(call, **warm_up) if warm_up else None
    return {"warm_up": warm, "samples_ns": timed(call, min_calls, min_ns)}


def offline(
    engine: Infers,
    *,
    batches: list[list[int]],
    frames: list[int],
    warm_up: dict[str, Any],
    warm_passes: int,
    min_passes: int,
    min_ns: int,
    meters: bool = False,
) -> dict[str, Any]:
    """Warm up, then time passes over many clips of different lengths, padding included.

    Args:
        engine: to be measured.
        batches: lengths of the clips of each batch.
        frames: to which each batch is padded.
        warm_up: arguments of `warmed_up`, which runs on the first batch.
        warm_passes: whole passes before that, for new shapes.
        min_passes: fewest passes to measure.
        min_ns: shortest time to measure.
        meters: read the energy meters too; ``joules`` is the energy of the measured passes.
    """
    import numpy as np

    from spoter_toolkit.bench.worker.energy import read_meters, used_joules

    clips = {length: generated_clips(1, length)[0] for lengths in batches for length in lengths}

    def infer_batch(lengths: list[int], padded: int) -> None:
        poses_NTD = np.zeros((len(lengths), padded, clips[lengths[0]].shape[1]), np.float32)
        for row, length in zip(poses_NTD, lengths, strict=True):
            row[:length] = clips[length]
        engine.infer(poses_NTD, np.array(lengths, np.int32))

    def one_pass() -> None:
        for lengths, padded in zip(batches, frames, strict=True):
            infer_batch(lengths, padded)

    for _ in range(warm_passes):
        one_pass()
    warm = warmed_up(lambda: infer_batch(batches[0], frames[0]), **warm_up)
    before = read_meters() if meters else {}
    samples_ns = timed(one_pass, min_passes, min_ns)
    joules = used_joules(before, read_meters()) if meters else {}
    return {"warm_up": warm, "samples_ns": samples_ns, "joules": joules}


def serve(
    engine: Infers, *, lengths: list[int], rate: float, seconds: float, seed: int, warm_up: dict[str, Any]
) -> dict[str, Any]:
    """Time single clips that arrive at random times, answered one after the other.

    Latency counts from the moment when the clip was due, not from the start of its call: a slow answer delays
    the following ones, as in a service. Clips that still wait after twice the time stay unanswered.
    ``elapsed_ns`` ends at the last answer, and is at least `seconds`.

    Args:
        engine: to be measured.
        lengths: lengths of the clips in order of arrival, repeated as needed.
        rate: clips per second, on average.
        seconds: time in which clips arrive.
        seed: seed of the arrival times.
        warm_up: arguments of `warmed_up`, which runs on the first clip.
    """
    clips = {length: generated_clips(1, length) for length in set(lengths)}
    due_ns = arrivals_ns(rate, seconds, seed)
    warm = warmed_up(lambda: engine.infer(clips[lengths[0]]), **warm_up)
    latencies_ns: list[int] = []
    begin_ns = end_ns = time.perf_counter_ns()
    give_up_ns = begin_ns + round(2e9 * seconds)
    for number, after_ns in enumerate(due_ns):
        if end_ns > give_up_ns:
            break
        wait_until(begin_ns + after_ns)
        engine.infer(clips[lengths[number % len(lengths)]])
        end_ns = time.perf_counter_ns()
        latencies_ns.append(end_ns - begin_ns - after_ns)
    return {
        "warm_up": warm,
        "latencies_ns": latencies_ns,
        "unanswered": len(due_ns) - len(latencies_ns),
        "elapsed_ns": max(end_ns - begin_ns, round(1e9 * seconds)),
    }


def memory(engine: Infers) -> dict[str, Any]:
    """Return the peak GPU memory reserved by torch; None if torch uses no GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {"torch_gpu_bytes": None}
    return {"torch_gpu_bytes": int(torch.cuda.max_memory_reserved())}


def infer(engine: Infers, *, poses: str, shape: list[int], lengths: str) -> dict[str, Any]:
    """Compute a batch: float32 poses, int32 lengths and the float32 logits as base64 of their bytes."""
    import base64

    import numpy as np

    poses_NTD = np.frombuffer(base64.b64decode(poses), np.float32).reshape(shape)
    logits_NC = engine.infer(poses_NTD, np.frombuffer(base64.b64decode(lengths), np.int32))
    return {"logits": base64.b64encode(logits_NC.tobytes()).decode("ascii")}


TASKS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    task.__name__: task for task in (latency, offline, serve, memory, infer)
}


def warmed_up(
    call: Callable[[], object], *, min_calls: int, block_ns: int, limit_ns: int, tolerance: float
) -> dict[str, Any]:
    """Call in blocks until the speed is constant; ``settled`` is False if the limit came first.

    Args:
        call: the function to warm up.
        min_calls: fewest calls, unless the limit comes first.
        block_ns: length of a block in time; at least one call.
        limit_ns: time limit; two blocks run in any case.
        tolerance: largest relative difference of the medians of two consecutive blocks.
    """
    calls, earlier, begin_ns = 0, None, time.perf_counter_ns()
    while True:
        block = sorted(timed(call, 1, block_ns))
        calls += len(block)
        middle = block[len(block) // 2]
        settled = earlier is not None and abs(middle - earlier) <= tolerance * earlier
        elapsed_ns = time.perf_counter_ns() - begin_ns
        if earlier is not None and (elapsed_ns >= limit_ns or (settled and calls >= min_calls)):
            return {"calls": calls, "ns": elapsed_ns, "settled": settled}
        earlier = middle


def timed(call: Callable[[], object], min_calls: int, min_ns: int = 0) -> list[int]:
    """Call until both the calls and the time are reached; return the nanoseconds of each call."""
    samples_ns: list[int] = []
    end_ns = time.perf_counter_ns() + min_ns
    while len(samples_ns) < min_calls or time.perf_counter_ns() < end_ns:
        begin_ns = time.perf_counter_ns()
        call()
        samples_ns.append(time.perf_counter_ns() - begin_ns)
    return samples_ns


def arrivals_ns(rate: float, seconds: float, seed: int) -> list[int]:
    """Return the arrival times of a Poisson process with this seed, in nanoseconds from the beginning."""
    from random import Random

    generator, moment_s, moments = Random(seed), 0.0, []
    while (moment_s := moment_s + generator.expovariate(rate)) < seconds:
        moments.append(round(1e9 * moment_s))
    return moments


def wait_until(moment_ns: int, *, sleep: bool = True) -> None:
    """Wait until `time.perf_counter_ns` reaches a moment; with `sleep`, sleep for most of the time."""
    left_ns = moment_ns - time.perf_counter_ns()
    if sleep and left_ns > _SPIN_NS:
        time.sleep((left_ns - _SPIN_NS) / 1e9)
    while time.perf_counter_ns() < moment_ns:
        pass


def generated_clips(batch: int, frames: int) -> Float32Array:
    """Return (batch, frames, 108) float32 coordinates spread over 0..1, the same every time.

    Multiples of the golden ratio, modulo 1, need no import of a random generator.
    """
    import numpy as np

    from spoter_runtime.landmarks import NUM_FEATURES

    values = np.arange(1, batch * frames * NUM_FEATURES + 1) * 0.6180339887498949 % 1.0
    return values.astype(np.float32).reshape(batch, frames, NUM_FEATURES)


def peak_rss_bytes() -> int | None:
    """Return the peak resident memory of this process; None if unknown.

    On Linux from /proc, because getrusage includes the peak of the parent process, and psutil has no peak.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes if sys.platform == "darwin" else kibibytes_or_bytes * 1024
