"""A log of landmarks, one JSON object a line: replayed, it gives the same events bit for bit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol, get_args

import numpy as np

from spoter_runtime.errors import DataError, InputError
from spoter_runtime.files import check_regular
from spoter_runtime.landmarks import NUM_LANDMARKS, Float32Array
from spoter_runtime.live.events import AnyEvent
from spoter_runtime.live.settings import Gate, StreamSettings
from spoter_runtime.strict import json_from_text, shown

LOG_VERSION: Final = 1
LOG_NAME: Final = "landmarks.jsonl"
_WITHOUT: Final = "leave this line out, or record the log again"
_RECORD: Final = "record one: spoter-kit live --record FOLDER"
_MOST_LETTERS: Final = 1 << 20  # of a line; 54 landmarks take 3,000


@dataclass(frozen=True, slots=True, eq=False)
class LogFrame:
    """One frame of a log: its time, landmarks (54, 2), the frames dropped before it, the persons in it."""

    t_ms: float
    landmarks_LD: Float32Array
    dropped: int = 0
    persons: int | None = None


class TakesFrames(Protocol):
    """A `SignStream`, or one of another language with its methods."""

    def reset(self) -> None:
        """Forget everything."""

    def accept(self, frame: Any, t_ms: float, *, dropped: int = 0, persons: int | None = None) -> None:
        """Take the next frame."""

    def flush(self) -> None:
        """End what goes on."""

    def events(self) -> list[AnyEvent]:
        """Return the events since the last call."""


def header_line(gate: Gate, settings: StreamSettings) -> str:
    """Return the first line of a log."""
    return json.dumps({"landmark_log": LOG_VERSION, "gate": gate, "settings": settings.as_json()})


def line_of(frame: LogFrame) -> str:
    """Return one frame as a line; null: not detected. Every float32 is read back as the same float32."""
    points = [
        None if x != x or y != y else [float(str(x)), float(str(y))] for x, y in frame.landmarks_LD
    ]  # the fewest digits that give the same float32
    values: dict[str, Any] = {"t_ms": frame.t_ms, "dropped": frame.dropped}
    if frame.persons is not None:
        values["persons"] = frame.persons
    return json.dumps(values | {"landmarks": points})


def read_header(path: Path | str) -> tuple[Gate, StreamSettings]:
    """Return the gate and the settings with which a log was recorded.

    Raises:
        DataError: no such file, or no log.
        ConfigError: a setting is not known, or out of range.
    """
    with _opened(Path(path)) as file:
        if not (line := _line(file, f"{path}, line 1")):
            raise DataError(f"{path}: is empty", fix=_RECORD)
        value = _object(line, f"{path}, line 1")
    if value.get("landmark_log") != LOG_VERSION:
        raise DataError(
            f"{path}: not a landmark log of version {LOG_VERSION}: its first line names none",
            fix=_RECORD,
        )
    if (gate := value.get("gate", "rest")) not in get_args(Gate):
        raise DataError(f"{path}: gate {shown(gate)}, expected one of {', '.join(get_args(Gate))}")
    return gate, StreamSettings.from_json(value.get("settings", {}), where=f"{path}")


def read_frames(path: Path | str) -> Iterator[LogFrame]:
    """Yield the frames of a log; only the current one is in memory. A line that was cut off ends it.

    Raises:
        DataError: see `read_header`, or a line is no frame.
    """
    read_header(path)
    with _opened(Path(path)) as file:
        file.readline()
        for number in itertools.count(2):
            where = f"{path}, line {number}"
            if not (line := _line(file, where)).endswith("\n"):  # the recording was killed while it wrote
                return
            if line.isspace():
                continue
            yield _frame_of(_object(line, where), where)


def replay(stream: TakesFrames, frames: Iterable[LogFrame]) -> Iterator[AnyEvent]:
    """Yield the events of recorded frames, from a stream that is reset first."""
    stream.reset()
    for frame in frames:
        stream.accept(frame.landmarks_LD, frame.t_ms, dropped=frame.dropped, persons=frame.persons)
        yield from stream.events()
    stream.flush()
    yield from stream.events()


def _opened(path: Path) -> IO[str]:
    try:
        check_regular(path)
        return path.open(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be read: {reason}", fix="name a landmark log") from error


def _line(file: IO[str], where: str) -> str:
    try:
        line = file.readline(_MOST_LETTERS)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is no text: {error}") from error
    if len(line) == _MOST_LETTERS:
        raise DataError(f"{where}: more than {_MOST_LETTERS} letters, so it is no landmark log")
    return line


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json_from_text(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}", fix=_WITHOUT) from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, got {shown(value)}")
    return value


def _frame_of(value: dict[str, Any], where: str) -> LogFrame:
    try:
        points = [(np.nan, np.nan) if point is None else point for point in value["landmarks"]]
        landmarks = np.array(points, np.float32)
        if landmarks.shape != (NUM_LANDMARKS, 2):
            raise InputError(f"landmarks of shape {landmarks.shape}, expected ({NUM_LANDMARKS}, 2)")
        persons = value.get("persons")
        return LogFrame(
            t_ms=float(value["t_ms"]),
            landmarks_LD=landmarks,
            dropped=int(value.get("dropped", 0)),
            persons=None if persons is None else int(persons),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: not a frame: {error}", fix=_WITHOUT) from error
