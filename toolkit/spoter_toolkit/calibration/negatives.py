"""Negative clips: recorded ones in which nobody signs a word of the model, and ones made from signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from spoter_runtime.landmarks import LEFT_HAND, RIGHT_HAND, Float32Array, detected
from spoter_toolkit.data.dataset import Clip, Dataset

MOST_SIGNS: Final = 1000  # clips of signs, evenly spread
MOST_NEGATIVES: Final = 300  # of each kind
TWO_SIGNS: Final = "end of one sign, start of the next"


@dataclass(frozen=True, slots=True, kw_only=True)
class Negatives:
    """Negative clips of one kind.

    Attributes:
        kind: how they were recorded or made.
        recorded: False for clips that were made from signs.
        labels: for each clip, the signs that it was made from: an answer that names one of them is not false.
    """

    kind: str
    recorded: bool
    clips: Sequence[Float32Array]
    labels: Sequence[frozenset[str]]


def recorded_negatives(
    dataset: Dataset, clips: Sequence[Clip], kind: str, *, most: int = MOST_NEGATIVES
) -> list[Negatives]:
    """Return at most so many clips of a data set as negatives; an empty list of clips gives none."""
    chosen = spread(clips, most)
    poses = [dataset.poses_of(clip) for clip in chosen]
    nothing = [frozenset[str]()] * len(chosen)
    return [Negatives(kind=kind, recorded=True, clips=poses, labels=nothing)] if chosen else []


def unknown_signs(dataset: Dataset) -> tuple[Clip, ...]:
    """Return clips of labels that train never has, of signers who are not in the test split."""
    trained = {clip.label for clip in dataset.clips_in("train")}
    tested = {clip.signer for clip in dataset.clips_in("test")}
    return tuple(clip for clip in dataset.clips if clip.label not in trained and clip.signer not in tested)


def made_negatives(dataset: Dataset, clips: Sequence[Clip], *, max_frames: int) -> list[Negatives]:
    """Return negatives made from clips of signs: without hands, cut off, two signs, reversed, frozen.

    Args:
        dataset: the clips' data set.
        clips: of signs, in any order.
        max_frames: the model's limit.
    """
    chosen = spread(clips, MOST_NEGATIVES)
    made = [
        _of_kind(kind, ((change(dataset.poses_of(clip)), {clip.label}) for clip in chosen))
        for kind, change in _CHANGES.items()
    ]
    pairs = (
        (
            np.concatenate([_second_half(dataset.poses_of(one)), _first_half(dataset.poses_of(other))]),
            {one.label, other.label},
        )
        for one, other in _neighbours(chosen)
    )
    made.append(_of_kind(TWO_SIGNS, ((poses[:max_frames], labels) for poses, labels in pairs)))
    return [negatives for negatives in made if negatives.clips]


def spread(clips: Sequence[Clip], most: int) -> list[Clip]:
    """Return at most so many clips, evenly spread over the order of the data set."""
    if len(clips) <= most:
        return list(clips)
    return [clips[i] for i in np.linspace(0, len(clips) - 1, most).astype(int)]


def _of_kind(kind: str, made: Iterator[tuple[Float32Array, set[str]]]) -> Negatives:
    kept = [(poses, frozenset(labels)) for poses, labels in made if detected(poses).any()]
    return Negatives(
        kind=kind,
        recorded=False,
        clips=[poses for poses, _ in kept],
        labels=[labels for _, labels in kept],
    )


def _neighbours(clips: Sequence[Clip]) -> Iterator[tuple[Clip, Clip]]:
    """Yield pairs of clips of one signer and two labels: each clip with the next that fits."""
    for i, one in enumerate(clips):
        for other in (*clips[i + 1 :], *clips[:i]):
            if other.signer == one.signer and other.label != one.label:
                yield one, other
                break


def _without_hands(poses_TLD: Float32Array) -> Float32Array:
    changed = poses_TLD.copy()
    changed[:, LEFT_HAND.start : RIGHT_HAND.stop] = np.nan
    return changed


def _first_half(poses_TLD: Float32Array) -> Float32Array:
    return poses_TLD[: max(1, len(poses_TLD) // 2)]


def _second_half(poses_TLD: Float32Array) -> Float32Array:
    return poses_TLD[len(poses_TLD) // 2 :]


def _frozen(poses_TLD: Float32Array) -> Float32Array:
    return np.repeat(poses_TLD[len(poses_TLD) // 2][None], len(poses_TLD), axis=0)


_CHANGES: Final[dict[str, Callable[[Float32Array], Float32Array]]] = {
    "hands not found": _without_hands,
    "first half": _first_half,
    "second half": _second_half,
    "reversed": lambda poses_TLD: poses_TLD[::-1],
    "frozen": _frozen,
}
