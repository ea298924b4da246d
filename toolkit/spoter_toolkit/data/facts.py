"""Count a data set's clips, frames, labels, signers, splits, lengths, missing landmarks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.landmarks import (
    BODY,
    LEFT_HAND,
    RIGHT_HAND,
    detected,
)
from spoter_toolkit.data.dataset import SPLITS, Clip, Dataset
from spoter_toolkit.data.names import check_known, natural_order
from spoter_toolkit.report.words import plural

PERCENTILES: Final = (5, 25, 50, 75, 95)

MIN_SIGNS: Final = 20  # clips in val: fewer say nothing about the probability of a sign

PARTS: Final = {"body": BODY, "left hand": LEFT_HAND, "right hand": RIGHT_HAND}


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFacts:
    """One split of a dataset: ``"train"``, ``"val"``, ``"test"``, or ``""`` for clips in none."""

    name: str
    clips: int
    frames: int
    labels: int
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """The facts of a dataset."""

    clips: int
    frames: int
    duration_s: float  # of all clips, by their frame rates
    clips_of_label: dict[str, int]  # label → clips, in the order of the labels
    clips_of_signer: dict[str, int]  # signer → clips
    splits: tuple[SplitFacts, ...]  # splits with clips, in the order train, val, test, none
    length_percentiles: dict[int, float]  # percentile → frames; 0 and 100 are the shortest and longest clip
    # (first, last, clips): bins of equal width, each with the number of clips of first..last frames
    length_histogram: tuple[tuple[int, int, int], ...]
    # "body", "left hand", "right hand" → share of landmarks not detected, 0..1
    missing: dict[str, float]
    frames_without_hands: float  # share of frames without a detected hand landmark, 0..1


def describe(dataset: Dataset) -> DatasetFacts:
    """Return the facts of a dataset; reads all its landmarks once."""
    clips = dataset.clips
    lengths = np.array([clip.frames for clip in clips])
    labels, signers = Counter(clip.label for clip in clips), Counter(clip.signer for clip in clips)
    absent = dict.fromkeys(PARTS, 0)
    without_hands = 0
    for clip in clips:
        seen_TL = detected(dataset.poses_of(clip))
        without_hands += int((~seen_TL[:, LEFT_HAND.start :].any(axis=1)).sum())
        for name, part in PARTS.items():
            absent[name] += int((~seen_TL[:, part]).sum())
    frames = int(lengths.sum())
    return DatasetFacts(
        clips=len(clips),
        frames=frames,
        duration_s=sum(clip.frames / clip.fps for clip in clips),
        clips_of_label={label.name: labels[label.name] for label in dataset.labels},
        clips_of_signer={name: signers[name] for name in sorted(signers, key=natural_order)},
        splits=tuple(
            SplitFacts(
                name=name,
                clips=len(inside),
                frames=sum(clip.frames for clip in inside),
                labels=len({clip.label for clip in inside}),
                signers=tuple(sorted({clip.signer for clip in inside}, key=natural_order)),
            )
            for name in (*SPLITS, "")
            if (inside := dataset.clips_in(name))
        ),
        length_percentiles={p: float(np.percentile(lengths, p)) for p in (0, *PERCENTILES, 100)},
        length_histogram=length_histogram(lengths),
        missing={n: absent[n] / (frames * (part.stop - part.start)) for n, part in PARTS.items()},
        frames_without_hands=without_hands / frames,
    )


def val_gap(dataset: Dataset) -> str:
    """Return what a model of this split will not be able to do, because val has few clips; else nothing."""
    clips = len(dataset.clips_in("val"))
    if clips >= MIN_SIGNS:
        return ""
    few = f"val has {plural(clips, 'clip')} of the {MIN_SIGNS} needed" if clips else "no val"
    return f'{few}: the model will not be able to say "no sign"'


def length_histogram(lengths: npt.NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """Return (first, last, clips) of at most 12 bins, with a width of 1, 2 or 5 times a power of ten."""
    first, last = int(lengths.min()), int(lengths.max())
    width = next(
        step * 10**power for power in range(6) for step in (1, 2, 5) if last - first < 11 * step * 10**power
    )
    start = first - first % width
    counts = Counter((length - start) // width for length in lengths.tolist())
    return tuple((start + i * width, start + (i + 1) * width - 1, counts[i]) for i in range(max(counts) + 1))


def clip_named(dataset: Dataset, clip_id: str) -> Clip:
    """Return the clip with this id.

    Raises:
        DataError: there is none; the message names the nearest.
    """
    clips = {clip.id: clip for clip in dataset.clips}
    check_known([clip_id], clips, what="clip", where=dataset.folder)
    return clips[clip_id]
