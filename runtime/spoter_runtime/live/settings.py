"""Settings of a stream: times in milliseconds, lengths in shoulder widths, never frames or pixels."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any, Final, Literal, get_args

from spoter_runtime.errors import ConfigError, nearest_known
from spoter_runtime.strict import shown

Gate = Literal["rest", "window", "push"]
RestBy = Literal["height", "motion"]
GATES: Final = get_args(Gate)


# The least and the most of each number. What a stream keeps grows with the times up to a minute.
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "fps": (0.1, 1000),
    **dict.fromkeys(("rise", "fall", "moving", "still"), (0, 1000)),
    "shortest_ms": (0, 3_600_000),
    "rest_ms": (0, 60_000),
    "longest_ms": (1, 3_600_000),
    **dict.fromkeys(("pad_start_ms", "pad_end_ms"), (-60_000, 60_000)),
    "window_ms": (1, 60_000),
    "hop_ms": (1, 60_000),
    **dict.fromkeys(("smooth_ms", "hold_ms"), (0, 60_000)),
    "valley": (0, 1),
    **dict.fromkeys(("partial_ms", "tracking_ms"), (0, 3_600_000)),
    "gap_ms": (1, 60_000),
    **dict.fromkeys(("least_hands", "least_probability"), (0, 1)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Settings of a `SignStream`.

    Attributes:
        fps: frame rate of the clips that the model was trained on; each segment is resampled to it.
        rest_by: the rest gate opens when the hands are up (``"height"``) or move (``"motion"``).
        rise: shoulder widths above the person's own resting height at which a hand counts as up.
        fall: a hand that was up counts as down below this height; less than `rise` (hysteresis).
        moving: speed in shoulder widths a second at which a still hand counts as moving.
        still: speed below which a moving hand counts as still; less than `moving`.
        shortest_ms: a shorter stretch is no sign.
        rest_ms: the hands must rest so long before a sign has ended.
        longest_ms: a longer stretch is refused.
        pad_start_ms: kept before the stretch; negative cuts the raising of the hands off.
        pad_end_ms: kept behind the stretch; negative cuts the lowering off.
        window_ms: length of one window of the window gate.
        hop_ms: from window to window.
        smooth_ms: windows of so long a time are averaged.
        hold_ms: another label must be the best for so long to be another sign; less is a flicker.
        valley: share by which a label's score must fall and rise again between two of the same sign.
        partial_ms: from partial answer to partial answer; 0 gives none.
        tracking_ms: from one report on the tracking to the next; 0 gives none.
        gap_ms: a longer time without a frame that shows the wrists ends what was signed, without an answer.
        least_hands: share of a segment's frames with a hand, below which it is no sign.
        least_probability: a sign with less is not said; of a bundle without calibration this is the score.
    """

    fps: float = 30.0
    rest_by: RestBy = "height"
    rise: float = 0.7
    fall: float = 0.5
    moving: float = 0.8
    still: float = 0.4
    shortest_ms: float = 200.0
    rest_ms: float = 100.0
    longest_ms: float = 5000.0
    pad_start_ms: float = -100.0
    pad_end_ms: float = -100.0
    window_ms: float = 267.0
    hop_ms: float = 33.0
    smooth_ms: float = 133.0
    hold_ms: float = 33.0
    valley: float = 0.2
    partial_ms: float = 200.0
    tracking_ms: float = 1000.0
    gap_ms: float = 700.0
    least_hands: float = 0.05
    least_probability: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: a value out of range; the message names it.
        """
        if self.rest_by not in get_args(RestBy):
            raise ConfigError(f"rest_by={self.rest_by!r}: expected {' or '.join(get_args(RestBy))}")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number:
                raise ConfigError(f"{name}={shown(value)}: expected a number")
            if not least <= value <= most:
                raise ConfigError(f"{name}={shown(value)}: expected {least:g}..{most:.0f}")
            object.__setattr__(self, name, float(value))  # also numpy's, which JSON cannot hold
        for low, high in (("fall", "rise"), ("still", "moving"), ("shortest_ms", "longest_ms")):
            if not 0 < getattr(self, low) < getattr(self, high):
                found = f"{low}={getattr(self, low)!r}, {high}={getattr(self, high)!r}"
                raise ConfigError(f"{found}: expected 0 < {low} < {high}")

    def fitted(self, max_frames: int) -> StreamSettings:
        """Return the settings with a longest sign that a model of so many frames takes.

        Raises:
            ConfigError: not even the shortest sign fits.
        """
        padding = max(self.pad_start_ms, 0) + max(self.pad_end_ms, 0)
        most_ms = 1000 * (max_frames - 1) / self.fps - padding
        return replace(self, longest_ms=min(self.longest_ms, most_ms))

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> StreamSettings:
        """Read what `as_json` wrote.

        Raises:
            ConfigError: an unknown name, or a value out of range; `where` names the source.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected settings by name, got {value!r}")
        for name, given in value.items():
            if name not in known:
                raise ConfigError(f"{where}: no setting {name!r}; {nearest_known(name, known)}")
            if name != "rest_by" and (isinstance(given, bool) or not isinstance(given, int | float)):
                raise ConfigError(f"{where}: {name}: expected a number, got {given!r}")
        return cls(**value)
