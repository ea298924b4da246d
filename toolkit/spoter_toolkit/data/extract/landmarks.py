"""Find the landmarks of the clips of one video, in one pass over its frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from spoter_runtime.camera.clips import ClipFrames, FindsLandmarks, VideoClip
from spoter_runtime.camera.video import TimedFrame, video_frames
from spoter_runtime.errors import DataError, InputError, SpoterError
from spoter_runtime.landmarks import LEFT_SHOULDER, RIGHT_SHOULDER, Float32Array
from spoter_toolkit.data.extract.videos import VideoPart

Backend = Literal["ours", "mediapipe"]

_WRISTS: Final = (10, 11)  # of the body: seen more often than the hands'
# A wrist that moves less than this many shoulder widths a second rests; some frames are kept around movement.
_STILL: Final = 0.6
_KEPT_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Finder:
    """Which landmarker, and how frames are given to it. Other processes and machines load the same.

    Attributes:
        landmarker: its folder; None for MediaPipe itself.
        mirror: see `ClipFrames`.
        most_frames: a clip of more is refused; None takes any.
    """

    landmarker: Path | None
    mirror: bool = False
    most_frames: int | None = None

    def load(self) -> FindsLandmarks:
        """Load the landmarker, for one thread.

        Raises:
            SpoterError: it is not there, or an engine for it is not installed.
        """
        if self.landmarker is None:
            from spoter_runtime.camera.mediapipe import MediaPipeLandmarker

            return MediaPipeLandmarker()
        from spoter_runtime.camera.landmarker import Landmarker

        return Landmarker.load(self.landmarker)

    def find(
        self,
        parts: Sequence[VideoPart],
        landmarker: FindsLandmarks,
        on_frame: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[VideoPart, VideoClip | SpoterError]]:
        """Yield what `find_landmarks` finds with a landmarker that `load` returned."""
        return find_landmarks(
            parts, landmarker, mirror=self.mirror, most_frames=self.most_frames, on_frame=on_frame
        )


def find_landmarks(
    parts: Sequence[VideoPart],
    landmarker: FindsLandmarks,
    *,
    mirror: bool = False,
    most_frames: int | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Iterator[tuple[VideoPart, VideoClip | SpoterError]]:
    """Yield each part with its landmarks as soon as its last frame was seen, or with the error of its video.

    What is found in a part depends on its own frames alone: each is tracked by itself, also where two
    overlap.

    Args:
        parts: of one video.
        landmarker: it, and others that share its networks, are used.
        mirror: see `ClipFrames`.
        most_frames: see `Finder`.
        on_frame: is called for each frame of each part.
    """
    waiting = list(parts)
    running: dict[VideoPart, ClipFrames] = {}
    free = [landmarker]  # a reset makes one as good as new
    owner: dict[VideoPart, FindsLandmarks] = {}

    def ended(part: VideoPart) -> tuple[VideoPart, VideoClip]:
        free.append(owner.pop(part))
        return part, running.pop(part).clip()

    def too_long(part: VideoPart) -> tuple[VideoPart, SpoterError]:
        ended(part)
        return part, InputError(
            f"{part.where}: has more than {most_frames} frames, the models take 1..{most_frames}",
            fix="--long resample, or --long cut",
        )

    number, frame = -1, None
    try:
        for number, frame in enumerate(video_frames(parts[0].path)):
            for part in [part for part in running if _place(part, number, frame) >= part.end]:
                yield ended(part)
            for part in [part for part, frames in running.items() if len(frames) == most_frames]:
                yield too_long(part)
            for part in [part for part in waiting if _place(part, number, frame) >= part.start]:
                waiting.remove(part)
                owner[part] = free.pop() if free else landmarker.another()
                running[part] = ClipFrames(owner[part], mirror=mirror)
            for frames in running.values():
                frames.add(frame)
                on_frame()
            if not running and not waiting:
                return
        yield from [ended(part) for part in list(running)]
        last = f"frame {number}" if frame is None else f"frame {number}, {frame.t_ms / 1000:.2f} s"
        for part in waiting:
            unit = "s" if part.unit == "s" else "frames"
            yield (
                part,
                DataError(
                    f"{part.path}: ends at {last}, before the clip {part.id!r} begins ({part.start:g} {unit})"
                ),
            )
    except SpoterError as error:
        for part in (*running, *waiting):
            yield part, error


def _place(part: VideoPart, number: int, frame: TimedFrame) -> float:
    """Return where a frame is in its video, in the unit of a part."""
    return number if part.unit == "frames" else frame.t_ms / 1000


def without_still_ends(poses_TLD: Float32Array, fps: float) -> Float32Array:
    """Return a clip without the frames at both ends in which no wrist moves; all of it where none ever does.

    Args:
        poses_TLD: (frames, 54, 2); NaN where not detected.
        fps: its frames a second.
    """
    width = np.linalg.norm(poses_TLD[:, LEFT_SHOULDER] - poses_TLD[:, RIGHT_SHOULDER], axis=1)
    if len(poses_TLD) < 3 or not np.isfinite(width).any():
        return poses_TLD
    way = np.linalg.norm(np.diff(poses_TLD[:, list(_WRISTS)], axis=0), axis=-1)
    speed = np.nan_to_num(way).max(axis=1) * fps / np.nanmedian(width)
    moving = np.flatnonzero(speed >= _STILL)  # from this frame to the next
    if not len(moving):
        return poses_TLD
    kept = round(_KEPT_S * fps)
    return poses_TLD[max(0, moving[0] - kept) : moving[-1] + 2 + kept]
