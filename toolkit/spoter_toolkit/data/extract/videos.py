"""Find the clips of a source of videos: a folder, a table, or BdSLW60 as trials or as recordings."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from spoter_runtime.camera.video import Frame, video_frames
from spoter_runtime.checked_file import is_file
from spoter_runtime.clip_files import is_video
from spoter_runtime.errors import DataError, SpoterError
from spoter_runtime.files import read_text
from spoter_runtime.strict import json_from_text
from spoter_toolkit.data.bdslw60 import Trial, trial_from_name
from spoter_toolkit.data.dataset import UNKNOWN_SIGNER
from spoter_toolkit.data.importers.common import licence_of
from spoter_toolkit.data.names import natural_order
from spoter_toolkit.data.sources import misplaced, wrong_source

TRIALS: Final = "output1.json"  # beside BdSLW60's raw recordings: where each trial begins and ends
_COLUMNS: Final = ("file", "label", "signer", "start", "end")
_LAYOUT: Final = "LABEL/SIGNER/VIDEO or LABEL/VIDEO"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPart:
    """A clip whose landmarks are not found yet: a whole video, or a part of one.

    Attributes:
        start: of the part, in `unit`.
        end: as `start`; the frame at the end is no longer in it.
        unit: seconds since the first frame, or frames counted from 0.
        source: the recording, where several clips are cut from one.
    """

    path: Path
    id: str
    label: str
    signer: str
    start: float = 0.0
    end: float = math.inf
    unit: Literal["s", "frames"] = "s"
    source: str = ""

    @property
    def where(self) -> str:
        """Its name in errors."""
        return str(self.path) if self.source == self.id else f"{self.path}, clip {self.id!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVideos:
    """The clips of a source.

    Attributes:
        kind: ``"videos"``, ``"videos-csv"``, ``"bdslw60"`` or ``"bdslw60-recordings"``.
        bad: an error for each clip that is named wrongly, lies at another depth, or has no file.
    """

    kind: str
    name: str
    parts: Sequence[VideoPart]
    bad: Sequence[SpoterError] = ()
    licence: str = ""


def find_videos(source: Path, *, signer: str = UNKNOWN_SIGNER) -> FoundVideos:
    """Return the clips of a source; what kind of source it is, is seen from its files.

    Args:
        source: a CSV with the columns file, label, signer, start and end (seconds; empty: all of the video);
            a folder with BdSLW60's recordings and `TRIALS`; a folder of BdSLW60's trials; or a folder of
            ``LABEL/SIGNER/VIDEO``.
        signer: of clips whose source names none.

    Raises:
        DataError: no such source, no videos, or a table that cannot be read.
    """
    if source.is_file() and source.suffix.lower() == ".csv":
        return _from_table(source, signer)
    wrong = f"a folder with videos as {_LAYOUT}, or a .csv file", "spoter-kit data extract"
    if not source.is_dir():
        raise wrong_source(source, *wrong)
    if tables := sorted(source.rglob(TRIALS)):
        return _from_recordings(source, tables)
    paths = videos_in(source)
    if not paths:
        raise wrong_source(source, *wrong)
    trials = {path: trial for path in paths if isinstance(trial := _trial(path.stem), Trial)}
    if len(trials) > len(paths) / 2:
        return _from_trials(source, paths, trials)
    return _from_folder(source, paths, signer)


def videos_in(folder: Path) -> list[Path]:
    """Return the video files in a folder and its subfolders, in the order of their names."""
    paths = [path for path in folder.rglob("*") if is_video(path) and path.is_file()]
    return sorted(paths, key=lambda path: natural_order(str(path)))


def pictures_of(video: Path, frames: int) -> list[Frame]:
    """Return all frames of the video that a clip was made from, to draw on.

    Raises:
        DataError: it cannot be read, or it has another number of frames.
    """
    pictures = [frame.rgb for _, frame in zip(range(frames + 1), video_frames(video), strict=False)]
    if len(pictures) != frames:
        more = "more than " if len(pictures) > frames else ""
        raise DataError(
            f"{video}: has {more}{min(len(pictures), frames)} frames, the clip has {frames}",
            fix="name the video that the clip was made from, whole and not trimmed",
        )
    return pictures


def _from_folder(source: Path, paths: Sequence[Path], signer: str) -> FoundVideos:
    parts, bad = [], []
    for path in paths:
        names = path.relative_to(source).with_suffix("").parts
        if not 2 <= len(names) <= 3:
            bad.append(misplaced(path, source, _LAYOUT))
            continue
        id = "/".join(names)
        by = names[1] if len(names) == 3 else signer
        parts.append(VideoPart(path=path, id=id, label=names[0], signer=by, source=id))
    return FoundVideos(
        kind="videos", name=source.resolve().name, parts=_unique(parts), bad=bad, licence=licence_of(source)
    )


def _unique(parts: Sequence[VideoPart]) -> list[VideoPart]:
    """Return the parts with ids that differ: a.mp4 and a.gif in one folder keep their suffix in it."""
    count: dict[str, int] = {}
    for part in parts:
        count[part.id] = count.get(part.id, 0) + 1
    return [
        part
        if count[part.id] == 1
        else VideoPart(
            path=part.path,
            id=part.id + part.path.suffix,
            label=part.label,
            signer=part.signer,
            source=part.id + part.path.suffix,
        )
        for part in parts
    ]


def _from_table(source: Path, signer: str) -> FoundVideos:
    try:
        rows = list(csv.DictReader(read_text(source, "utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source}: not a readable table: {error}") from error
    if not rows:
        raise DataError(f"{source}: has no rows", fix="a line for each video: file,label,signer,start,end")
    missing = {"file", "label"} - set(rows[0])
    if missing:
        raise DataError(
            f"{source}: expected the columns {', '.join(_COLUMNS)}, without {', '.join(sorted(missing))}",
            fix="signer, start and end may be left out",
        )
    parts, bad = [], []
    ids: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        try:
            part = _part_of(source, row, signer)
        except (DataError, ValueError) as error:
            bad.append(DataError(f"{source}, line {line}: {error}"))
            continue
        ids[part.id] = ids.get(part.id, 0) + 1
        if ids[part.id] > 1:
            bad.append(DataError(f"{source}, line {line}: the clip {part.id!r} is there twice"))
        else:
            parts.append(part)
    return FoundVideos(
        kind="videos-csv", name=source.name, parts=parts, bad=bad, licence=licence_of(source.parent)
    )


def _part_of(source: Path, row: dict[str, Any], signer: str) -> VideoPart:
    file, label = (row["file"] or "").strip(), (row["label"] or "").strip()
    if not file or not label:
        raise DataError("file or label is empty")
    path = source.parent / file
    if not is_file(path):
        raise DataError(f"{file[:200]!r}: no such file in {source.parent}")
    start, end = ((row.get(name) or "").strip() for name in ("start", "end"))
    try:
        times = float(start or 0), float(end or "inf")
    except ValueError:
        raise DataError(f"start {start!r}, end {end!r}: expected seconds") from None
    if not 0 <= times[0] < times[1]:
        raise DataError(f"start {start or 0} and end {end}: expected seconds, the start before the end")
    whole = not start and not end
    return VideoPart(
        path=path,
        id=file if whole else f"{file}@{times[0]:g}",
        label=label,
        signer=(row.get("signer") or "").strip() or signer,
        start=times[0],
        end=times[1],
        source=file,
    )


def _trial(name: str) -> Trial | DataError:
    try:
        return trial_from_name(name)
    except DataError as error:
        return error


def _from_trials(source: Path, paths: Sequence[Path], trials: dict[Path, Trial]) -> FoundVideos:
    bad = [
        DataError(f"{path}: {error.message}", fix=error.fix)
        for path in paths
        if isinstance(error := _trial(path.stem), DataError)
    ]
    parts = [_trial_part(path, trial) for path, trial in trials.items()]
    return FoundVideos(
        kind="bdslw60", name=source.resolve().name, parts=parts, bad=bad, licence=licence_of(source)
    )


def _trial_part(path: Path, trial: Trial, start: float = 0.0, end: float = math.inf) -> VideoPart:
    return VideoPart(
        path=path,
        id=trial.name,
        label=trial.word,
        signer=trial.signer,
        start=start,
        end=end,
        unit="frames",
        source=trial.recording,
    )


def _from_recordings(source: Path, tables: Sequence[Path]) -> FoundVideos:
    """Return the trials of BdSLW60's raw recordings.

    Its tables count frames from 0, and the last frame of a trial is in it: an assumption, its authors do not
    say.
    """
    parts, bad = [], []
    for table in tables:
        files = {path.stem: path for path in videos_in(table.parent)}
        for name, hand, number, trial in _trials_of(table):
            where = f"{table}: {name}, trial {number}"
            found = _trial(f"{Path(name).stem}_trial_{number}_{hand[:1]}")
            path = files.get(Path(name).stem)
            if isinstance(found, DataError) or path is None:
                problem = "has no video beside the table" if path is None else str(found)
                bad.append(DataError(f"{where}: {problem}"))
                continue
            try:
                start, end = float(trial["starting"]), float(trial["ending"]) + 1
                if not 0 <= start < end:
                    raise ValueError(f"starting {start:g}, ending {end - 1:g}")
            except (KeyError, TypeError, ValueError) as error:
                bad.append(DataError(f"{where}: no frames to begin and end at: {error}"))
                continue
            parts.append(_trial_part(path, found, start, end))
    name = source.resolve().name
    return FoundVideos(kind="bdslw60-recordings", name=name, parts=parts, bad=bad, licence=licence_of(source))


def _trials_of(table: Path) -> Iterator[tuple[str, str, str, Any]]:
    """Yield file, hand, number and content of each trial in one of BdSLW60's tables."""
    try:
        for users in json_from_text(read_text(table)).values():
            for hands in users.values():
                for hand, files in hands.items():
                    for name, facts in files.items():
                        for number, trial in facts["trials"].items():
                            yield name, hand, number, trial
    except (OSError, UnicodeDecodeError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{table}: is no table of BdSLW60's trials: {error!r}") from error
