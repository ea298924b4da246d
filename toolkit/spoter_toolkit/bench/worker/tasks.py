"""What a worker does when it is asked: time single calls, passes over many clips, clips that arrive.

Every function here runs in the worker's process, takes the engine and a request's fields, and returns plain
JSON values. ``infer`` gives an array on the host: on a GPU a sample holds both transfers, and the GPU has
finished. At the top only the standard library is imported, as in `spoter_toolkit.bench.worker.__main__`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from spoter_runtime.landmarks import Float32Array

_SPIN_NS: Final = 200_000  # before a clip arrives, awake: a sleep may end later than asked


class Infers(Protocol):
    """A `spoter_runtime.runner.Runner`, or what can be timed as one."""

    def infer(self, poses_NTD: Any, lengths_N: Any = None) -> Any:
        """Work on a batch; see `spoter_runtime.runner.Runner.infer`."""


class Slowed:
    """An engine that takes a share longer for each call than it would: a slow-down that is known."""

    def __init__(self, engine: Infers, share: float) -> None:
        """Slow an engine down by `share` of each call's own time; 0.1 is 10 %."""
        self._engine = engine
        self._share = share

    def infer(self, poses_NTD: Any, lengths_N: Any = None) -> Any:
        """Do the engine's call, then wait without sleeping."""
        begin_ns = time.perf_counter_ns()
        answer = self._engine.infer(poses_NTD, lengths_N)
        end_ns = time.perf_counter_ns()
        end_ns += round((end_ns - begin_ns) * self._share)
        while time.perf_counter_ns() < end_ns:
            pass
        return answer


def latency(
    engine: Infers, *, batch: int, frames: int, warm_up: dict[str, Any] | None, min_calls: int, min_ns: int
) -> dict[str, Any]:
    """Warm up, then time single calls on full clips.

    Args:
        engine: what is measured.
        batch: clips of a call.
        frames: of each clip.
        warm_up: see `warmed_up`; None to time the very first call.
        min_calls: so many are measured at least.
        min_ns: and for so long.

    Returns:
        ``samples_ns``: wall time of every measured call; ``warm_up``: see `warmed_up`.
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
    """Warm up, then time passes over many clips of different lengths, padding them included.

    Args:
        engine: what is measured.
        batches: lengths of the clips of each batch.
        frames: what each batch is padded to.
        warm_up: see `warmed_up`; done on the first batch.
        warm_passes: whole passes before that, where the shapes are new.
        min_passes: so many are measured at least.
        min_ns: and for so long.
        meters: read the energy meters before and after the measured passes.

    Returns:
        ``samples_ns``: wall time of every pass; ``joules``: what each meter counted meanwhile.
    """
    from spoter_toolkit.bench.worker.energy import read_meters, used_joules

    clips = {length: generated_clips(1, length)[0] for lengths in batches for length in lengths}

    def one(lengths: list[int], padded: int) -> None:
        poses_NTD, lengths_N = _padded([clips[length] for length in lengths], padded)
        engine.infer(poses_NTD, lengths_N)

    def one_pass() -> None:
        for lengths, padded in zip(batches, frames, strict=True):
            one(lengths, padded)

    for _ in range(warm_passes):
        one_pass()
    warm = warmed_up(lambda: one(batches[0], frames[0]), **warm_up)
    before = read_meters() if meters else {}
    samples_ns = timed(one_pass, min_passes, min_ns)
    joules = used_joules(before, read_meters()) if meters else {}
    return {"warm_up": warm, "samples_ns": samples_ns, "joules": joules}


def serve(
    engine: Infers,
    *,
    lengths: list[int],
    rate: float,
    seconds: float,
    seed: int,
    warm_up: dict[str, Any],
) -> dict[str, Any]:
    """Answer single clips that arrive at random times, one after the other.

    A latency counts from the moment at which its clip was due, not from the one at which the engine came to
    it: a slow answer makes those behind it late, as it would in a service. Clips that still wait when twice
    the time is over are not answered.

    Args:
        engine: what is measured.
        lengths: of the clips, in the order they arrive; again from the first after the last.
        rate: clips a second, on average.
        seconds: for so long clips arrive.
        seed: of the arrival times.
        warm_up: see `warmed_up`; done on the first clip.

    Returns:
        ``latencies_ns`` of the answered clips; ``unanswered``: how many were not; ``elapsed_ns``: from the
        beginning to the last answer, and at least the time in which clips came.
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
        _wait_until(begin_ns + after_ns)
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
    """Return the process's share of the memory that it holds, and what torch took of a GPU's."""
    return {"pss_bytes": pss_bytes(), "torch_gpu_bytes": _torch_gpu_bytes()}


WORK: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    work.__name__: work for work in (latency, offline, serve, memory)
}


def warmed_up(
    call: Callable[[], object], *, min_calls: int, block_ns: int, limit_ns: int, tolerance: float
) -> dict[str, Any]:
    """Call in blocks until the speed stands still.

    Args:
        call: what is warmed up.
        min_calls: so many calls at least, unless the limit comes first.
        block_ns: a block is as many calls as fill this time, and one at least.
        limit_ns: give up after so long, and two blocks.
        tolerance: settled when the medians of two blocks in a row differ by this share at most.

    Returns:
        ``calls``, ``ns``, and ``settled``: False where the limit came first.
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


def timed(call: Callable[[], object], min_calls: int, min_ns: int) -> list[int]:
    """Call until both the calls and the time are reached; return the nanoseconds of each call."""
    samples_ns: list[int] = []
    end_ns = time.perf_counter_ns() + min_ns
    while len(samples_ns) < min_calls or time.perf_counter_ns() < end_ns:
        begin_ns = time.perf_counter_ns()
        call()
        samples_ns.append(time.perf_counter_ns() - begin_ns)
    return samples_ns


def arrivals_ns(rate: float, seconds: float, seed: int) -> list[int]:
    """Return when clips arrive, in nanoseconds from the beginning: a Poisson process, fixed by the seed."""
    from random import Random

    generator, moment_s, moments = Random(seed), 0.0, []
    while (moment_s := moment_s + generator.expovariate(rate)) < seconds:
        moments.append(round(1e9 * moment_s))
    return moments


def _wait_until(moment_ns: int) -> None:
    left_ns = moment_ns - time.perf_counter_ns()
    if left_ns > _SPIN_NS:
        time.sleep((left_ns - _SPIN_NS) / 1e9)
    while time.perf_counter_ns() < moment_ns:
        pass


def generated_clips(batch: int, frames: int) -> Float32Array:
    """Return (batch, frames, 108) float32 coordinates spread over 0..1, the same every time.

    Multiples of the golden ratio, modulo 1: no random generator has to be imported.
    """
    import numpy as np

    from spoter_runtime.landmarks import NUM_FEATURES

    values = np.arange(1, batch * frames * NUM_FEATURES + 1) * 0.6180339887498949 % 1.0
    return values.astype(np.float32).reshape(batch, frames, NUM_FEATURES)


def _padded(clips: list[Float32Array], frames: int) -> tuple[Float32Array, Any]:
    """Return clips (frames, 108) as one batch (N, T, 108), zeros behind them, and their lengths (N,)."""
    import numpy as np

    poses_NTD = np.zeros((len(clips), frames, clips[0].shape[1]), np.float32)
    for row, clip in zip(poses_NTD, clips, strict=True):
        row[: len(clip)] = clip
    return poses_NTD, np.array([len(clip) for clip in clips], np.int32)


def peak_rss_bytes() -> int | None:
    """Return the most memory this process has held so far; None where the system does not say.

    On Linux from /proc: getrusage there begins with the size of the process that started this one,
    which would give every worker the memory of the program that runs the bench.
    """
    if (peak := _proc_bytes("status", "VmHWM")) is not None:
        return peak
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes if sys.platform == "darwin" else kibibytes_or_bytes * 1024


def pss_bytes() -> int | None:
    """Return the memory this process holds now, pages shared with others divided by their number.

    None where the system does not say: it is Linux's.
    """
    return _proc_bytes("smaps_rollup", "Pss")


def _proc_bytes(file: str, field: str) -> int | None:
    try:
        text = Path(f"/proc/self/{file}").read_text()
    except OSError:
        return None
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(lines[field].split()[0]) * 1024 if field in lines else None


def _torch_gpu_bytes() -> int | None:
    """Return the most GPU memory that torch has reserved; None where torch uses no GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_reserved())
