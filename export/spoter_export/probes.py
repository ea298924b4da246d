"""The inputs of parity: the shape grid, generated clips, clips of people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from spoter_runtime.contract import GraphContract
from spoter_runtime.landmarks import (
    LEFT_HAND,
    LEFT_SHOULDER,
    MIRRORED,
    NUM_FEATURES,
    NUM_LANDMARKS,
    RIGHT_HAND,
    RIGHT_SHOULDER,
    Float32Array,
    detected,
)
from spoter_runtime.runner import Int32Array, pad_clips

GRID_BATCHES: Final = (1, 2, 7, 32)
GRID_FRAMES: Final = (1, 2, 37, 60, 164, 299)
GENERATED: Final = "generated"  # this source and the next are not clips of people
GOLDENS: Final = "goldens"
SYNTHETIC: Final = "synthetic"  # prefix of the source of a generated data set
Lengths = Literal["full", "ragged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSet:
    """Clips of one source, with their names, labels and signers if known.

    Attributes:
        source: name of the source in reports.
        clips: (frames, 54, 2) each.
        names: one for each clip; empty to number them.
        labels: the signed words, one for each clip; empty if unknown.
        signers: one for each clip; empty if unknown.
        change: the change made to each clip; None for none.
    """

    source: str
    clips: Sequence[Float32Array]
    names: Sequence[str] = ()
    labels: Sequence[str] = ()
    signers: Sequence[str] = ()
    change: str | None = None

    def name_of(self, i: int) -> str:
        """Return the name of the clip at an index."""
        return self.names[i] if self.names else f"clip {i}"


def grid_points(contract: GraphContract) -> list[tuple[int, int, Lengths]]:
    """Return each (batch, frames, lengths) of the shape grid that the contract allows, with its corners."""
    batches = sorted({b for b in GRID_BATCHES if b <= contract.max_batch} | {contract.max_batch})
    frames = sorted({f for f in GRID_FRAMES if f <= contract.max_frames} | {contract.max_frames})
    kinds: tuple[Lengths, ...] = ("full", "ragged")
    return [(b, f, kind) for b in batches for f in frames for kind in kinds]


def generated_poses(rng: np.random.Generator, batch: int, frames: int) -> Float32Array:
    """Return landmarks (batch, frames, 108) that move smoothly in 0..1, about a third of them missing."""
    start = rng.uniform(0.1, 0.9, (batch, 1, NUM_LANDMARKS, 2))
    # Fixed shoulders: random ones may coincide, and normalisation divides by their distance.
    start[:, :, RIGHT_SHOULDER] = start[:, :, LEFT_SHOULDER] - rng.uniform(0.15, 0.4, (batch, 1, 1)) * [1, 0]
    drift = rng.normal(0, 0.01, (batch, frames, NUM_LANDMARKS, 2)).cumsum(axis=1)
    poses = (start + drift).astype(np.float32)
    # Whole hands go missing, as (0, 0) or NaN, which both mean "not detected".
    for hand in (LEFT_HAND, RIGHT_HAND):
        gone = rng.random((batch, frames)) < 0.4
        poses[:, :, hand][gone] = np.nan if rng.random() < 0.5 else 0.0
    poses[rng.random(poses.shape[:3]) < 0.02] = np.nan
    flat: Float32Array = poses.reshape(batch, frames, NUM_FEATURES)
    return flat


def generated_clips(contract: GraphContract, seed: int) -> ClipSet:
    """Return clips of several lengths, some almost empty, some with extreme coordinates."""
    rng = np.random.default_rng((seed, 1))
    lengths = [min(frames, contract.max_frames) for frames in (1, 2, 9, 44, 100)]
    poses = [generated_poses(rng, 1, frames) for frames in (*lengths, lengths[3])]
    *clips, whole = (poses_1TD.reshape(-1, NUM_LANDMARKS, 2) for poses_1TD in poses)
    named = {f"{len(clip)} frames": clip for clip in clips} | changed_clips(whole, rng)
    return ClipSet(source=GENERATED, clips=list(named.values()), names=list(named))


def changed_clips(clip: Float32Array, rng: np.random.Generator) -> dict[str, Float32Array]:
    """Return name → variant of a clip (frames, 54, 2): almost empty, without extent, or extreme."""
    no_hands, one_hand, nothing, one_point, no_width = (clip.copy() for _ in range(5))
    no_hands[:, LEFT_HAND.start :] = np.nan
    one_hand[:, LEFT_HAND] = 0.0
    nothing[:] = np.nan
    one_point[:, 1:] = np.nan
    one_point[:, 0] = 0.3  # one still point: no extent
    no_width[:, RIGHT_SHOULDER] = clip[:, LEFT_SHOULDER]
    # Another position and size in every frame, as from a tracker that loses the person.
    size, place = rng.uniform(0.2, 2, (len(clip), 1, 1)), rng.uniform(-1, 1, (len(clip), 1, 2))
    found = (clip != 0).any(2, keepdims=True)  # NaN stays NaN anyway
    return {
        "no hands": no_hands,
        "one hand throughout": one_hand,
        "nothing detected": nothing,
        "one still point": one_point,
        "shoulders together": no_width,
        "frozen": np.repeat(clip[:1], len(clip), axis=0),
        "mirrored": mirrored(clip, rng),
        "jumping": np.where(found, (clip * size + place).astype(np.float32), clip),
        # Not larger: a model without normalisation has logits of this size, and float32 rounds accordingly.
        "far outside the picture": clip * np.float32(20),
        "tiny in the picture": clip * np.float32(1e-4),
    }


def mirrored(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return a clip (frames, 54, 2) as a left-handed signer would show it: sides swapped, x becomes 1 - x."""
    swapped = clip[:, MIRRORED]
    found = detected(swapped)
    swapped[found, 0] = 1 - swapped[found, 0]
    return swapped


def probe_batches(contract: GraphContract) -> list[tuple[Float32Array, Int32Array]]:
    """Return three generated batches: ragged clips, the longest clip alone, and that clip half padded."""
    clips = sorted(generated_clips(contract, seed=0).clips, key=len, reverse=True)
    several = pad_clips(clips[: contract.max_batch], fill=np.nan)
    poses_1TD, lengths_1 = pad_clips([clips[0]])
    # Padded even where a batch holds one clip: half of the longest one is all that is real.
    half_1 = np.maximum(lengths_1 // 2, 1)
    padded_1TD = poses_1TD.copy()
    padded_1TD[:, half_1[0] :] = np.nan
    return [several, (poses_1TD, lengths_1), (padded_1TD, half_1)]


def spread_by_length(clips: Sequence[Float32Array], count: int) -> list[int]:
    """Return up to `count` indices of clips, evenly spread from the shortest to the longest."""
    order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
    if len(order) > count:
        order = [order[i] for i in np.linspace(0, len(order) - 1, count).astype(int)]
    return order
