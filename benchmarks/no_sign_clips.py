"""The data sets of `no_sign.py`: one signer for training and validation, the other for the test.

Validation takes whole recording batches. A background label ``none`` is of recorded clips or of made ones.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from result_files import spoter_kit

from spoter_runtime.contract import Label
from spoter_runtime.landmarks import LEFT_HAND, RIGHT_HAND, Float32Array, resample_clip
from spoter_toolkit.data.dataset import Dataset, read_dataset
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset

NONE = "none"
MADE_SHARE = 0.25  # made clips of the background label ÷ clips of signs, in train and in val


def write_split(folder: Path, test: str) -> None:
    """Split a data set: one signer for the test, and of the other about a fifth of the batches for val."""
    clips = read_dataset(folder).clips
    batches: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        if clip.signer != test and clip.source not in batches[clip.label]:
            batches[clip.label].append(clip.source)
    val = {batch for names in batches.values() for batch in names[::5][: len(names) // 2]}
    rows = [
        f"{clip.id},{'test' if clip.signer == test else 'val' if clip.source in val else 'train'}\n"
        for clip in clips
    ]
    file = folder.with_suffix(".csv")
    file.write_text("id,split\n" + "".join(rows), encoding="utf-8")
    spoter_kit("data", "split", folder, "--from", file, "--by", "recording")


def write_data(source: Path, work: Path, test: str) -> None:
    """Import the words that both signers have, with and without ``none``, and ``none`` alone."""
    shared = ("--signers", "A,B", "--skip-bad")
    options = {
        "thresholds": ("--shared-labels", "--without", NONE),
        "recorded": ("--shared-labels",),
        NONE: ("--labels", NONE),
    }
    for name, chosen in options.items():
        folder = work / f"{name}-test-{test}"
        if folder.exists():
            continue
        spoter_kit("data", "import", "asl33", source, "-o", folder, *shared, *chosen)
        if name == NONE:
            spoter_kit("data", "split", folder, "--test", test)
        else:
            write_split(folder, test)
    if not (work / f"made-test-{test}").exists():
        with_made_background(read_dataset(work / f"thresholds-test-{test}"), work / f"made-test-{test}")


def with_made_background(dataset: Dataset, folder: Path, seed: int = 0) -> Dataset:
    """Write a copy of a data set whose label ``none`` has clips made from its own train and val clips."""
    rng = np.random.default_rng(seed)
    clips = [
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
    for split in ("train", "val"):
        signs = dataset.clips_in(split)
        for number in range(int(MADE_SHARE * len(signs))):
            body, path, shape = (signs[i] for i in rng.choice(len(signs), 3, replace=False))
            poses = [dataset.poses_of(clip) for clip in (body, path, shape)]
            made = NewClip(
                id=f"{NONE}/{split}-{number}",
                label=NONE,
                signer=body.signer,
                fps=body.fps,
                poses_TLD=scrambled(*poses, rng),
                split=split,
                source=f"{NONE}/{split}",
            )
            clips.append(made)
    labels = [*dataset.labels, Label(name=NONE)]
    return write_dataset(
        folder,
        clips,
        labels=labels,
        coordinates=dataset.coordinates,
        origin=dataset.origin,
        split=dataset.split,
        skip_bad=True,
    )


def scrambled(
    body: Float32Array, path: Float32Array, shape: Float32Array, rng: np.random.Generator
) -> Float32Array:
    """Return hands that do no sign: one clip's body, another's paths of the hands, a third one's hands.

    Paths are mirrored, scaled and shifted at random, hands made smaller or larger; one time in ten there are
    no hands at all.
    """
    frames = len(body)
    path, shape = resample_clip(path, frames), resample_clip(shape, frames)
    made = body.copy()
    flip, away = rng.choice([-1, 1], 2), rng.normal(0, 0.1, 2)
    size, reach = rng.uniform(0.7, 1.8), rng.uniform(0.5, 2.5)
    for hand in (LEFT_HAND, RIGHT_HAND):
        with np.errstate(invalid="ignore"):
            centre = path[:, hand].mean(axis=1, keepdims=True)
            middle = np.nan_to_num(np.nanmean(centre, axis=0)) if np.isfinite(centre).any() else 0.5
            moved = middle + (centre - middle) * flip * reach + away
            made[:, hand] = moved + size * (shape[:, hand] - shape[:, hand].mean(axis=1, keepdims=True))
    if rng.random() < 0.1:
        made[:, LEFT_HAND.start : RIGHT_HAND.stop] = np.nan
    return made.astype(np.float32)
