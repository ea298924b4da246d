"""Import the original SPOTER's CSV: one row per clip, one column per coordinate, a list of frames per cell.

Column names: github.com/matyasbohacek/spoter, datasets/czech_slr_dataset.py and normalization/.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import DataError, SpoterError
from spoter_runtime.files import check_regular
from spoter_runtime.landmarks import (
    BODY_NAMES,
    HAND_NAMES,
    LEFT_SHOULDER,
    NUM_LANDMARKS,
    RIGHT_SHOULDER,
)
from spoter_toolkit.data.dataset_writer import NewClip
from spoter_toolkit.data.importers.common import ImportSettings, Source, licence_of
from spoter_toolkit.data.names import natural_order
from spoter_toolkit.data.sources import wrong_source

_MOST_BYTES: Final = 1 << 32  # of a file; the published ones have up to 1 GB
_NECK: Final = BODY_NAMES.index("neck")
_NOSE: Final = BODY_NAMES.index("nose")
_FINGER_JOINTS: Final = {"cmc": "CMC", "mcp": "MCP", "pip": "PIP", "dip": "DIP", "ip": "IP", "tip": "Tip"}
# The three spellings of the hands; SPOTER's loader reads all as 0 and 1.
_HANDS: Final = {"left": "left", "right": "right", "0": "left", "1": "right"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvRow:
    """A row of the table, its cells not parsed yet; `number` counts the header as row 1."""

    path: Path
    number: int
    label: str
    signer: str
    cells: dict[str, str]


def find_spoter_csv(source: Path, settings: ImportSettings) -> Source[CsvRow]:
    """Find the clips of a CSV of the original SPOTER, or of a folder of them.

    Columns: ``<point>_X`` and ``<point>_Y`` for the body (``nose``, ``leftEye`` …; without ``neck`` it is
    put between the shoulders), ``<joint>_<hand>_X`` and ``_Y`` for the hands (``indexDIP_left_X``; the hand
    may also be ``Left`` or ``0``), ``labels``; a ``signer`` and a ``video_fps`` column are used where there
    are any. x = 0 means not detected. Labels are kept as they are written, whether counted from 0 or 1.

    In some files (from Apple's Vision) y points up. If noses are below shoulders, y is flipped to image
    coordinates, which `Origin.notes` states.

    Args:
        source: the file, or a folder in which every ``*.csv`` is such a file.
        settings: its `signer` is for files without that column.

    Raises:
        DataError: not such a file, or truncated.
    """
    wrong = "a .csv file, or a folder of them", "spoter-kit data import spoter-csv"
    if not source.exists():
        raise wrong_source(source, *wrong)
    paths = sorted(source.glob("*.csv"), key=lambda path: natural_order(path.name))
    if source.is_dir() and not paths:
        raise wrong_source(source, *wrong)
    for path in paths or [source]:
        if not path.is_file():  # reading a pipe would block
            raise DataError(f"{path}: not a file", fix="name a .csv file, or a folder of them")

    def read(row: CsvRow) -> NewClip:
        fps, notes = settings.rate(rate_of(row))
        return NewClip(
            id=f"{row.path.stem}/{row.number}",
            label=row.label,
            signer=row.signer,
            fps=fps,
            poses_TLD=poses_of(row),
            source=f"{row.path.name}, row {row.number}",
            where=f"{row.path}, row {row.number}",
            notes=notes,
        )

    return Source(
        name=source.resolve().name,
        entries=[row for path in paths or [source] for row in read_rows(path, settings.signer)],
        read=read,
        unit="rows",
        licence=licence_of(source if source.is_dir() else source.parent),
        mend=with_y_down,
    )


def read_rows(path: Path, signer: str) -> list[CsvRow]:
    """Return the rows of a file.

    Args:
        path: of the file.
        signer: of rows without a signer.

    Raises:
        DataError: no CSV, other columns, a row of another length, or no rows.
    """
    rows = []
    try:
        if (size := check_regular(path).st_size) > _MOST_BYTES:
            raise DataError(f"{path}: {size} bytes, expected at most {_MOST_BYTES}")
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
                    CsvRow(
                        path=path,
                        number=number,
                        label=re.sub(r"^(\d+)\.0$", r"\1", cells["labels"].strip()),  # pandas: 12.0
                        signer=cells.get("signer", "").strip() or signer,
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


# The columns' names without ``_X`` and ``_Y``, in the order of our landmarks.
_FINGERS: Final = [
    # its thumb has a "thumbMP" where MediaPipe says MCP
    "thumbMP" if name == "thumb_mcp" else finger + _FINGER_JOINTS.get(joint, "")
    for name in HAND_NAMES
    for finger, _, joint in [name.partition("_")]
]
_POINTS: Final = (
    *(re.sub(r"_(\w)", lambda match: match[1].upper(), name) for name in BODY_NAMES),
    *(f"{name}_left" for name in _FINGERS),
    *(f"{name}_right" for name in _FINGERS),
)


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


def poses_of(row: CsvRow) -> npt.NDArray[np.float64]:
    """Return a row's landmarks (frames, 54, 2), NaN where not detected.

    Raises:
        DataError: a cell is no list of numbers, or has another number of frames.
    """
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


def _cell(row: CsvRow, column: str) -> list[float]:
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


def rate_of(row: CsvRow) -> float | None:
    """Return a row's frame rate; None without such a column or value.

    Raises:
        DataError: the value is no number.
    """
    text = row.cells.get("video_fps", "").strip()
    try:
        return float(text) if text else None
    except ValueError as error:
        raise DataError(
            f"{row.path}, row {row.number}, column 'video_fps': not a number: {text!r}"
        ) from error


def with_y_down(clips: list[NewClip | SpoterError]) -> list[NewClip | SpoterError]:
    """Flip y in all clips if it points up, judged by the positions of noses and shoulders."""
    heights = [clip.poses_TLD[..., 1] for clip in clips if isinstance(clip, NewClip)]
    with np.errstate(invalid="ignore"):  # the check of clips rejects infinities later
        drops = [y_TL[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(axis=1) - y_TL[:, _NOSE] for y_TL in heights]
    seen = np.concatenate([drop[np.isfinite(drop)] for drop in drops] or [np.empty(0)])
    if not len(seen) or np.median(seen) >= 0:
        return clips
    highest = max(y_TL.max(initial=0.0, where=np.isfinite(y_TL)) for y_TL in heights)
    top = 1.0 if highest < 2 else float(highest)  # the picture's height is 1, or an unknown one in pixels
    return [
        replace(
            clip,
            poses_TLD=clip.poses_TLD * [1.0, -1.0] + [0.0, top],
            notes=(*clip.notes, "y pointed up and was turned"),
        )
        if isinstance(clip, NewClip)
        else clip
        for clip in clips
    ]
