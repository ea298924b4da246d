"""MediaPipe itself as a landmarker, to compare with: its package 0.10.21, on Python up to 3.12."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from tempfile import TemporaryFile
from typing import Any, Final

import numpy as np

from spoter_runtime.camera.landmarker import check_frame
from spoter_runtime.camera.video import Frame
from spoter_runtime.errors import MissingExtraError, pip_fix, require
from spoter_runtime.landmarks import Float32Array, landmarks_from_mediapipe

_EXTRA: Final = "video-mediapipe"
_TAIL: Final = 10  # lines of its log that are shown where it fails


class MediaPipeLandmarker:
    """MediaPipe's Holistic with its default settings; for one video at a time.

    Attributes:
        sha256: ``mediapipe-`` and its version: it has no hash of its own.
        persons: 1 where somebody was found in the last frame, else 0; it looks for one person only.
    """

    def __init__(self) -> None:
        """Import MediaPipe.

        Raises:
            MissingExtraError: it is not installed, or in a version without Holistic.
        """
        with _quiet():
            mediapipe = require("mediapipe", extra=_EXTRA)
        self.sha256 = f"mediapipe-{version('mediapipe')}"
        if not hasattr(mediapipe, "solutions"):
            raise MissingExtraError(
                f"{self.sha256} has no Holistic, 0.10.21 is the last version that has",
                fix=pip_fix(_EXTRA),
            )
        self.persons = 0
        self._module = mediapipe
        self._holistic: Any = None

    def another(self) -> MediaPipeLandmarker:
        """Return one for another video at the same time."""
        return MediaPipeLandmarker()

    def reset(self) -> None:
        """Forget the frames before: the next one belongs to another video."""
        if self._holistic is not None:
            self._holistic.close()
        self._holistic = None

    def __call__(self, frame_rgb: Frame, t_ms: float | None = None) -> Float32Array:
        """Return the landmarks (54, 2) float32 in 0..1 of the frame, NaN where not detected.

        Args:
            frame_rgb: (height, width, 3) uint8.
            t_ms: is not heeded: MediaPipe's Python takes 1/30 s from frame to frame.

        Raises:
            InputError: no such array.
        """
        frame = check_frame(frame_rgb)
        with _quiet():
            if self._holistic is None:
                self._holistic = self._module.solutions.holistic.Holistic()
            found = self._holistic.process(frame)
        self.persons = int(found.pose_landmarks is not None)
        parts = [
            np.full((1, count, 2), np.nan)
            if points is None
            else np.array([[(point.x, point.y) for point in points.landmark]])
            for points, count in (
                (found.pose_landmarks, 33),
                (found.left_hand_landmarks, 21),
                (found.right_hand_landmarks, 21),
            )
        ]
        landmarks: Float32Array = landmarks_from_mediapipe(*parts)[0]
        return landmarks


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let MediaPipe write nothing, unless it fails: its C++ parts log to stderr past Python."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    sys.stderr.flush()
    with TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if failed:
                said.seek(0)
                os.write(2, b"".join(said.readlines()[-_TAIL:]))
