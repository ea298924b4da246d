"""The landmarks of a whole video, or of a part of one, and the time that each step took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from spoter_runtime.camera.video import Frame, TimedFrame, video_frames
from spoter_runtime.errors import InputError
from spoter_runtime.landmarks import Float32Array

_FPS_OF_ONE_FRAME: Final = 30.0


class FindsLandmarks(Protocol):
    """What `Landmarker` and `MediaPipeLandmarker` have in common."""

    @property
    def sha256(self) -> str:
        """Names the landmarker; what it found carries it."""

    @property
    def persons(self) -> int:
        """How many persons were seen when the body was last looked for."""

    def __call__(self, frame_rgb: Frame, t_ms: float | None = None) -> Float32Array:
        """Return the landmarks (54, 2) of the next frame."""

    def reset(self) -> None:
        """Forget the frames before."""

    def another(self) -> FindsLandmarks:
        """Return a landmarker for another video at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoClip:
    """The landmarks of a video.

    Attributes:
        poses_TLD: (frames, 54, 2) float32 in 0..1 of the picture, NaN where not detected.
        fps: frames a second, the mean where the rate varies.
        persons: the most that were seen at once, counted to 2; the larger one was followed.
        landmarker: the name of the landmarker, its sha256.
        decode_ms: time for reading and decoding all frames.
        landmarks_ms: time for finding the landmarks in all frames.
    """

    poses_TLD: Float32Array
    fps: float
    persons: int
    landmarker: str
    decode_ms: float
    landmarks_ms: float


class ClipFrames:
    """Takes the frames of one clip one after the other, and keeps their landmarks."""

    def __init__(self, landmarker: FindsLandmarks, *, mirror: bool = False) -> None:
        """Begin a clip.

        Args:
            landmarker: for this clip alone until its end.
            mirror: swap left and right in each picture, for videos that show a mirror image.
        """
        landmarker.reset()
        self._landmarker = landmarker
        self._mirror = mirror
        self._found: list[Float32Array] = []
        self._times_ms: list[float] = []
        self._persons = 0
        self._ms = 0.0

    def add(self, frame: TimedFrame) -> None:
        """Find the landmarks of the next frame.

        The smoothing takes 1/30 s from frame to frame, whatever the times are. MediaPipe's Python does so
        too, and models are trained on what it gave.

        Raises:
            BackendError: ONNX Runtime failed.
        """
        begin = time.perf_counter()
        rgb = np.ascontiguousarray(frame.rgb[:, ::-1]) if self._mirror else frame.rgb
        self._found.append(self._landmarker(rgb))
        self._persons = max(self._persons, self._landmarker.persons)
        self._times_ms.append(frame.t_ms)
        self._ms += 1000 * (time.perf_counter() - begin)

    def __len__(self) -> int:
        return len(self._found)

    def clip(self, decode_ms: float = 0.0) -> VideoClip:
        """Return the clip; at least one frame was added."""
        elapsed_ms = self._times_ms[-1] - self._times_ms[0]
        return VideoClip(
            poses_TLD=np.stack(self._found),
            fps=1000 * (len(self._found) - 1) / elapsed_ms if elapsed_ms else _FPS_OF_ONE_FRAME,
            persons=self._persons,
            landmarker=self._landmarker.sha256,
            decode_ms=decode_ms,
            landmarks_ms=self._ms,
        )


def clip_from_video(
    path: Path | str,
    landmarker: FindsLandmarks,
    *,
    mirror: bool = False,
    max_frames: int | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> VideoClip:
    """Return the landmarks of a video file.

    Args:
        path: see `video_frames`.
        landmarker: it is reset first.
        mirror: see `ClipFrames`.
        max_frames: a longer video is refused as soon as it is known to be longer; None takes any.
        on_frame: is called after each frame.

    Raises:
        MissingExtraError: PyAV is not installed.
        DataError: see `video_frames`.
        InputError: more than `max_frames` frames.
    """
    begin = time.perf_counter()
    frames = ClipFrames(landmarker, mirror=mirror)
    for frame in video_frames(path):
        if len(frames) == max_frames:
            raise InputError(
                f"{path}: has more than {max_frames} frames, the model takes 1..{max_frames}",
                fix="cut the video to one sign, or take all of it in fewer frames: --long resample, "
                "Recognizer.load(bundle, long='resample')",
            )
        frames.add(frame)
        on_frame()
    whole = frames.clip()
    return frames.clip(decode_ms=1000 * (time.perf_counter() - begin) - whole.landmarks_ms)
