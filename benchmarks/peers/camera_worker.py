"""One landmarker in a process of its own: reads names of .npy files with frames, prints the time of each.

    python benchmarks/peers/camera_worker.py ours LANDMARKER | mediapipe | tasks

`mediapipe` is Holistic, `tasks` the Tasks API: its pose landmarker, then its hand landmarker.
It runs in the landmarker's own environment, so it imports nothing else of the benchmarks.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np

# The file of the wheel, its name in the Tasks API's archive, and the mean and deviation of its input.
_TASKS = {
    "pose": (
        ("pose_detection/pose_detection.tflite", "pose_detector.tflite", 127.5, 127.5),
        ("pose_landmark/pose_landmark_full.tflite", "pose_landmarks_detector.tflite", 0.0, 255.0),
    ),
    "hand": (
        ("palm_detection/palm_detection_full.tflite", "hand_detector.tflite", 0.0, 255.0),
        ("hand_landmark/hand_landmark_full.tflite", "hand_landmarks_detector.tflite", 0.0, 255.0),
    ),
}


class TasksLandmarker:
    """The Tasks API with the same networks as Holistic, for videos: one person, two hands."""

    def __init__(self) -> None:
        """Pack the wheel's networks as the Tasks API wants them."""
        import mediapipe
        from mediapipe.tasks.python.metadata.metadata_writers import (
            metadata_writer,
            model_asset_bundle_utils,
        )

        self._mediapipe, self._archives = mediapipe, {}
        networks = Path(mediapipe.__file__).parent / "modules"
        with tempfile.TemporaryDirectory() as folder:
            for name, parts in _TASKS.items():
                files = {}
                for file, called, mean, deviation in parts:
                    writer = metadata_writer.MetadataWriter(bytearray((networks / file).read_bytes()))
                    writer.add_general_info(name, name)
                    writer.add_image_input([mean], [deviation])
                    files[called] = bytes(writer.populate()[0])
                archive = Path(folder) / f"{name}.task"
                model_asset_bundle_utils.create_model_asset_bundle(files, str(archive))
                self._archives[name] = archive.read_bytes()
        self._open: list[Any] = []

    def reset(self) -> None:
        """Begin another video."""
        from mediapipe.tasks.python import BaseOptions, vision

        for landmarker in self._open:
            landmarker.close()
        video, self._t_ms = vision.RunningMode.VIDEO, 0
        pose, hand = (BaseOptions(model_asset_buffer=self._archives[name]) for name in _TASKS)
        self._open = [
            vision.PoseLandmarker.create_from_options(
                vision.PoseLandmarkerOptions(base_options=pose, running_mode=video)
            ),
            vision.HandLandmarker.create_from_options(
                vision.HandLandmarkerOptions(base_options=hand, running_mode=video, num_hands=2)
            ),
        ]

    def __call__(self, frame: Any) -> None:
        """Find body and hands in the next frame."""
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=frame)
        for landmarker in self._open:
            landmarker.detect_for_video(image, self._t_ms)
        self._t_ms += 33


def main() -> None:
    """Answer each line of stdin with one object: milliseconds a frame, wall and processor."""
    landmarker: Any
    if sys.argv[1] == "tasks":
        landmarker = TasksLandmarker()
    elif sys.argv[1] == "ours":
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
