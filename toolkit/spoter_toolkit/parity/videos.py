"""Compare two landmarkers on videos, frame by frame, and through a model: the proof from picture to label."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime._types import OnProgress
from spoter_runtime.camera.clips import FindsLandmarks
from spoter_runtime.camera.video import Frame, video_frames
from spoter_runtime.errors import DataError
from spoter_runtime.landmarks import (
    BODY,
    LEFT_HAND,
    LEFT_SHOULDER,
    RIGHT_HAND,
    RIGHT_SHOULDER,
    Float32Array,
)
from spoter_runtime.recognizer import Recognizer

WINDOW: Final = 20  # frames of a clip that is recognised
SURE: Final = 0.2  # difference of the two best scores above which a flip is no toss-up
PARTS: Final = {"body": BODY, "left hand": LEFT_HAND, "right hand": RIGHT_HAND}
_DARK: Final = 0.35  # of the brightness
_HANDS: Final = ("left hand", "right hand")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFact:
    """One part of the body in all frames of some videos.

    Attributes:
        distance: mean over the landmarks of frames in which both found it, in shoulder widths.
        both: in how many frames both found it.
        either: in how many frames one of the two found it.
    """

    part: str
    distance: float | None
    both: int
    either: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A window whose label differs, and what differs in its landmarks.

    Attributes:
        margin: difference of the reference's two best scores.
        hands: in how many of its frames exactly one of the two found a hand, summed over both hands.
        distance: of the hands that both found, in shoulder widths.
    """

    video: str
    frame: int
    reference: str
    candidate: str
    margin: float
    hands: int
    distance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """How near a landmarker is to another on videos that were changed in one way, or not at all.

    Attributes:
        change: one of `CHANGES`.
        windows: clips of `WINDOW` frames that were recognised; 0 without a model.
        sure: those with a margin above `SURE`.
    """

    change: str
    frames: int
    parts: tuple[PartFact, ...]
    windows: int
    agree: int
    sure: int
    sure_agree: int
    flips: tuple[Flip, ...]

    @property
    def hands(self) -> PartFact:
        """Both hands together."""
        hands = [part for part in self.parts if part.part in _HANDS]
        both = sum(part.both for part in hands)
        total = sum((part.distance or 0) * part.both for part in hands)
        return PartFact(
            part="hands",
            distance=total / both if both else None,
            both=both,
            either=sum(part.either for part in hands),
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def _as_it_is(frames: Sequence[Frame]) -> list[Frame]:
    return list(frames)


def _half(frames: Sequence[Frame]) -> list[Frame]:
    """Half of the rows and columns, each the mean of four pixels."""
    even = [frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2].astype(np.uint16) for frame in frames]
    return [
        ((f[::2, ::2] + f[1::2, ::2] + f[::2, 1::2] + f[1::2, 1::2] + 2) // 4).astype(np.uint8) for f in even
    ]


def _darkened(frames: Sequence[Frame]) -> list[Frame]:
    return [(frame * _DARK).astype(np.uint8) for frame in frames]


def _jpeg(quality: int) -> Callable[[Sequence[Frame]], list[Frame]]:
    def change(frames: Sequence[Frame]) -> list[Frame]:
        from PIL import Image  # matplotlib brings it along

        changed = []
        for frame in frames:
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "JPEG", quality=quality)
            changed.append(np.array(Image.open(file).convert("RGB")))
        return changed

    return change


def _every_second(frames: Sequence[Frame]) -> list[Frame]:
    return list(frames)[::2]


CHANGES: Final[Mapping[str, Callable[[Sequence[Frame]], list[Frame]]]] = {
    "as they are": _as_it_is,
    "half the resolution": _half,
    "dark": _darkened,
    "JPEG quality 30": _jpeg(30),
    "half the frames": _every_second,
}


def compare_on_videos(
    videos: Sequence[Path],
    reference: FindsLandmarks,
    candidate: FindsLandmarks,
    recognizer: Recognizer | None = None,
    *,
    changes: Sequence[str] = tuple(CHANGES),
    on_progress: OnProgress | None = None,
) -> tuple[VideoFacts, ...]:
    """Run two landmarkers over videos, changed in several ways; return the facts of each way.

    Args:
        videos: files.
        reference: the landmarker to compare with.
        candidate: the landmarker that is compared.
        recognizer: a model, for labels of all windows; None compares landmarks only.
        changes: names of `CHANGES`.
        on_progress: called with (done, total, what).

    Raises:
        DataError: no videos, or one of them cannot be read.
    """
    if not videos:
        raise DataError("no videos to compare landmarkers on")
    found, done = [], 0
    for change in changes:
        clips = []
        for video in videos:
            frames = CHANGES[change]([frame.rgb for frame in video_frames(video)])
            pair = landmarks_of(reference, frames), landmarks_of(candidate, frames)
            clips.append((video.name, *pair, frames[0].shape[1::-1]))
            done += 1
            if on_progress:
                on_progress(done, len(videos) * len(changes), f"videos, {change}")
        found.append(facts_of(change, clips, recognizer))
    return tuple(found)


def landmarks_of(landmarker: FindsLandmarks, frames: Sequence[Frame]) -> Float32Array:
    """Return the landmarks (frames, 54, 2) of the frames of one video."""
    landmarker.reset()
    return np.stack([landmarker(frame) for frame in frames])


# Name, reference's landmarks, candidate's, and the size of the picture.
Pair = tuple[str, Float32Array, Float32Array, tuple[int, int]]


def facts_of(change: str, clips: Sequence[Pair], recognizer: Recognizer | None = None) -> VideoFacts:
    """Return the facts of landmarks that two landmarkers found in the same frames."""
    flips, windows, sure, sure_agree = [], 0, 0, 0
    for name, reference, candidate, size in clips if recognizer else ():
        for margin, flip in _windows(name, reference, candidate, size, recognizer):
            windows += 1
            sure += margin > SURE
            sure_agree += margin > SURE and flip is None
            if flip:
                flips.append(flip)
    return VideoFacts(
        change=change,
        frames=sum(len(reference) for _, reference, _, _ in clips),
        parts=tuple(_part(name, part, clips) for name, part in PARTS.items()),
        windows=windows,
        agree=windows - len(flips),
        sure=sure,
        sure_agree=sure_agree,
        flips=tuple(flips),
    )


def _part(name: str, part: slice, clips: Sequence[Pair]) -> PartFact:
    distances, both, either = [], 0, 0
    for _, reference, candidate, size in clips:
        there = [~np.isnan(poses[:, part.start, 0]) for poses in (reference, candidate)]
        seen = there[0] & there[1]
        both += int(seen.sum())
        either += int((there[0] | there[1]).sum())
        distances.append(_distances(reference, candidate, size)[seen, part].ravel())
    known = np.concatenate(distances)
    known = known[np.isfinite(known)]
    return PartFact(part=name, distance=float(known.mean()) if len(known) else None, both=both, either=either)


def _distances(reference: Float32Array, candidate: Float32Array, size: tuple[int, int]) -> Float32Array:
    """Return how far each landmark of each frame is, in shoulder widths of the reference."""
    scale = np.array(size, np.float32)
    shoulders = (reference[:, LEFT_SHOULDER] - reference[:, RIGHT_SHOULDER]) * scale
    width = np.linalg.norm(shoulders, axis=-1)[:, None]
    found: Float32Array = np.linalg.norm((candidate - reference) * scale, axis=-1) / width
    return found


def _windows(
    name: str,
    reference: Float32Array,
    candidate: Float32Array,
    size: tuple[int, int],
    recognizer: Recognizer | None,
) -> Iterator[tuple[float, Flip | None]]:
    """Yield the reference's margin in each window, and the flip where the labels differ."""
    assert recognizer is not None
    starts = [
        start
        for start in range(max(1, len(reference) - WINDOW + 1))
        if all(np.isfinite(poses[start : start + WINDOW]).any() for poses in (reference, candidate))
    ]
    answers = [
        recognizer.predict_many([poses[start : start + WINDOW] for start in starts])
        for poses in (reference, candidate)
    ]
    distances = _distances(reference, candidate, size)
    for start, one, other in zip(starts, *answers, strict=True):
        (_, best), (_, second) = (one.top(2) * 2)[:2]
        if one.label == other.label:
            yield best - second, None
            continue
        there = [np.isfinite(poses[start : start + WINDOW, [12, 33], 0]) for poses in (reference, candidate)]
        hands = distances[start : start + WINDOW, LEFT_HAND.start :]
        seen = hands[np.isfinite(hands)]
        yield (
            best - second,
            Flip(
                video=name,
                frame=start,
                reference=one.label,
                candidate=other.label,
                margin=best - second,
                hands=int((there[0] != there[1]).sum()),
                distance=float(seen.mean()) if len(seen) else None,
            ),
        )
