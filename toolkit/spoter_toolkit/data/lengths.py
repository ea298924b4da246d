"""How long clips are: a histogram from a DATASET, a file, the bundle's training data, or a generated one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from spoter_runtime.bundle.manifest import Bundle, frame_counts_from_json
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import DataError
from spoter_toolkit.input_files import LENGTHS, json_of

# BdSLW60's clips have 9 to 164 frames, 44 on average. The generated lengths follow a beta distribution with
# those ends and that mean; its first parameter gives it a long tail.
LEAST_FRAMES: Final = 9
MOST_FRAMES: Final = 164
MEAN_FRAMES: Final = 44
_ALPHA: Final = 2.0
_GENERATED_CLIPS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLengths:
    """A histogram of lengths.

    Attributes:
        counts: frames → number of clips.
        source: origin of the histogram, in words.
    """

    counts: dict[int, int]
    source: str

    @property
    def mean(self) -> float:
        """Mean number of frames."""
        return sum(frames * clips for frames, clips in self.counts.items()) / sum(self.counts.values())

    def __str__(self) -> str:
        return f"{self.source}: {min(self.counts)}–{max(self.counts)} frames, mean {self.mean:.0f}"

    def sample(self, number: int, *, seed: int) -> tuple[int, ...]:
        """Return `number` evenly spaced quantiles of the histogram, its ends included, in random order.

        A random sample of this size would have another mean.
        """
        frames = np.array(sorted(self.counts))
        ends = np.cumsum([self.counts[int(length)] for length in frames])
        ranks = np.linspace(0, ends[-1] - 1, number)
        chosen = frames[np.searchsorted(ends, ranks, side="right")]
        return tuple(int(length) for length in np.random.default_rng(seed).permutation(chosen))


def lengths_from_path(path: Path, contract: GraphContract) -> ClipLengths:
    """Read the lengths of a DATASET, or a JSON file with a histogram.

    Args:
        path: a DATASET folder, or a file like ``{"44": 3, "60": 1}``.
        contract: no clip may be longer than it takes.

    Raises:
        DataError: neither, no clips, or a length outside 1..max_frames.
    """
    if path.is_dir():
        from spoter_toolkit.data.dataset import read_dataset

        dataset = read_dataset(path, check_hashes=False)
        counts = dict(Counter(clip.frames for clip in dataset.clips))
        source = f"{dataset.origin.kind} dataset, {len(dataset.clips)} clips"
    else:
        try:
            counts = frame_counts_from_json(json_of(path, LENGTHS))
        except ValueError as error:
            raise DataError(f"{path}: {error}", fix=LENGTHS.fix) from error
        source = f"{path.name}, {sum(counts.values())} clips"
    if not counts:
        raise DataError(f"{path}: has no clips", fix=LENGTHS.fix)
    if max(counts) > contract.max_frames:
        raise DataError(
            f"{path}: clips of up to {max(counts)} frames, the bundle's contract takes "
            f"1..{contract.max_frames}",
            fix="leave the longer ones out",
        )
    return ClipLengths(counts=dict(sorted(counts.items())), source=source)


def lengths_from_bundle(bundle: Bundle) -> ClipLengths:
    """Return the lengths of a bundle's training data, or generated ones if the bundle knows none.

    Raises:
        BundleError: as `Bundle.frame_counts`.
    """
    counts = bundle.frame_counts()
    most = bundle.contract.max_frames
    kept = {frames: clips for frames, clips in counts.items() if frames <= most}
    if not kept:
        return generated_lengths(most)
    left_out = sum(counts.values()) - sum(kept.values())
    source = f"the bundle's training data, {sum(kept.values())} clips"
    if left_out:
        source += f" ({left_out} longer than {most} frames left out)"
    return ClipLengths(counts=kept, source=source)


def generated_lengths(max_frames: int = MOST_FRAMES) -> ClipLengths:
    """Return lengths like BdSLW60's; those beyond `max_frames` are left out."""
    frames = np.arange(LEAST_FRAMES, MOST_FRAMES + 1)
    places = (frames - LEAST_FRAMES + 0.5) / len(frames)
    share = (MEAN_FRAMES - LEAST_FRAMES) / (MOST_FRAMES - LEAST_FRAMES)
    beta = _ALPHA * (1 - share) / share
    density = places ** (_ALPHA - 1) * (1 - places) ** (beta - 1)
    clips = np.ceil(_GENERATED_CLIPS * density / density.sum()).astype(int)
    counts = {int(f): int(n) for f, n in zip(frames, clips, strict=True) if f <= max_frames}
    return ClipLengths(counts=counts or {max_frames: 1}, source="generated, like BdSLW60")
