"""Which profile, padding and recorded graph serve a batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from spoter_runtime.contract import Profile


@dataclass(frozen=True, slots=True)
class Shape:
    """What a CUDA graph holds for: the profile's index, clips, frames with padding."""

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


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class RecentlyUsed(Generic[Key, Value]):
    """A mapping that keeps the values last asked for, and hands each that it drops to `discard`."""

    def __init__(self, size: int, discard: Callable[[Value], None]) -> None:
        self._size = size
        self._discard = discard
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def get(self, key: Key) -> Value | None:
        """Return a value, which is then the last one used; None where it is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def __setitem__(self, key: Key, value: Value) -> None:
        if key in self._values:
            self._discard(self._values.pop(key))
        self._values[key] = value
        while len(self._values) > self._size:
            self._discard(self._values.popitem(last=False)[1])

    def clear(self) -> None:
        """Drop everything, the oldest first."""
        while self._values:
            self._discard(self._values.popitem(last=False)[1])
