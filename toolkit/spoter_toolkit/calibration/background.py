"""A background label: clips in which hands move and do no sign, made from the clips of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from spoter_runtime.contract import Label
from spoter_runtime.errors import ConfigError, DataError
from spoter_runtime.landmarks import LEFT_HAND, RIGHT_HAND, Float32Array, detected, resample_clip
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset

BACKGROUND_LABEL: Final = "none"
SHARE: Final = 0.25  # made clips ÷ clips of signs, in train and in val
_WITHOUT_HANDS: Final = 0.1  # share of the made clips
_AWAY: Final = 0.1  # standard deviation of a path's shift, in widths of the picture
_HAND_SIZES: Final = (0.7, 1.8)  # of a hand, times its own
_REACHES: Final = (0.5, 2.5)  # of a path, times its own


def with_background(
    dataset: Dataset,
    folder: Path,
    *,
    label: str = BACKGROUND_LABEL,
    share: float = SHARE,
    seed: int = 0,
    force: bool = False,
) -> Dataset:
    """Write a copy of a data set with one label more, whose clips show hands that do no sign.

    Args:
        dataset: split into train and, better, val; only these two get clips of the label.
        folder: the new DATASET.
        label: the new label's name.
        share: made clips, as a share of the clips of signs.
        seed: the same seed gives the same clips.
        force: replace an existing data set.

    Raises:
        ConfigError: a share of 0 or less.
        DataError: no train split, the label is there already, or `folder` exists.
    """
    if not 0 < share <= 10:
        raise ConfigError(f"share {share:g}: expected more than 0, and at most 10", fix=f"--share {SHARE}")
    if label in dataset.label_index():
        raise DataError(
            f"{dataset.folder}: has the label {label!r} already", fix="choose another with --label"
        )
    if len(dataset.clips_in("train")) < 3:
        raise DataError(
            f"{dataset.folder}: fewer than 3 clips are in the train split",
            fix=dataset.split_command(),
        )
    rng = np.random.default_rng(seed)
    made = [clip for split in ("train", "val") for clip in _made(dataset, split, label, share, rng)]
    signs = [
        NewClip(
            id=clip.id,
            label=clip.label,
            signer=clip.signer,
            fps=clip.fps,
            poses_TLD=dataset.poses_of(clip),
            split=clip.split,
            source=clip.source,
        )
        for clip in dataset.clips
    ]
    notes = dataset.origin.notes | {f"made of clips of signs, for the label {label}": len(made)}
    return write_dataset(
        folder,
        [*signs, *made],
        labels=[*dataset.labels, Label(name=label)],
        coordinates=dataset.coordinates,
        origin=replace(dataset.origin, notes=notes),
        split=dataset.split,
        force=force,
    )


def scrambled(
    body: Float32Array, path: Float32Array, shape: Float32Array, rng: np.random.Generator
) -> Float32Array:
    """Return hands that do no sign: the body of one clip, the hands' paths of another, the hands of a third.

    Paths are mirrored, scaled and shifted at random, hands made smaller or larger; some clips have no hands.

    Args:
        body: (frames, 54, 2); the result is as long.
        path: the same, of any length.
        shape: the same.
        rng: decides all that is random.
    """
    frames = len(body)
    path, shape = resample_clip(path, frames), resample_clip(shape, frames)
    made = body.copy()
    flip, away = rng.choice([-1, 1], 2), rng.normal(0, _AWAY, 2)
    size, reach = rng.uniform(*_HAND_SIZES), rng.uniform(*_REACHES)
    for hand in (LEFT_HAND, RIGHT_HAND):
        centre = path[:, hand].mean(axis=1, keepdims=True)
        middle = np.nanmean(centre, axis=0) if np.isfinite(centre).any() else np.float32(0.5)
        moved = middle + (centre - middle) * flip * reach + away
        made[:, hand] = moved + size * (shape[:, hand] - shape[:, hand].mean(axis=1, keepdims=True))
    if rng.random() < _WITHOUT_HANDS:
        made[:, LEFT_HAND.start : RIGHT_HAND.stop] = np.nan
    return made


def _made(
    dataset: Dataset, split: str, label: str, share: float, rng: np.random.Generator
) -> Iterator[NewClip]:
    signs = dataset.clips_in(split)
    for number in range(int(share * len(signs)) if len(signs) >= 3 else 0):
        body, *others = (signs[i] for i in rng.choice(len(signs), 3, replace=False))
        path, shape = (dataset.poses_of(clip) for clip in others)
        poses_TLD = scrambled(dataset.poses_of(body), path, shape, rng)
        if detected(poses_TLD).any():
            yield NewClip(
                id=f"{label}/{split}-{number}",
                label=label,
                signer=body.signer,
                fps=body.fps,
                poses_TLD=poses_TLD,
                split=split,
                source=f"{label}/{split}",
            )
