"""Events of a stream: frozen records, one JSON object each; docs/reference/events.md has the schema."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

AbstainCode = Literal["not_a_sign", "long", "gap", "tracking", "unsure"]
FaultCode = Literal["time", "landmarks", "landmarker", "model", "uncalibrated", "source", "sink"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that a stream says.

    Attributes:
        t_ms: time of the frame with which the stream knew it.
    """

    type: ClassVar[str]
    t_ms: float

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, the type first."""
        return {"type": self.type} | asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Event):
    """The first frame has come.

    Attributes:
        gate: ``"rest"``, ``"window"`` or ``"push"``.
        backend: that runs the model.
        labels: that the model knows.
        fps: frame rate that segments are resampled to.
    """

    type: ClassVar[str] = "ready"
    gate: str
    backend: str
    labels: int
    fps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking(Event):
    """How well the person was seen since the last such event.

    Attributes:
        frames_per_s: frames that came.
        body: share of the frames with both shoulders.
        left_hand, right_hand: share of the frames with this hand.
        persons: the most that were seen at once; None where that is not known.
    """

    type: ClassVar[str] = "tracking"
    frames_per_s: float
    body: float
    left_hand: float
    right_hand: float
    persons: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignStart(Event):
    """Somebody signs, since `start_ms`."""

    type: ClassVar[str] = "sign_start"
    start_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial(Event):
    """The best labels so far of a sign that goes on. They may change: only `Sign` is an answer."""

    type: ClassVar[str] = "partial"
    start_ms: float
    label: str
    score: float
    best: tuple[tuple[str, float], ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, the type first."""
        return _with_best(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign(Event):
    """A sign was recognised.

    Attributes:
        start_ms, end_ms: its segment.
        label: the best label's name.
        score: its softmax share, not calibrated.
        probability: calibrated; None where the bundle has no calibration.
        margin: the score minus that of the second label.
        best: up to five (label, score), the best first.
        latency_ms: from the segment's end to the frame that gave the answer.
    """

    type: ClassVar[str] = "sign"
    start_ms: float
    end_ms: float
    label: str
    score: float
    probability: float | None
    margin: float
    best: tuple[tuple[str, float], ...]
    latency_ms: float

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, the type first."""
        return _with_best(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstain(Event):
    """A segment got no label: no known sign, too long, a gap, hands not tracked, or too unsure.

    Attributes:
        code: for programs.
        reason: for people.
        label: the label that is not said; None where the model was not asked.
        score: its softmax share.
        probability: its calibrated probability.
    """

    type: ClassVar[str] = "abstain"
    start_ms: float
    end_ms: float
    code: AbstainCode
    reason: str
    label: str | None = None
    score: float | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped(Event):
    """Frames are missing before this one: the source dropped them, they came too soon, or were left out."""

    type: ClassVar[str] = "dropped"
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Event):
    """Something is wrong with the source, the model or a sink; the stream goes on."""

    type: ClassVar[str] = "fault"
    code: FaultCode
    reason: str


def _with_best(event: Partial | Sign) -> dict[str, Any]:
    best = [{"label": label, "score": score} for label, score in event.best]
    return {"type": event.type} | asdict(event) | {"best": best}


AnyEvent = Ready | Tracking | SignStart | Partial | Sign | Abstain | Dropped | Fault
