"""Draw a clip's skeleton, and a dataset's lengths, as pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import DataError
from spoter_runtime.files import replacing
from spoter_runtime.landmarks import BONES, LEFT_HAND, Float32Array, detected
from spoter_toolkit.data.dataset import SPLITS, Dataset
from spoter_toolkit.data.facts import PARTS, length_histogram
from spoter_toolkit.report.fonts import set_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PICTURES: Final = (".png", ".pdf", ".svg")
_DPI: Final = 130  # of PNG files
_FILMSTRIP: Final = 8  # frames of a clip that are drawn
_COLOURS: Final = {"body": "#5b6770", "left hand": "#0072b2", "right hand": "#d55e00"}
_SPLIT_COLOURS: Final = {"train": "#5b6770", "val": "#e69f00", "test": "#0072b2", "": "#b0b7bc"}
_WRISTS: Final = {"left hand": 11, "right hand": 10}  # of the body: seen more often than the hands'


def check_picture(path: Path, *, also: Sequence[str] = ()) -> None:
    """Check that a path ends like a picture that can be drawn, or in one of the suffixes `also`.

    Raises:
        DataError: another suffix.
    """
    endings = (*PICTURES, *also)
    if path.suffix.lower() not in endings:
        raise DataError(f"{path}: a picture's name ends in {', '.join(endings)}")


def draw_lengths(dataset: Dataset, path: Path) -> None:
    """Draw how many clips have which length, a colour a split, as a PNG, PDF or SVG file.

    Raises:
        DataError: another suffix.
        OSError: the file cannot be written.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    bins = length_histogram(np.array([clip.frames for clip in dataset.clips]))
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
    save_picture(figure, path)


def draw_clip(
    poses_TLD: Float32Array,
    path: Path,
    *,
    title: str = "",
    fps: float = 30.0,
    pictures: Sequence[npt.NDArray[np.uint8]] | None = None,
) -> None:
    """Draw a clip's skeleton over time: eight of its frames, and the paths of both wrists.

    Args:
        poses_TLD: (frames, 54, 2) image coordinates, y down; landmarks not detected are not drawn.
        path: a PNG, PDF or SVG file.
        title: above the picture.
        fps: frames a second, for the times under the frames.
        pictures: the video's frames, one for each of the clip's, to draw it on; None draws it on white.

    Raises:
        DataError: another suffix, or no landmark is detected at all.
        OSError: the file cannot be written.
    """
    check_picture(path)
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

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
        if pictures is not None:
            _draw_picture(axes, pictures[frame])
        _draw_skeleton(axes, points[frame])
        axes.set_title(f"frame {frame + 1}, {frame / fps:.2f} s", fontsize=9)
        if not seen_TL[frame].any():
            axes.text(0.5, 0.5, "nothing\ndetected", transform=axes.transAxes, ha="center", va="center")
    _draw_wrist_paths(figure.add_subplot(grid[:, 4]), points)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(title)
    save_picture(figure, path)


def _draw_skeleton(axes: Axes, points_LD: Float32Array, *, fade: float = 1.0) -> None:
    for name, part in PARTS.items():
        width, size = (2.0, 4.0) if name == "body" else (1.0, 2.5)
        style: dict[str, Any] = {"color": _COLOURS[name], "alpha": fade}
        for bone in BONES:
            if part.start <= bone[0] < part.stop:
                axes.plot(*points_LD[list(bone)].T, linewidth=width, solid_capstyle="round", **style)
        axes.plot(*points_LD[part].T, ".", markersize=size, **style)


def _draw_picture(axes: Axes, picture: npt.NDArray[np.uint8]) -> None:
    """Fill the axes with a frame: its corners are (0, 0) and (1, 1), its sides in their own ratio."""
    height, width, _ = picture.shape
    axes.imshow(picture, extent=(0, 1, 1, 0), aspect=height / width)


def _draw_wrist_paths(axes: Axes, points: Float32Array) -> None:
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
    axes.set_title("wrist paths: ○ first, ● last detection", fontsize=9)


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


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    set_fonts(figure)
    with warnings.catch_warnings(), replacing(path) as temporary:
        # a title in a script that no font here has is drawn as boxes; that is no reason to write on stderr
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=_DPI)
