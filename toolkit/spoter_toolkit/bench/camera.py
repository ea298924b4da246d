"""Measure the way from a video to its landmarks: each part on one core and on all, start, memory, energy."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime._types import OnProgress
from spoter_runtime.camera.files import GRAPHS, read_landmarker
from spoter_runtime.camera.landmarker import Landmarker, Run, load_graphs
from spoter_runtime.camera.video import Frame, video_frames
from spoter_runtime.errors import DataError
from spoter_runtime.machine import usable_cores
from spoter_toolkit.bench.worker.energy import read_meters, used_joules, why_not_readable

DECODE: Final = "decode"
TRACKING: Final = "tracking"  # what Python does between the networks
PARTS: Final = (DECODE, *GRAPHS, TRACKING)
_STARTS: Final = 5
_COLD: Final = """
import sys, time
begin = time.perf_counter()
import numpy
from spoter_runtime.camera.landmarker import Landmarker
frame = numpy.load(sys.argv[1])
Landmarker.load(sys.argv[2])(frame)
print(time.perf_counter() - begin, time.process_time())
"""
_PEAK: Final = """
import sys
from spoter_runtime.camera.clips import clip_from_video
from spoter_runtime.camera.landmarker import Landmarker
from spoter_toolkit.bench.worker.tasks import peak_rss_bytes
landmarker = Landmarker.load(sys.argv[1])
for video in sys.argv[2:]:
    clip_from_video(video, landmarker)
print(peak_rss_bytes() or 0)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraRound:
    """One pass over all videos: milliseconds a frame.

    Attributes:
        threads: of each network.
        wall_ms: part → wall time.
        processor_ms: of everything but decoding.
        joules: energy meter → joules a frame, of everything but decoding; empty where no meter can be read.
    """

    threads: int
    wall_ms: dict[str, float]
    processor_ms: float
    joules: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraBench:
    """What was measured; no figure is rounded."""

    landmarker: str
    videos: int
    frames: int
    rounds: tuple[CameraRound, ...]
    starts_s: tuple[tuple[float, float], ...]  # of fresh processes to the first landmark: wall, processor
    peak_bytes: int  # of a process that finds the landmarks of all videos; 0 where the system does not say
    no_energy: str | None  # why there are no joules

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def energy(self) -> str:
        """Return the joules a frame on one thread, medians over the rounds, or why there are none."""
        if self.no_energy:
            return f"not measured: {self.no_energy}"
        one = [each.joules for each in self.rounds if each.threads == 1]
        return ", ".join(
            f"{meter} {np.median([each[meter] for each in one]):.3f} J a frame" for meter in sorted(one[0])
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table: a row a part, then all of them, medians over the rounds."""
        counts = sorted({one.threads for one in self.rounds})
        by_part = {
            part: [
                float(np.median([one.wall_ms[part] for one in self.rounds if one.threads == threads]))
                for threads in counts
            ]
            for part in PARTS
        }
        totals = [sum(times[n] for times in by_part.values()) for n in range(len(counts))]
        rows = [(part, *(f"{value:.1f}" for value in times)) for part, times in by_part.items()]
        return [
            *rows,
            ("all", *(f"{value:.1f}" for value in totals)),
            ("frames a second", *(f"{1000 / value:.1f}" for value in totals)),
        ]


def measure_camera(
    videos: Sequence[Path],
    landmarker: Path | None = None,
    *,
    rounds: int,
    on_progress: OnProgress | None = None,
) -> CameraBench:
    """Measure on videos, with one thread and with one a core in turn.

    Args:
        videos: files; all frames of one are in memory at a time.
        landmarker: its folder; None means the user's cache.
        rounds: passes over all videos, for each number of threads.
        on_progress: called with (done, total, what).

    Raises:
        DataError: no videos, or one that cannot be read.
        BundleError: there is no landmarker.
    """
    if not videos:
        raise DataError("no videos to measure on")
    files = read_landmarker(landmarker)
    counts = sorted({1, usable_cores()})
    graphs = {threads: _Timed(load_graphs(files, threads)) for threads in counts}
    found, frames = [], 0
    for number in range(rounds + 1):
        for threads in counts if number % 2 else reversed(counts):
            one, frames = _round(videos, graphs[threads], threads)
            if number:  # the first one warms up
                found.append(one)
        if on_progress:
            on_progress(number + 1, rounds + 1, "rounds")
    starts = tuple(_start(videos[0], files.folder) for _ in range(_STARTS))
    return CameraBench(
        landmarker=files.sha256,
        videos=len(videos),
        frames=frames,
        rounds=tuple(found),
        starts_s=starts,
        peak_bytes=int(_output_of(_PEAK, files.folder, *videos)),
        no_energy=why_not_readable(),
    )


class _Timed:
    """The graphs as one function that adds up the time of each."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.seconds = dict.fromkeys(GRAPHS, 0.0)

    def __call__(self, graph: str, **inputs: Any) -> list[Any]:
        begin = time.perf_counter()
        outputs = self._run(graph, **inputs)
        self.seconds[graph] += time.perf_counter() - begin
        return outputs


def _round(videos: Sequence[Path], graphs: _Timed, threads: int) -> tuple[CameraRound, int]:
    graphs.seconds = dict.fromkeys(GRAPHS, 0.0)
    landmarker, decode, found, processor, frames = Landmarker(graphs, ""), 0.0, 0.0, 0.0, 0
    joules: Counter[str] = Counter()
    for video in videos:
        begin = time.perf_counter()
        pictures: list[Frame] = [frame.rgb for frame in video_frames(video)]
        decode += time.perf_counter() - begin
        landmarker.reset()
        begin, used, meters = time.perf_counter(), time.process_time(), read_meters()
        for picture in pictures:
            landmarker(picture)
        found += time.perf_counter() - begin
        processor += time.process_time() - used
        joules.update(used_joules(meters, read_meters()))
        frames += len(pictures)
    tracking = found - sum(graphs.seconds.values())
    seconds = {DECODE: decode, **graphs.seconds, TRACKING: tracking}
    wall_ms = {part: 1000 * seconds[part] / frames for part in PARTS}
    one = CameraRound(
        threads=threads,
        wall_ms=wall_ms,
        processor_ms=1000 * processor / frames,
        joules={meter: value / frames for meter, value in joules.items()},
    )
    return one, frames


def _start(video: Path, landmarker: Path) -> tuple[float, float]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        file = Path(folder) / "frame.npy"
        np.save(file, next(video_frames(video)).rgb)
        wall, processor = _output_of(_COLD, file, landmarker).split()
    return float(wall), float(processor)


def _output_of(code: str, *arguments: Path) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
