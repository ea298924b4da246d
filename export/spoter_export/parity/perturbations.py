"""Realistic changes of a clip: by cameras, trackers and signers. Parity runs clips of people under each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from spoter_export.probes import ClipSet, mirrored, spread_by_length
from spoter_runtime.landmarks import (
    LEFT_HAND,
    LEFT_SHOULDER,
    RIGHT_HAND,
    RIGHT_SHOULDER,
    Float32Array,
    detected,
    resample_clip,
)

Change = Callable[[Float32Array, np.random.Generator], Float32Array]

# Largest number of clips per source and change: a share of 256 clips is known to about 6 points.
CHANGED_CLIPS: Final = 256

_LOST_HANDS: Final = 0.3  # share of frames, for each hand; BdSLW60 lacks 41 % of the hand points
_LOST_FRAMES: Final = 0.25
_JITTER: Final = 0.02  # standard deviation in shoulder widths; a hand is about half a shoulder width


def changed_sets(group: ClipSet, *, max_frames: int, seed: int) -> list[ClipSet]:
    """Return up to `CHANGED_CLIPS` clips of a source, once under each of `CHANGES`.

    Args:
        group: clips of people.
        max_frames: the model's limit, for clips that are slowed down.
        seed: seed of the losses and the noise.
    """
    rows = spread_by_length(group.clips, CHANGED_CLIPS)
    sets = []
    for number, (change, apply) in enumerate(CHANGES.items()):
        rng = np.random.default_rng((seed, 3, number))
        sets.append(
            replace(
                group,
                clips=[apply(np.array(group.clips[i], np.float32), rng)[:max_frames] for i in rows],
                names=[group.name_of(i) for i in rows],
                labels=[group.labels[i] for i in rows] if group.labels else (),
                signers=[group.signers[i] for i in rows] if group.signers else (),
                change=change,
            )
        )
    return sets


def never_found(hand: slice) -> Change:
    """Return a change that removes a hand from all frames."""

    def change(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
        clip[:, hand] = np.nan
        return clip

    return change


def lose_hands(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return a clip in which each hand is missing in some frames."""
    for hand in (LEFT_HAND, RIGHT_HAND):
        clip[rng.random(len(clip)) < _LOST_HANDS, hand] = np.nan
    return clip


def lose_frames(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Drop some of the frames."""
    kept = rng.random(len(clip)) >= _LOST_FRAMES
    kept[0] = True  # of a clip without frames nothing can be said
    return clip[kept]


def add_jitter(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Add noise to each landmark, as much as a tracker adds."""
    found = detected(clip)
    both = found[:, LEFT_SHOULDER] & found[:, RIGHT_SHOULDER]
    widths = np.linalg.norm(clip[both, LEFT_SHOULDER] - clip[both, RIGHT_SHOULDER], axis=1)
    size = np.median(widths) if both.any() else np.ptp(clip[found][:, 0]) if found.any() else 0.0
    noisy = clip + rng.normal(0, _JITTER * size, clip.shape)
    clip[found] = noisy[found].astype(np.float32)
    return clip


CHANGES: Final[dict[str, Change]] = {
    "left hand never found": never_found(LEFT_HAND),
    "right hand never found": never_found(RIGHT_HAND),
    f"each hand lost in {_LOST_HANDS:.0%} of the frames": lose_hands,
    f"{_LOST_FRAMES:.0%} of the frames dropped": lose_frames,
    "half the frame rate": lambda clip, rng: clip[::2],
    "double the frame rate": lambda clip, rng: resample_clip(clip, 2 * len(clip)),
    f"jitter of {_JITTER:.0%} of the shoulder width": add_jitter,
    "mirrored signer": mirrored,
}
