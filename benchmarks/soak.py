"""Answer clips and streamed frames in one process, a million of each: does anything grow?

    python benchmarks/soak.py BUNDLE [--clips 1000000] [--frames 1000000] [--minutes 600]

Each clip is a call of `Recognizer.predict`, each frame one of `SignStream.accept`; nothing is batched.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from result_files import RESULTS, write_result

from spoter_export.probes import generated_poses
from spoter_runtime import Recognizer, SignStream
from spoter_toolkit.report.table import markdown_table

SAMPLES = 200
WARM_UP = 0.2  # share of the calls that is left out: caches and arenas fill


def soak(call: Callable[[int], object], calls: int, minutes: float) -> dict[str, Any]:
    """Call so often, or so long; return memory, handles, threads and objects, sampled in equal distances."""
    process, every = psutil.Process(), max(1, calls // SAMPLES)
    samples = np.zeros((calls // every, 5), np.int64)  # made before: a list of them would grow itself
    ends, begin_s, number = time.monotonic() + 60 * minutes, time.process_time(), 0
    while number < calls and time.monotonic() < ends:
        number += 1
        call(number)
        if number % every == 0:
            gc.collect()
            rss, objects = process.memory_info().rss, len(gc.get_objects())
            samples[number // every - 1] = number, rss, process.num_fds(), process.num_threads(), objects
    rows = samples[: number // every].tolist()
    return {"calls": number, "rows": rows, "processor_ms": 1000 * (time.process_time() - begin_s) / number}


def growth(rows: list[list[int]], column: int) -> tuple[float, float]:
    """Return a column's slope a million calls after the warm-up, and half of its 95 % interval.

    Neighbours are alike, so the error is that of ten means, not of all samples.
    """
    kept = np.array(rows[int(len(rows) * WARM_UP) :], float)
    blocks = np.array([block.mean(axis=0) for block in np.array_split(kept, 10)])
    x, y = blocks[:, 0] / 1e6, blocks[:, column]
    x = x - x.mean()
    slope = float((x * y).sum() / (x * x).sum())
    left = y - y.mean() - slope * x
    error = float(np.sqrt((left * left).sum() / (len(x) - 2) / (x * x).sum()))
    return slope, 2.31 * error  # Student's t for eight degrees of freedom


def clips_of(bundle: Path) -> Callable[[int], object]:
    """Return a call that answers the next clip, of 1 to 40 frames."""
    recognizer = Recognizer.load(bundle, "ort-cpu", threads=1, tuned=False)
    dice = np.random.default_rng(0)
    clips = [generated_poses(dice, 1, frames)[0].reshape(frames, 54, 2) for frames in range(1, 41)]
    return lambda number: recognizer.predict(clips[number % len(clips)])


def frames_of(bundle: Path) -> Callable[[int], object]:
    """Return a call that streams the next frame, 30 a second, and takes the events."""
    stream = SignStream(Recognizer.load(bundle, "ort-cpu", threads=1, tuned=False))
    poses = generated_poses(np.random.default_rng(1), 1, 600)[0].reshape(600, 54, 2)

    def accept(number: int) -> None:
        stream.accept(poses[number % len(poses)], number * 1000 / 30)
        stream.events()

    return accept


def cells(what: str, found: dict[str, Any]) -> tuple[str, ...]:
    """Return the page's row of one kind of call."""
    rows = found["rows"]
    slope, error = growth(rows, 1)
    first, last = rows[int(len(rows) * WARM_UP)], rows[-1]
    counts = [f"{first[column]} → {last[column]}" for column in (2, 3, 4)]
    memory = f"{slope / 1e3:+.0f} ± {error / 1e3:.0f}"
    return (
        what,
        f"{found['calls']:,}",
        f"{found['processor_ms']:.3f}",
        f"{last[1] / 1e6:.1f}",
        memory,
        *counts,
    )


def main() -> None:
    """Run both and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clips", type=int, default=10**6)
    parser.add_argument("--frames", type=int, default=10**6)
    parser.add_argument("--minutes", type=float, default=600, help="stop then, with fewer calls")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = {
        "predict": soak(clips_of(given.bundle), given.clips, given.minutes / 2),
        "stream": soak(frames_of(given.bundle), given.frames, given.minutes / 2),
    }
    rows = [
        cells("`Recognizer.predict`, clips of 1 to 40 frames", found["predict"]),
        cells("`SignStream.accept`, one stream", found["stream"]),
    ]
    columns = ("call", "calls", "processor ms", "MB at the end", "growth, kB a million calls")
    columns += ("handles", "threads", "objects")
    write_result(
        "soak",
        "Does anything grow in a process that lives long",
        f"One process, one call at a time, nothing batched; {SAMPLES} samples after a garbage collection. "
        f"The first {WARM_UP:.0%} are left out; ± is half of a 95 % interval over ten means.",
        [markdown_table(columns, rows)],
        found,
        folder=given.results,
    )


if __name__ == "__main__":
    main()
