"""Make a stream of clips: signs, and what is none, with rests between, at times that are known.

The clips are real; their order, the rests and the movements between them are simulated. A rest is the last
frame's body with the arms hanging down; between two frames each point moves smoothly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from spoter_runtime.landmarks import LEFT_HAND, LEFT_SHOULDER, RIGHT_HAND, RIGHT_SHOULDER, Float32Array
from spoter_runtime.live.frames import resample_segment

Kind = Literal["sign", "none", "unknown"]

FPS: Final = 30.0  # that a stream is made with
HANGING: Final = 2.2  # shoulder widths of resting wrists below the shoulders
MOVES_MS: Final = (200, 350)  # hands take so long up or down, or to the next sign
RESTS_MS: Final = (500, 1500)
_ARMS: Final = ((RIGHT_SHOULDER, 8, 10), (LEFT_SHOULDER, 9, 11))  # shoulder, elbow, wrist


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """A clip for a stream, at `FPS`."""

    kind: Kind
    label: str
    poses_TLD: Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What was signed, or was none, from when to when."""

    kind: Kind
    label: str
    start_ms: float
    end_ms: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MadeStream:
    """Frames with their times, and what is in them."""

    name: str
    times_ms: npt.NDArray[Any]
    poses_FLD: Float32Array
    truths: tuple[Truth, ...]

    @property
    def minutes(self) -> float:
        """Its length."""
        return float(self.times_ms[-1] - self.times_ms[0]) / 60_000

    @property
    def signs(self) -> tuple[Truth, ...]:
        """The truths that a model should say."""
        return tuple(truth for truth in self.truths if truth.kind == "sign")

    def at_rate(self, fps: float) -> MadeStream:
        """Return the same seen at another frame rate."""
        end = float(self.times_ms[-1])
        poses = resample_segment(self.times_ms.tolist(), list(self.poses_FLD), 0.0, end, fps)
        times = np.arange(len(poses)) * (1000 / fps)
        return MadeStream(
            name=f"{self.name}, {fps:g} fps", times_ms=times, poses_FLD=poses, truths=self.truths
        )

    def with_lost(self, share: float, rng: np.random.Generator) -> MadeStream:
        """Return the same with a share of the frames lost, chosen at random."""
        kept = rng.random(len(self.times_ms)) >= share
        return MadeStream(
            name=f"{self.name}, {share:.0%} lost",
            times_ms=self.times_ms[kept],
            poses_FLD=self.poses_FLD[kept],
            truths=self.truths,
        )

    def with_tracking_lost(
        self, times_a_second: float, longest_ms: float, rng: np.random.Generator
    ) -> MadeStream:
        """Return the same where the tracker loses the person for a moment, at random times.

        Args:
            times_a_second: how often, about.
            longest_ms: each loss lasts from one frame to this long, all lengths alike.
            rng: chooses the times and the lengths.
        """
        starts = rng.random(len(self.times_ms)) < times_a_second / FPS
        frames = rng.integers(1, round(longest_ms * FPS / 1000) + 1, len(starts))
        poses = self.poses_FLD.copy()
        for start in np.flatnonzero(starts):
            poses[start : start + frames[start]] = np.nan
        name = f"{self.name}, tracking lost {times_a_second:g} times a second"
        return MadeStream(name=name, times_ms=self.times_ms, poses_FLD=poses, truths=self.truths)


class _Maker:
    """Frames in the making."""

    def __init__(self) -> None:
        self.frames: list[Float32Array] = []
        self.truths: list[Truth] = []

    def add(self, frames: Float32Array) -> tuple[float, float]:
        start = len(self.frames)
        self.frames.extend(frames)
        return start * 1000 / FPS, (len(self.frames) - 1) * 1000 / FPS

    def move_to(self, frame: Float32Array, ms: float) -> None:
        if self.frames:
            self.add(between(self.frames[-1], frame, round(ms * FPS / 1000)))


def compose(name: str, pieces: Sequence[Piece], rng: np.random.Generator, *, in_a_row: int = 1) -> MadeStream:
    """Return a stream of pieces in their order.

    Args:
        name: for reports.
        pieces: at least one.
        rng: chooses the lengths of rests and movements.
        in_a_row: let the hands hang down after so many pieces.
    """
    made = _Maker()
    for number, piece in enumerate(pieces):
        first = _known_body(piece.poses_TLD)
        if number % in_a_row == 0:
            rest = hanging(first)
            if made.frames:
                made.move_to(hanging(made.frames[-1]), rng.uniform(*MOVES_MS))
                made.move_to(rest, rng.uniform(*RESTS_MS))
            made.add(np.repeat(rest[None], round(rng.uniform(*RESTS_MS) * FPS / 1000), 0))
        made.move_to(first, rng.uniform(*MOVES_MS))
        start, end = made.add(piece.poses_TLD)
        made.truths.append(Truth(kind=piece.kind, label=piece.label, start_ms=start, end_ms=end))
    made.move_to(hanging(made.frames[-1]), rng.uniform(*MOVES_MS))
    made.add(np.repeat(made.frames[-1][None], round(2 * FPS), 0))
    poses = np.stack(made.frames)
    times = np.arange(len(poses)) * (1000 / FPS)
    return MadeStream(name=name, times_ms=times, poses_FLD=poses, truths=tuple(made.truths))


def nobody(minutes: float, rng: np.random.Generator, body_LD: Float32Array) -> MadeStream:
    """Return a stream without signing: a person at rest who sways, then nobody."""
    frames = round(minutes * 60 * FPS)
    poses = np.repeat(hanging(body_LD)[None], frames, 0)
    sway = np.cumsum(rng.normal(0, 0.0005, (frames, 1, 2)), 0) + rng.normal(0, 0.001, poses.shape)
    poses = (poses + sway).astype(np.float32)
    poses[frames // 2 :] = np.nan
    return MadeStream(
        name="nobody signs", times_ms=np.arange(frames) * (1000 / FPS), poses_FLD=poses, truths=()
    )


def hanging(frame_LD: Float32Array) -> Float32Array:
    """Return a frame with the arms hanging down, the hands below the picture."""
    rest = np.array(frame_LD)
    rest[LEFT_HAND] = rest[RIGHT_HAND] = np.nan
    width = np.hypot(*(frame_LD[LEFT_SHOULDER] - frame_LD[RIGHT_SHOULDER]))
    for shoulder, elbow, wrist in _ARMS:
        rest[elbow] = frame_LD[shoulder] + (0, 0.5 * HANGING * width)
        rest[wrist] = frame_LD[shoulder] + (0, HANGING * width)
    return rest


def between(a_LD: Float32Array, b_LD: Float32Array, frames: int) -> Float32Array:
    """Return the frames between two: points that both have move smoothly.

    A hand that only one of them has keeps its shape, goes with the wrist, and is there for half the way.
    """
    shares = (np.arange(frames) + 1) / (frames + 1)
    shares = (shares * shares * (3 - 2 * shares))[:, None, None].astype(np.float32)
    moved = a_LD + shares * (b_LD - a_LD)
    for hand, wrist in ((LEFT_HAND, 11), (RIGHT_HAND, 10)):
        has = [not np.isnan(frame[hand]).any() for frame in (a_LD, b_LD)]
        if has[0] != has[1]:
            shape = (a_LD if has[0] else b_LD)[hand] - (a_LD if has[0] else b_LD)[wrist]
            shown = (shares < 0.5) == has[0]
            moved[:, hand] = np.where(shown, moved[:, wrist, None] + shape, np.nan)
    return np.asarray(moved, np.float32)


def _known_body(poses_TLD: Float32Array) -> Float32Array:
    """Return the first frame with both shoulders, else the first."""
    seen = np.isfinite(poses_TLD[:, [LEFT_SHOULDER, RIGHT_SHOULDER]]).all((1, 2))
    frame: Float32Array = poses_TLD[int(seen.argmax())]
    return frame
