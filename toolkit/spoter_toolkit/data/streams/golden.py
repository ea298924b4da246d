"""The stream that travels in a bundle: a landmark log made of its goldens, and the answers expected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np

from spoter_runtime.bundle.manifest import STREAM, STREAM_ANSWERS, Goldens
from spoter_runtime.landmarks import LEFT_SHOULDER, RIGHT_SHOULDER, Float32Array
from spoter_runtime.live.events import Abstain, AnyEvent, Sign
from spoter_runtime.live.log import LogFrame, header_line, line_of, replay
from spoter_runtime.live.settings import Gate, StreamSettings
from spoter_runtime.live.stream import SignStream
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.runner import Runner
from spoter_toolkit.data.streams.compose import Piece, compose

GATES: Final[tuple[Gate, ...]] = ("rest", "window")
_MOST: Final = 6  # goldens; two in a row between rests, so that a row is no longer than the longest sign
_IN_A_ROW: Final = 2
_FRAMES: Final = (9, 60)  # of a golden that goes into the stream
_NARROWEST: Final = 0.01  # its shoulders, in pictures: some goldens hold nobody, or somebody far away
_DIGITS: Final = 4  # of a coordinate: a tenth of a pixel of a picture of 1,000


def stream_files(goldens: Goldens, reference: Runner) -> dict[str, str]:
    """Return file name → content of the stream that a bundle gets; none where no golden shows a person.

    Args:
        goldens: the bundle's.
        reference: gives the expected answers.
    """
    frames = golden_frames(goldens)
    if not frames:
        return {}
    settings = StreamSettings(partial_ms=0, tracking_ms=0)
    lines = [header_line("rest", settings), *map(line_of, frames)]
    answers: list[dict[str, Any]] = []
    for gate in GATES:
        stream = SignStream(Recognizer(reference), gate, settings=settings)
        answers += [{"gate": gate} | answer for answer in answers_in(replay(stream, frames))]
    return {
        STREAM: "".join(f"{line}\n" for line in lines),
        STREAM_ANSWERS: "".join(f"{json.dumps(answer)}\n" for answer in answers),
    }


def golden_frames(goldens: Goldens) -> list[LogFrame]:
    """Return goldens as frames of a stream: those that show a person, with rests between some."""
    clips = [clip for clip in goldens.clips() if _FRAMES[0] <= len(clip) <= _FRAMES[1] and _has_body(clip)]
    if not clips:
        return []
    pieces = [Piece(kind="sign", label="", poses_TLD=clip) for clip in clips[:_MOST]]
    made = compose("goldens", pieces, np.random.default_rng(0), in_a_row=_IN_A_ROW)
    poses = np.round(made.poses_FLD, _DIGITS)
    return [LogFrame(round(t_ms, 3), pose) for t_ms, pose in zip(made.times_ms.tolist(), poses, strict=True)]


def answers_in(events: Iterable[AnyEvent]) -> Iterator[dict[str, Any]]:
    """Yield start, end, label and score of each segment, whether it was said or not."""
    for event in events:
        if isinstance(event, Sign | Abstain):
            yield {name: getattr(event, name) for name in ("start_ms", "end_ms", "label", "score")}


def _has_body(clip_TLD: Float32Array) -> bool:
    widths = np.hypot(*(clip_TLD[:, LEFT_SHOULDER] - clip_TLD[:, RIGHT_SHOULDER]).T)
    return bool((widths > _NARROWEST).any())
