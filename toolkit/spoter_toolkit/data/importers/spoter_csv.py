"""Import the original SPOTER's CSV: a row a clip, a column a coordinate, a list of frames in each cell.

Column names: github.com/matyasbohacek/spoter, datasets/czech_slr_dataset.py and normalization/.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import DataError
from spoter_runtime.landmarks import (
    BODY_NAMES,
    HAND_NAMES,
    LEFT_SHOULDER,
    NUM_LANDMARKS,
    RIGHT_SHOULDER,
)
from spoter_toolkit.data.bdslw60 import labels_named, natural_order
from spoter_toolkit.data.dataset import Dataset, Origin
from spoter_toolkit.data.dataset_writer import BadClip, NewClip, write_dataset
from spoter_toolkit.data.importers.common import ImportSettings, OnProgress, chosen, licence_of

_NECK: Final = BODY_NAMES.index("neck")
_NOSE: Final = BODY_NAMES.index("nose")
_FINGER_JOINTS: Final = {"cmc": "CMC", "mcp": "MCP", "pip": "PIP", "dip": "DIP", "ip": "IP", "tip": "Tip"}
# The three ways in which its files name the hands; its loader reads them all as 0 and 1.
_HANDS: Final = {"left": "left", "right": "right", "0": "left", "1": "right"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One row of the table, its cells not parsed yet; `number` counts the header as row 1."""

    path: Path
    number: int
    label: str
    signer: str
    cells: dict[str, str]


def import_spoter_csv(
    source: Path | str,
    out: Path | str,
    settings: ImportSettings | None = None,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Write a DATASET from a CSV of the original SPOTER, or from a folder of them.

    Columns: ``<point>_X`` and ``<point>_Y`` for the body (``nose``, ``leftEye`` …; without ``neck`` it is
    put between the shoulders), ``<joint>_<hand>_X`` and ``_Y`` for the hands (``indexDIP_left_X``; the hand
    may also be ``Left`` or ``0``), ``labels``; a ``signer`` and a ``video_fps`` column are used where there
    are any. x = 0 means not detected. Labels are kept as they are written, whether counted from 0 or 1.

    Some files have y pointing up (Apple's Vision made them). Where noses are below shoulders y is turned,
    so that every dataset has image coordinates; `Origin.notes` says so.

    Args:
        source: the file, or a folder in which every ``*.csv`` is such a file.
        out: the DATASET folder to write.
        settings: which clips to take; `signer` is who signed in files without that column. None: all.
        force: replace an existing dataset.
        on_progress: called with (clips done, clips in all, what).

    Raises:
        DataError: not such a file, truncated, unknown labels or signers, or see `write_dataset`; a broken
            cell is named by row and column.
        OSError: see `write_dataset`.
    """
    settings = settings or ImportSettings()
    source = Path(source)
    rows = [row for path in _paths(source) for row in _rows(path, settings)]
    rows, left_out = chosen(rows, settings, where=source)
    return write_dataset(
        out,
        _y_down(list(_clips(rows, settings, on_progress))),
        labels=labels_named(row.label for row in rows),
        coordinates=settings.coordinates,
        origin=Origin(
            kind="spoter-csv",
            source=source.resolve().name,
            licence=licence_of(source if source.is_dir() else source.parent),
            skipped=left_out,
        ),
        long=settings.long,
        skip_bad=settings.skip_bad,
        force=force,
    )


def _paths(source: Path) -> list[Path]:
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    paths = sorted(source.glob("*.csv"), key=lambda path: natural_order(path.name))
    if source.is_dir() and not paths:
        raise DataError(f"{source}: no .csv file in this folder")
    for path in paths or [source]:
        if not path.is_file():  # a pipe would be waited for
            raise DataError(f"{path}: not a file", fix="name a .csv file, or a folder of them")
    return paths or [source]


def _rows(path: Path, settings: ImportSettings) -> list[_Row]:
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [_column(name) for name in next(reader, [])]
            _check_header(path, header)
            for number, values in enumerate(reader, start=2):
                if len(values) != len(header):
                    raise DataError(
                        f"{path}, row {number}: {len(values)} cells, the header has {len(header)}; is the "
                        "file complete?"
                    )
                cells = dict(zip(header, values, strict=True))
                rows.append(
                    _Row(
                        path=path,
                        number=number,
                        label=re.sub(r"^(\d+)\.0$", r"\1", cells["labels"].strip()),  # pandas: 12.0
                        signer=cells.get("signer", "").strip() or settings.signer,
                        cells=cells,
                    )
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}") from error
    if not rows:
        raise DataError(f"{path}: no rows under the header")
    return rows


def _column(name: str) -> str:
    """Return a column's name with the hand spelled left or right."""
    match = re.fullmatch(r"(\w+)_(left|right|0|1)_([XY])", name.strip(), re.IGNORECASE)
    return f"{match[1]}_{_HANDS[match[2].lower()]}_{match[3]}" if match else name.strip()


def _point_columns() -> list[str]:
    """Return the columns' names without ``_X`` and ``_Y``, in the order of our landmarks."""
    body = [re.sub(r"_(\w)", lambda match: match[1].upper(), name) for name in BODY_NAMES]
    hand = []
    for name in HAND_NAMES:
        finger, _, joint = name.partition("_")
        # its thumb has a "thumbMP" where MediaPipe says MCP
        hand.append("thumbMP" if name == "thumb_mcp" else finger + _FINGER_JOINTS.get(joint, ""))
    return [*body, *(f"{name}_left" for name in hand), *(f"{name}_right" for name in hand)]


_POINTS: Final = tuple(_point_columns())


def _check_header(path: Path, header: list[str]) -> None:
    needed = ["labels", *(f"{point}_{axis}" for point in _POINTS if point != "neck" for axis in "XY")]
    if not header:
        raise DataError(f"{path}: is empty")
    if missing := [name for name in needed if name not in header]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(
            f"{path}: not the original SPOTER's CSV: no column {', '.join(missing[:3])}{more}. Expected "
            "labels, nose_X, nose_Y, …, indexDIP_left_X, …, each cell a list with a number for every frame"
        )


def _clips(
    rows: list[_Row], settings: ImportSettings, on_progress: OnProgress | None
) -> Iterator[NewClip | BadClip]:
    for done, row in enumerate(rows, start=1):
        try:
            poses_TLD = _poses(row)
            fps, notes = settings.rate(_fps(row))
        except DataError as error:
            yield BadClip(reason=str(error))
            continue
        yield NewClip(
            id=f"{row.path.stem}/{row.number}",
            label=row.label,
            signer=row.signer,
            fps=fps,
            poses_TLD=poses_TLD,
            source=f"{row.path.name}, row {row.number}",
            where=f"{row.path}, row {row.number}",
            notes=notes,
        )
        if on_progress:
            on_progress(done, len(rows), "reading rows")


def _poses(row: _Row) -> npt.NDArray[np.float64]:
    first = _cell(row, f"{_POINTS[0]}_X")
    poses_TLD = np.full((len(first), NUM_LANDMARKS, 2), np.nan)
    for landmark, point in enumerate(_POINTS):
        for axis, letter in enumerate("XY"):
            column = f"{point}_{letter}"
            if column not in row.cells:  # only a neck may be absent
                continue
            values = _cell(row, column)
            if len(values) != len(first):
                raise DataError(
                    f"{row.path}, row {row.number}, column {column!r}: {len(values)} frames, "
                    f"{_POINTS[0]}_X has {len(first)}"
                )
            poses_TLD[:, landmark, axis] = values
    poses_TLD[poses_TLD[..., 0] == 0] = np.nan
    if f"{_POINTS[_NECK]}_X" not in row.cells:
        poses_TLD[:, _NECK] = poses_TLD[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(axis=1)
    return poses_TLD


def _cell(row: _Row, column: str) -> list[float]:
    text = row.cells[column].strip()
    try:
        if not (text.startswith("[") and text.endswith("]")):
            raise ValueError("not a list in [ ]")
        body = text[1:-1].strip()
        return [float(value) for value in body.split(",")] if body else []
    except ValueError as error:
        shown = text if len(text) <= 40 else f"{text[:20]} … {text[-15:]}"
        raise DataError(
            f"{row.path}, row {row.number}, column {column!r}: expected a list of numbers, "
            f"got {shown!r}: {error}"
        ) from error


def _fps(row: _Row) -> float | None:
    text = row.cells.get("video_fps", "").strip()
    try:
        return float(text) if text else None
    except ValueError as error:
        raise DataError(
            f"{row.path}, row {row.number}, column 'video_fps': not a number: {text!r}"
        ) from error


def _y_down(clips: list[NewClip | BadClip]) -> list[NewClip | BadClip]:
    """Turn y where it points up in the whole source, judged by where noses are above shoulders."""
    heights = [clip.poses_TLD[..., 1] for clip in clips if isinstance(clip, NewClip)]
    with np.errstate(invalid="ignore"):  # an infinity is refused later, where clips are checked
        drops = [y_TL[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(axis=1) - y_TL[:, _NOSE] for y_TL in heights]
    seen = np.concatenate([drop[np.isfinite(drop)] for drop in drops] or [np.empty(0)])
    if not len(seen) or np.median(seen) >= 0:
        return clips
    highest = max(y_TL.max(initial=0.0, where=np.isfinite(y_TL)) for y_TL in heights)
    top = 1.0 if highest < 2 else float(highest)  # the picture's height is 1, or an unknown one in pixels
    return [_turned(clip, top) if isinstance(clip, NewClip) else clip for clip in clips]


def _turned(clip: NewClip, top: float) -> NewClip:
    poses_TLD = clip.poses_TLD * [1.0, -1.0] + [0.0, top]
    return replace(clip, poses_TLD=poses_TLD, notes=(*clip.notes, "y pointed up and was turned"))
