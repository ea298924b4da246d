"""Choose the profile and the padded shape for a batch."""

from __future__ import annotations

from dataclasses import dataclass

from spoter_runtime.contract import Profile


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a CUDA graph: index of the profile, clips, padded frames."""

    profile: int
    batch: int
    frames: int


def choose_shape(
    profiles: tuple[Profile, ...], buckets: tuple[int, ...], batch: int, frames: int
) -> Shape | None:
    """Return a batch's profile and padded shape; None if no profile takes the batch.

    Chooses the profile with the fewest clips × frames at most, since the engine is tuned better for a narrow
    range; of equal ones the first. Uses only buckets that the profile takes.

    Args:
        profiles: profiles of the engine, in its order.
        buckets: rising frame counts to pad to; empty for no padding.
        batch: number of clips.
        frames: frames of the batch before padding.
    """
    fitting = [i for i, profile in enumerate(profiles) if profile.takes(batch, frames)]
    if not fitting:
        return None
    index = min(fitting, key=lambda i: profiles[i].batch[2] * profiles[i].frames[2])
    most = profiles[index].frames[2]
    padded = next((bucket for bucket in buckets if frames <= bucket <= most), frames)
    return Shape(index, batch, padded)
