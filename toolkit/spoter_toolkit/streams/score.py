"""Score the events of a stream against what was in it: F1 of events, sequence, false alarms, delay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from spoter_runtime.live.events import Abstain, AnyEvent, Sign
from spoter_toolkit.data.streams.compose import MadeStream, Truth

IOUS: Final = (0.1, 0.25, 0.5)
_DET_POINTS: Final = 60
_FOR_DELAY: Final = 0.25  # IoU of an event and a sign whose delay counts


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamScores:
    """The scores of one stream.

    Attributes:
        signs: in the stream.
        said: by the model.
        f1: IoU → F1 of events: same label, and the segments overlap so much.
        sequence: 1 minus the Levenshtein distance of the labels a sign; None without signs.
        false_alarms_per_minute: signs said while none that the model knows was signed.
        delay_ms: of the events of signs, from the sign's end; 50th and 95th percentile.
        signing: share of the frames that are right about signing or not.
    """

    name: str
    minutes: float
    signs: int
    said: int
    f1: dict[float, float]
    sequence: float | None
    false_alarms_per_minute: float
    delay_ms: tuple[float, float] | None
    signing: float

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"f1": {f"{iou:g}": f1 for iou, f1 in self.f1.items()}}


def score(stream: MadeStream, events: Sequence[AnyEvent]) -> StreamScores:
    """Score the events of a whole stream."""
    said = [event for event in events if isinstance(event, Sign)]
    delays = delays_of(stream, events)
    alarms = [event for event in said if not any(_iou(event, truth) > 0 for truth in stream.signs)]
    labels = [truth.label for truth in stream.signs]
    return StreamScores(
        name=stream.name,
        minutes=stream.minutes,
        signs=len(labels),
        said=len(said),
        f1={iou: f1_of(said, stream.signs, iou) for iou in IOUS},
        sequence=1 - levenshtein(labels, [event.label for event in said]) / len(labels) if labels else None,
        false_alarms_per_minute=len(alarms) / stream.minutes,
        delay_ms=(float(np.percentile(delays, 50)), float(np.percentile(delays, 95))) if delays else None,
        signing=_signing(stream, said),
    )


def f1_of(said: Sequence[Sign], signs: Sequence[Truth], iou: float) -> float:
    """Return the F1 of events; 1 where nothing was signed and nothing said."""
    right = len(matches(said, signs, iou))
    return 2 * right / (len(said) + len(signs)) if said or signs else 1.0


def matches(
    said: Sequence[Sign | Abstain], signs: Sequence[Truth], iou: float
) -> list[tuple[Sign | Abstain, Truth]]:
    """Pair events and signs of the same label, each once, those that overlap most first."""
    pairs = [
        (overlap, n, m)
        for n, event in enumerate(said)
        for m, truth in enumerate(signs)
        if truth.start_ms < event.end_ms and truth.end_ms > event.start_ms
        if event.label == truth.label and (overlap := _iou(event, truth)) >= iou
    ]
    taken_events: set[int] = set()
    taken_signs: set[int] = set()
    found = []
    for _, n, m in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        if n not in taken_events and m not in taken_signs:
            taken_events.add(n)
            taken_signs.add(m)
            found.append((said[n], signs[m]))
    return found


def levenshtein(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many labels must be added, left out or changed to make one sequence of the other."""
    row = list(range(len(other) + 1))
    for i, label in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, second in enumerate(other, start=1):
            cost = min(row[j] + 1, row[j - 1] + 1, diagonal + (label != second))
            diagonal, row[j] = row[j], cost
    return row[-1]


def det_curve(
    signs: tuple[MadeStream, Sequence[AnyEvent]], others: Sequence[tuple[MadeStream, Sequence[AnyEvent]]]
) -> list[tuple[float, float, float]]:
    """Return (threshold, share of signs missed, false alarms a minute) over the thresholds of confidence.

    The thresholds are confidences that there are, evenly spread over them: most lie between 0.9 and 1.

    Args:
        signs: a stream with signs, and its events; those not said for want of confidence count too.
        others: streams with none.
    """
    stream, events = signs
    answers = _answers(events)
    alarms = [_confidence(event) for _, found in others for event in _answers(found)]
    minutes = sum(other.minutes for other, _ in others)
    curve = []
    there = np.unique([0.0, *alarms, *(_confidence(event) for event in answers), 1.0])
    places = np.linspace(0, len(there) - 1, min(len(there), _DET_POINTS)).round().astype(int)
    for threshold in there[places].tolist():
        sure = [event for event in answers if _confidence(event) >= threshold]
        missed = 1 - len(matches(sure, stream.signs, _FOR_DELAY)) / len(stream.signs)
        curve.append((threshold, missed, sum(value >= threshold for value in alarms) / minutes))
    return curve


def delays_of(stream: MadeStream, events: Sequence[AnyEvent]) -> list[float]:
    """Return the delay of each sign that was said, in ms."""
    said = [event for event in events if isinstance(event, Sign)]
    return [event.t_ms - truth.end_ms for event, truth in matches(said, stream.signs, _FOR_DELAY)]


def _answers(events: Sequence[AnyEvent]) -> list[Sign | Abstain]:
    return [
        event
        for event in events
        if isinstance(event, Sign) or (isinstance(event, Abstain) and event.score is not None)
    ]


def _confidence(event: Sign | Abstain) -> float:
    return event.probability if event.probability is not None else event.score or 0.0


def _iou(event: Sign | Abstain, truth: Truth) -> float:
    both = min(event.end_ms, truth.end_ms) - max(event.start_ms, truth.start_ms)
    return max(both, 0.0) / (max(event.end_ms, truth.end_ms) - min(event.start_ms, truth.start_ms))


def _signing(stream: MadeStream, said: Sequence[Sign]) -> float:
    """Return the share of frames that lie in a sign, and in an event, or in neither."""

    def inside(segments: Sequence[Sign | Truth]) -> Any:
        held = np.zeros(len(stream.times_ms), bool)
        for one in segments:
            held |= (stream.times_ms >= one.start_ms) & (stream.times_ms <= one.end_ms)
        return held

    return float((inside(stream.signs) == inside(said)).mean())
