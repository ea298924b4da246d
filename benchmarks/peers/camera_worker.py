"""One landmarker in a process of its own: reads names of .npy files with frames, prints the time of each.

    python benchmarks/peers/camera_worker.py ours LANDMARKER | mediapipe

It runs in the landmarker's own environment, so it imports nothing else of the benchmarks.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np


def main() -> None:
    """Answer each line of stdin with one object: milliseconds a frame, wall and processor."""
    if sys.argv[1] == "ours":
        from spoter_runtime.camera.landmarker import Landmarker

        landmarker = Landmarker.load(sys.argv[2])
    else:
        from spoter_runtime.camera.mediapipe import MediaPipeLandmarker

        landmarker = MediaPipeLandmarker()
    for line in sys.stdin:
        frames = np.load(line.strip())
        landmarker.reset()
        landmarker(frames[0])  # the first one loads or detects: `cold` measures it
        begin = time.perf_counter(), time.process_time()
        for frame in frames[1:]:
            landmarker(frame)
        end = time.perf_counter(), time.process_time()
        each = [1000 * (b - a) / (len(frames) - 1) for a, b in zip(begin, end, strict=True)]
        print(json.dumps({"wall_ms": each[0], "cpu_ms": each[1]}), flush=True)


if __name__ == "__main__":
    main()
