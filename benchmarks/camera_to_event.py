"""How long does one frame take, from the picture to its events, on one core?

    python benchmarks/camera_to_event.py VIDEOS LANDMARKER BUNDLE [--rounds 3] [--core 0]

VIDEOS is a folder of videos, LANDMARKER what `spoter-kit landmarker fetch` wrote. The process is kept on one
core, each network on one thread. Processor time is the figure: a busy machine costs it little.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from result_files import RESULTS, write_result

from spoter_runtime import Recognizer, SignStream
from spoter_runtime.camera.landmarker import Landmarker
from spoter_runtime.camera.video import video_frames
from spoter_runtime.live.settings import Gate
from spoter_toolkit.report.table import markdown_table

GATES: tuple[Gate, ...] = ("rest", "window")
WARM = 5  # frames: the first ones look for a person in the whole picture
FRAME_MS = 1000 / 30


def frames_timed(stream: SignStream, video: Path) -> list[tuple[float, float]]:
    """Return (processor ms, wall ms) of each frame: decoding, landmarks, gate, model, events as JSON."""
    stream.reset()
    found, frames, number = [], video_frames(video), 0
    while True:
        begin = time.process_time(), time.perf_counter()
        if (frame := next(frames, None)) is None:
            return found[WARM:]
        stream.accept(frame.rgb, number * FRAME_MS)
        json.dumps([event.as_json() for event in stream.events()])
        number += 1
        spent = time.process_time() - begin[0], time.perf_counter() - begin[1]
        found.append((1000 * spent[0], 1000 * spent[1]))


def main() -> None:
    """Time every video with each gate, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("videos", type=Path)
    parser.add_argument("landmarker", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {given.core})
    recognizer = Recognizer.load(given.bundle, "ort-cpu", threads=1, tuned=False)
    landmarker = Landmarker.load(given.landmarker)
    videos = sorted(path for path in given.videos.iterdir() if path.suffix in (".mp4", ".gif", ".mkv"))
    streams = {gate: SignStream(recognizer, gate, landmarker=landmarker) for gate in GATES}
    times: dict[str, list[tuple[float, float]]] = {gate: [] for gate in GATES}
    for _ in range(given.rounds):
        for video in videos:
            for gate, stream in streams.items():
                times[gate] += frames_timed(stream, video)
    rows: list[dict[str, Any]] = []
    for gate, spent in times.items():
        cpu, wall = np.array(spent).T
        p50, p95 = np.percentile(cpu, (50, 95))
        figures = {"processor ms": cpu.mean(), "p50": p50, "p95": p95, "frames/s": 1000 / cpu.mean()}
        rows.append({"gate": gate, "frames": len(cpu)} | {k: round(float(v), 1) for k, v in figures.items()})
        rows[-1]["wall ms, p50"] = round(float(np.percentile(wall, 50)), 1)
    write_result(
        "camera-to-event",
        "From a picture to its events, on one core",
        f"{len(videos)} videos, {given.rounds} rounds; each frame counts as one of 30 a second.",
        [markdown_table(tuple(rows[0]), [tuple(map(str, row.values())) for row in rows])],
        {"rows": rows},
        folder=given.results,
    )


if __name__ == "__main__":
    main()
