"""Which profile and padding serve a batch."""

from __future__ import annotations

from dataclasses import dataclass

from spoter_runtime.contract import Profile


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape that a CUDA graph is recorded for: the profile's index, clips, frames with padding."""

    profile: int
    batch: int
    frames: int


def choose_shape(
    profiles: tuple[Profile, ...], buckets: tuple[int, ...], batch: int, frames: int
) -> Shape | None:
    """Return the profile for a batch, and the frames to pad it to; None where no profile takes it.

    Args:
        profiles: of the engine, in its order.
        buckets: frame counts to pad to, rising; none: no padding.
        batch: clips.
        frames: of the batch, before padding.

    The profile is the one that allows the fewest clips × frames: the narrower the range, the better the
    engine is tuned to it; then the first. A bucket counts only if that profile takes it.
    """
    fitting = [i for i, profile in enumerate(profiles) if profile.takes(batch, frames)]
    if not fitting:
        return None
    index = min(fitting, key=lambda i: profiles[i].batch[2] * profiles[i].frames[2])
    most = profiles[index].frames[2]
    padded = next((bucket for bucket in buckets if frames <= bucket <= most), frames)
    return Shape(index, batch, padded)
