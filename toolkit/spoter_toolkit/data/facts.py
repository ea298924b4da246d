"""Show a dataset: its facts, the lengths of its clips, and a clip's skeleton over time."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import DataError
from spoter_runtime.files import replacing
from spoter_runtime.landmarks import (
    BODY,
    BONES,
    LEFT_HAND,
    RIGHT_HAND,
    Float32Array,
    detected,
)
from spoter_toolkit.data.bdslw60 import natural_order
from spoter_toolkit.data.dataset import SPLITS, Clip, Dataset
from spoter_toolkit.data.importers.common import check_known

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES: Final = (".png", ".pdf", ".svg")
PERCENTILES: Final = (5, 25, 50, 75, 95)
_FILMSTRIP: Final = 8  # frames of a clip that are drawn

_PARTS: Final = {"body": BODY, "left hand": LEFT_HAND, "right hand": RIGHT_HAND}
_COLOURS: Final = {"body": "#5b6770", "left hand": "#0072b2", "right hand": "#d55e00"}
_SPLIT_COLOURS: Final = {"train": "#5b6770", "val": "#e69f00", "test": "#0072b2", "": "#b0b7bc"}
_WRISTS: Final = {"left hand": 11, "right hand": 10}  # of the body: seen more often than the hands'


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFacts:
    """One split of a dataset: ``"train"``, ``"val"``, ``"test"``, or ``""``: in none."""

    name: str
    clips: int
    frames: int
    labels: int
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """What is in a dataset.

    Attributes:
        clips: how many.
        frames: of all clips.
        duration_s: of all clips, by their frame rates.
        clips_of_label: label → clips, in the order of the labels.
        clips_of_signer: signer → clips.
        splits: those that have clips, in the order train, val, test, none.
        length_percentiles: percentile → frames; 0 and 100 are the shortest and longest clip.
        length_histogram: (first, last, clips): clips of first..last frames; the bins are equally wide.
        missing: ``"body"``, ``"left hand"``, ``"right hand"`` → part of its landmarks not detected, 0..1.
        frames_without_hands: part of the frames in which no landmark of either hand is detected, 0..1.
    """

    clips: int
    frames: int
    duration_s: float
    clips_of_label: dict[str, int]
    clips_of_signer: dict[str, int]
    splits: tuple[SplitFacts, ...]
    length_percentiles: dict[int, float]
    length_histogram: tuple[tuple[int, int, int], ...]
    missing: dict[str, float]
    frames_without_hands: float


def describe(dataset: Dataset) -> DatasetFacts:
    """Count what is in a dataset; reads all its landmarks once."""
    clips = dataset.clips
    lengths = np.array([clip.frames for clip in clips])
    labels, signers = Counter(clip.label for clip in clips), Counter(clip.signer for clip in clips)
    missing, without_hands = _missing(dataset)
    return DatasetFacts(
        clips=len(clips),
        frames=int(lengths.sum()),
        duration_s=sum(clip.frames / clip.fps for clip in clips),
        clips_of_label={label.name: labels[label.name] for label in dataset.labels},
        clips_of_signer={name: signers[name] for name in sorted(signers, key=natural_order)},
        splits=tuple(_split_facts(name, dataset) for name in (*SPLITS, "") if dataset.clips_in(name)),
        length_percentiles={p: float(np.percentile(lengths, p)) for p in (0, *PERCENTILES, 100)},
        length_histogram=_histogram(lengths),
        missing=missing,
        frames_without_hands=without_hands,
    )


def _split_facts(name: str, dataset: Dataset) -> SplitFacts:
    clips = dataset.clips_in(name)
    return SplitFacts(
        name=name,
        clips=len(clips),
        frames=sum(clip.frames for clip in clips),
        labels=len({clip.label for clip in clips}),
        signers=tuple(sorted({clip.signer for clip in clips}, key=natural_order)),
    )


def _histogram(lengths: npt.NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """Return at most 12 bins whose width is 1, 2 or 5 times a power of ten."""
    first, last = int(lengths.min()), int(lengths.max())
    width = next(
        step * 10**power for power in range(6) for step in (1, 2, 5) if last - first < 11 * step * 10**power
    )
    start = first - first % width
    counts = Counter((length - start) // width for length in lengths.tolist())
    return tuple((start + i * width, start + (i + 1) * width - 1, counts[i]) for i in range(max(counts) + 1))


def _missing(dataset: Dataset) -> tuple[dict[str, float], float]:
    absent = dict.fromkeys(_PARTS, 0)
    frames = without_hands = 0
    for clip in dataset.clips:
        seen_TL = detected(dataset.poses_of(clip))
        frames += clip.frames
        without_hands += int((~seen_TL[:, LEFT_HAND.start :].any(axis=1)).sum())
        for name, part in _PARTS.items():
            absent[name] += int((~seen_TL[:, part]).sum())
    size = {name: part.stop - part.start for name, part in _PARTS.items()}
    return {name: absent[name] / (frames * size[name]) for name in _PARTS}, without_hands / frames


def clip_named(dataset: Dataset, clip_id: str) -> Clip:
    """Return the clip with this id.

    Raises:
        DataError: there is none; the message names the nearest.
    """
    clips = {clip.id: clip for clip in dataset.clips}
    check_known([clip_id], clips, what="clip", where=dataset.folder)
    return clips[clip_id]


def draw_lengths(dataset: Dataset, path: Path | str) -> None:
    """Draw how many clips have which length, a colour a split, as a PNG, PDF or SVG file.

    Raises:
        DataError: another suffix.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    path = _checked(path)
    bins = _histogram(np.array([clip.frames for clip in dataset.clips]))
    names = [f"{first}–{last}" if last > first else f"{first}" for first, last, _ in bins]
    figure = Figure(figsize=(max(5.0, 0.7 * len(bins) + 2), 4), layout="constrained")
    axes = figure.add_subplot()
    below = np.zeros(len(bins))
    for split in (*SPLITS, ""):
        lengths = np.array([clip.frames for clip in dataset.clips_in(split)])
        if len(lengths):
            counts = [((lengths >= first) & (lengths <= last)).sum() for first, last, _ in bins]
            axes.bar(names, counts, 0.85, below, label=split or "no split", color=_SPLIT_COLOURS[split])
            below += counts
    axes.set(xlabel="frames of a clip", ylabel="clips", xlim=(-1, len(bins)))
    axes.set_title(f"{dataset.folder.name}: lengths of its {len(dataset.clips)} clips", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    _save(figure, path)


def draw_clip(poses_TLD: Float32Array, path: Path | str, *, title: str = "", fps: float = 30.0) -> None:
    """Draw a clip's skeleton over time: eight of its frames, and the ways of both wrists.

    Args:
        poses_TLD: (frames, 54, 2) image coordinates, y down; landmarks not detected are not drawn.
        path: a PNG, PDF or SVG file.
        title: above the picture.
        fps: frames a second, for the times under the frames.

    Raises:
        DataError: another suffix, or no landmark is detected at all.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    path = _checked(path)
    seen_TL = detected(poses_TLD)
    if not seen_TL.any():
        raise DataError("no landmark is detected in any frame of this clip, so there is nothing to draw")
    points = np.where(seen_TL[..., None], poses_TLD, np.nan)
    low, high = np.nanmin(points, axis=(0, 1)), np.nanmax(points, axis=(0, 1))
    across = float(np.clip(2.4 * (high[0] - low[0]) / max(high[1] - low[1], 1e-6), 1.3, 3.6))
    figure = Figure(figsize=(6 * across + 0.8, 6), layout=ConstrainedLayoutEngine(h_pad=0.1))
    grid = figure.add_gridspec(2, 5, width_ratios=(1, 1, 1, 1, 2))
    frames = np.unique(np.linspace(0, len(points) - 1, _FILMSTRIP).round().astype(int))
    for place, frame in enumerate(frames):
        axes = figure.add_subplot(grid[place // 4, place % 4])
        _frame_axes(axes, points)
        _draw_skeleton(axes, points[frame])
        axes.set_title(f"frame {frame + 1}, {frame / fps:.2f} s", fontsize=9)
        if not seen_TL[frame].any():
            axes.text(0.5, 0.5, "nothing\ndetected", transform=axes.transAxes, ha="center", va="center")
    _draw_ways(figure.add_subplot(grid[:, 4]), points)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(title)
    _save(figure, path)


def _draw_skeleton(axes: Axes, points_LD: Float32Array, *, fade: float = 1.0) -> None:
    for name, part in _PARTS.items():
        inside = [(a, b) for a, b in BONES if part.start <= a < part.stop]
        thin = name != "body"
        for bone in inside:
            axes.plot(
                *points_LD[list(bone)].T,
                color=_COLOURS[name],
                linewidth=1.0 if thin else 2.0,
                alpha=fade,
                solid_capstyle="round",
            )
        axes.plot(*points_LD[part].T, ".", color=_COLOURS[name], markersize=2.5 if thin else 4, alpha=fade)


def _draw_ways(axes: Axes, points: Float32Array) -> None:
    """Draw where both wrists went, over the median body; a gap is where one was not detected."""
    _frame_axes(axes, points)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a landmark that is missing all the time
        still = np.nanmedian(points, axis=0)
    still[LEFT_HAND.start :] = np.nan
    _draw_skeleton(axes, still, fade=0.25)
    for name, wrist in _WRISTS.items():
        way_TD = points[:, wrist]
        seen = np.flatnonzero(~np.isnan(way_TD[:, 0]))
        label = f"{name.split()[0]} wrist"
        axes.plot(*way_TD.T, color=_COLOURS[name], linewidth=1.8, label=label)
        if len(seen):
            axes.plot(*way_TD[seen[0]], "o", color=_COLOURS[name], markersize=8, markerfacecolor="white")
            axes.plot(*way_TD[seen[-1]], "o", color=_COLOURS[name], markersize=8)
    axes.set_title("ways of the wrists: ○ first, ● last detection", fontsize=9)


def _frame_axes(axes: Axes, points: Float32Array) -> None:
    """Give the axes the clip's own extent, y down, equal aspect, no ticks."""
    low, high = np.nanmin(points, axis=(0, 1)), np.nanmax(points, axis=(0, 1))
    margin = 0.06 * max(*(high - low), 1e-6)
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(high[1] + margin, low[1] - margin)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#d0d5d9")


def _checked(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix.lower() not in PICTURES:
        raise DataError(f"{path}: a picture's name ends in {', '.join(PICTURES)}")
    return path


def _save(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with warnings.catch_warnings(), replacing(path) as temporary:
        # a label in a script that the font lacks is drawn as boxes; that is no reason to write on stderr
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=110)
