"""Evaluate a bundle on streams made of a data set's clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime._types import OnProgress
from spoter_runtime.errors import DataError
from spoter_runtime.live.events import AnyEvent
from spoter_runtime.live.settings import Gate, StreamSettings
from spoter_runtime.live.stream import SignStream
from spoter_runtime.recognizer import Recognizer
from spoter_toolkit.calibration.calibrate import negative_clips
from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.data.streams.compose import FPS, Kind, MadeStream, Piece, compose, nobody
from spoter_toolkit.evaluation import clips_to_evaluate
from spoter_toolkit.streams.score import StreamScores, delays_of, det_curve, score

NONE_LABELS: Final = frozenset({"none", "background", "no-sign"})  # of clips in which nobody signs
RATES: Final = (10.0, 15.0, 60.0)  # frames a second, beside `FPS`
LOST: Final = 0.2  # share of the frames
TRACKING_LOST: Final = (0.7, 233.0)  # times a second, and the longest in ms
_ALTERED: Final = len(RATES) + 2  # streams that are the first one, seen in another way
_NONE_SHARE: Final = 0.25  # of the pieces between signs
_IN_A_ROW: Final = 8  # signs without a rest between

RESTS, MIXED, NO_RESTS, NONE, UNKNOWN, NOBODY = (
    *("signs with rests", "signs with rests and none clips", "signs without rests"),
    *("none clips", "signs that the model does not know", "nobody signs"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvaluation:
    """How well a model finds the signs in streams.

    Attributes:
        synthetic: nobody signed the clips, they were generated.
        scores: of each stream, the first with rests.
        det: (threshold, share of signs missed, false alarms a minute); empty without other clips.
        delays_ms: of each sign that was said in the first stream.
        shown: the first stream, and its events, for a picture.
    """

    source: Path
    backend: str
    data: Path
    split: str
    synthetic: bool
    settings: StreamSettings
    scores: tuple[StreamScores, ...]
    det: tuple[tuple[float, float, float], ...]
    delays_ms: tuple[float, ...]
    shown: tuple[MadeStream, tuple[AnyEvent, ...]]

    @property
    def plain(self) -> tuple[StreamScores, ...]:
        """The scores without those of the first stream seen in another way."""
        return self.scores[:-_ALTERED]

    @property
    def made_of(self) -> str:
        """Return what the streams are made of, in words."""
        kind = "generated" if self.synthetic else "real"
        return f"the streams are simulated: {kind} clips in random order, made rests and movements between"

    def as_json(self) -> dict[str, Any]:
        """Return everything but the picture's stream, as plain JSON values."""
        return {
            "source": str(self.source),
            "backend": self.backend,
            "data": str(self.data),
            "split": self.split,
            "simulated": True,
            "synthetic": self.synthetic,
            "settings": self.settings.as_json(),
            "streams": [one.as_json() for one in self.scores],
            "det": [
                {"threshold": threshold, "missed": missed, "false_alarms_per_minute": alarms}
                for threshold, missed, alarms in self.det
            ],
        }


def evaluate_streams(
    recognizer: Recognizer,
    dataset: Dataset,
    *,
    source: Path,
    split: str = "test",
    negatives: Path | None = None,
    minutes: float = 5.0,
    seed: int = 0,
    settings: StreamSettings | None = None,
    on_progress: OnProgress | None = None,
) -> StreamEvaluation:
    """Evaluate on streams of so many minutes each; the model should not have seen their signers.

    Args:
        recognizer: of the BUNDLE.
        dataset: clips of labels that the model knows are signs; of `NONE_LABELS` nobody signs; others are
            signs that the model does not know.
        source: the BUNDLE, for reports.
        split: of the data set.
        negatives: a DATASET in which nobody signs a word of the model; its clips are none clips, too.
        minutes: of each stream, about.
        seed: chooses the clips and the rests.
        settings: of the stream; None takes the defaults.
        on_progress: called with (streams done, streams, what).

    Raises:
        DataError: no clip has a label that the model knows, or as `negative_clips` does.
    """
    settings = settings or StreamSettings()
    signs = {label.name for label in recognizer.labels} - {*recognizer.background}
    pieces = _pieces(dataset, split, signs)
    if negatives:
        rests, clips = negative_clips(negatives, recognizer.contract, recognizer.background, split=split)
        pieces["none"] += [piece for clip in clips for piece in _piece_of(clip, rests, "none")]
    streams = list(_streams(pieces, minutes, seed))
    scores, ran = [], []
    for n, (stream, gate) in enumerate(streams):
        if on_progress:
            on_progress(n, len(streams), stream.name)
        events = events_of(recognizer, stream, gate, settings)
        scores.append(replace(score(stream, events), name=f"{stream.name} ({gate} gate)"))
        ran.append((stream, events))
    others = [(one, events) for one, events in ran if one.name in (NONE, UNKNOWN)]
    return StreamEvaluation(
        source=source,
        backend=recognizer.runner.name,
        data=dataset.folder,
        split=split,
        synthetic=dataset.origin.synthetic,
        settings=settings,
        scores=tuple(scores),
        det=tuple(det_curve(ran[0], others)) if others else (),
        delays_ms=tuple(delays_of(*ran[0])),
        shown=(ran[0][0], tuple(ran[0][1])),
    )


def events_of(
    recognizer: Recognizer, stream: MadeStream, gate: Gate, settings: StreamSettings
) -> list[AnyEvent]:
    """Return all events of a stream."""
    signs = SignStream(recognizer, gate, settings=settings)
    found: list[AnyEvent] = []
    for t_ms, pose_LD in zip(stream.times_ms.tolist(), stream.poses_FLD, strict=True):
        signs.accept(pose_LD, t_ms)
        found += signs.events()
    signs.flush()
    return found + signs.events()


def _pieces(dataset: Dataset, split: str, known: set[str]) -> dict[Kind, list[Piece]]:
    """Return the clips by kind; those with nobody in them are left out.

    Raises:
        DataError: no clip has a label that the model knows.
    """
    pieces: dict[Kind, list[Piece]] = {"sign": [], "none": [], "unknown": []}
    for clip in clips_to_evaluate(dataset, split, "spoter-kit eval --stream"):
        kind: Kind = "sign" if clip.label in known else "none" if clip.label in NONE_LABELS else "unknown"
        pieces[kind] += _piece_of(clip, dataset, kind)
    if not pieces["sign"]:
        raise DataError(
            f"{dataset.folder}: no clip of the {split} split has a label that the model knows",
            fix="name the DATASET of the model's labels with --data",
        )
    return pieces


def _piece_of(clip: Clip, dataset: Dataset, kind: Kind) -> list[Piece]:
    """Return a clip as a piece; none where no frame shows both shoulders."""
    poses_TLD = _at_stream_rate(clip, dataset)
    has_body = np.isfinite(poses_TLD[:, [6, 7]]).all((1, 2)).any()
    return [Piece(kind=kind, label=clip.label, poses_TLD=poses_TLD)] if has_body else []


def _at_stream_rate(clip: Clip, dataset: Dataset) -> Any:
    poses = dataset.poses_of(clip)
    if clip.fps == FPS:
        return poses
    frames = max(1, round(len(poses) * FPS / clip.fps))
    return poses[np.minimum((np.arange(frames) + 0.5) * len(poses) / frames, len(poses) - 1).astype(int)]


def _streams(pieces: dict[Kind, list[Piece]], minutes: float, seed: int) -> Iterable[tuple[MadeStream, Gate]]:
    """Yield each stream with its gate: the one with rests first, and last the same seen in another way."""
    rng = np.random.default_rng(seed)
    signs = _drawn(pieces["sign"], minutes, 2.2, rng)
    mixed = [
        piece
        for sign in signs
        for piece in (sign, *_drawn(pieces["none"], 0, 1, rng, least=int(rng.random() < _NONE_SHARE)))
    ]
    rests = compose(MIXED if pieces["none"] else RESTS, mixed, rng)
    yield rests, "rest"
    row = _drawn(pieces["sign"], minutes, 1.0, rng)
    yield compose(NO_RESTS, row, rng, in_a_row=_IN_A_ROW), "window"
    for name, kind in ((NONE, "none"), (UNKNOWN, "unknown")):
        if some := _drawn(pieces[kind], minutes, 2.2, rng):  # type: ignore[index]
            yield compose(name, some, rng), "rest"
    yield nobody(minutes, rng, pieces["sign"][0].poses_TLD[0]), "rest"
    for fps in RATES:
        yield rests.at_rate(fps), "rest"
    yield rests.with_lost(LOST, rng), "rest"
    yield rests.with_tracking_lost(*TRACKING_LOST, rng), "rest"


def _drawn(
    pieces: Sequence[Piece], minutes: float, pause_s: float, rng: np.random.Generator, least: int = 1
) -> list[Piece]:
    """Return pieces in random order, each once before any is taken again, for so many minutes."""
    found: list[Piece] = []
    seconds = 0.0
    while pieces and (seconds < 60 * minutes or len(found) < least):
        for place in rng.permutation(len(pieces)):
            if seconds >= 60 * minutes and len(found) >= least:
                break
            found.append(pieces[place])
            seconds += len(pieces[place].poses_TLD) / FPS + pause_s
    return found
