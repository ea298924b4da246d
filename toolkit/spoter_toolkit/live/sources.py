"""Where frames come from: a camera or a network stream, a video file, a landmark log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime.camera.video import TimedFrame, camera_frames, network_frames, video_frames
from spoter_runtime.errors import DataError, SpoterError
from spoter_runtime.live.log import LOG_NAME, read_frames

_SCHEMES: Final = ("rtsp://", "rtsps://", "http://", "https://", "udp://", "tcp://")
_WAIT_S: Final = 1.0  # before a camera that went away is tried again
_SILENT_S: Final = 2.0  # a connection may hang for long before FFmpeg gives it up

Frames = Callable[[], Iterator[TimedFrame]]


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """One frame, a fault of the source, or neither: the time goes on without a frame.

    Attributes:
        frame: a picture (height, width, 3) or landmarks (54, 2); None where no frame came.
        dropped: frames that were dropped before this one, because it was not taken yet.
        persons: in a frame that is given as landmarks, where a log says so.
        fault: what is wrong with the source.
    """

    t_ms: float
    frame: Any = None
    dropped: int = 0
    persons: int | None = None
    fault: str = ""


def is_log(source: str) -> bool:
    """Tell whether a source is a landmark log."""
    return source.endswith(".jsonl")


def is_live(source: str) -> bool:
    """Tell whether a source is a camera or a network stream: its frames do not wait."""
    return source.isdecimal() or source.startswith(_SCHEMES) or source.startswith("/dev/video")


def arrivals(source: str, *, mirror: bool = False) -> Iterator[Arrival]:
    """Return the frames of a source.

    Args:
        source: a camera's number or device, an address, a landmark log, or a video file.
        mirror: swap left and right in each picture.

    Raises:
        DataError: no such camera or file, or it cannot be read.
        MissingExtraError: PyAV is not installed.
    """
    if is_log(source):
        return (Arrival(one.t_ms, one.landmarks_LD, one.dropped, one.persons) for one in read_frames(source))
    if not is_live(source):
        if (Path(source) / LOG_NAME).is_file():
            raise DataError(f"{source}: is a recording", fix=f"spoter-kit live {Path(source) / LOG_NAME}")
        if not source or not Path(source).is_file():
            there = "is no file" if source and Path(source).exists() else "no such file"
            raise DataError(
                f"{source or repr(source)}: {there}", fix="name a camera's number, an address, or a file"
            )
        return (Arrival(one.t_ms, _turned(one, mirror)) for one in video_frames(Path(source)))
    if source.startswith(_SCHEMES):
        return Newest(lambda: network_frames(source), mirror=mirror).arrivals()
    camera = int(source) if source.isdecimal() else source
    return Newest(lambda: camera_frames(camera), mirror=mirror).arrivals()


def paced(source: str, frames: Iterator[Arrival]) -> Iterator[Arrival]:
    """Yield the frames of a file or a log when their time has come, for somebody who looks on."""
    zero_s = None  # of the source's time, on this machine's clock
    for frame in frames:
        if not is_live(source):
            zero_s = time.monotonic() - frame.t_ms / 1000 if zero_s is None else zero_s
            time.sleep(max(0.0, zero_s + frame.t_ms / 1000 - time.monotonic()))
        yield frame


class Newest:
    """Reads a camera in a thread and keeps the newest frame only: a slow reader drops frames, not time."""

    def __init__(
        self,
        open_frames: Frames,
        *,
        mirror: bool = False,
        wait_s: float = _WAIT_S,
        silent_s: float = _SILENT_S,
    ) -> None:
        """Take what opens the camera; it is opened again after it went away."""
        self._open = open_frames
        self._mirror = mirror
        self._wait_s = wait_s
        self._silent_s = silent_s
        self._begin = time.monotonic()
        self._changed = threading.Condition()
        self._newest: TimedFrame | None = None
        self._faults: list[Arrival] = []
        self._dropped = 0
        self._ended: SpoterError | None = None
        self._stop = threading.Event()

    def arrivals(self) -> Iterator[Arrival]:
        """Yield the newest frame each time, at the time when it came; ends when the reader stops.

        Where no frame comes for `silent_s`, that is said once, and the time goes on.

        Raises:
            SpoterError: the camera cannot be opened the first time.
        """
        thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._begin = time.monotonic()
        thread.start()
        said = False
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._newest or self._faults or self._ended, timeout=self._silent_s
                    )
                    if self._ended:
                        raise self._ended
                    faults, self._faults = self._faults, []
                    frame, self._newest = self._newest, None
                    dropped = 0
                    if frame:
                        dropped, self._dropped = self._dropped, 0
                found = [Arrival(frame.t_ms, _turned(frame, self._mirror), dropped)] if frame else []
                if not (found or faults):
                    fault = "" if said else f"no frame came for {self._silent_s:g} s"
                    faults = [Arrival(self._now_ms(), fault=fault)]
                said = not found
                yield from sorted([*found, *faults], key=lambda arrival: arrival.t_ms)
        finally:
            self._stop.set()
            thread.join(timeout=2 * self._wait_s)

    def _read(self) -> None:
        has_opened, said = False, ""
        while not self._stop.is_set():
            reason: SpoterError | str = "the source has ended"
            try:
                for frame in self._open():
                    has_opened, said = True, ""
                    # its own clock restarts with it
                    self._put(TimedFrame(frame.rgb, self._now_ms()))
                    if self._stop.is_set():
                        return
            except SpoterError as error:
                reason = error
            except Exception as error:  # noqa: BLE001  (else the thread dies, and the camera stays away)
                reason = DataError(f"the camera raised {type(error).__name__}: {error}")
            with self._changed:
                if not has_opened and isinstance(reason, SpoterError):
                    self._ended = reason
                elif str(reason) != said:  # once, not with each attempt
                    said = str(reason)
                    self._faults.append(Arrival(self._now_ms(), fault=f"{reason}; it is opened again"))
                self._changed.notify()
                if self._ended:
                    return
            self._stop.wait(self._wait_s)

    def _now_ms(self) -> float:
        return 1000 * (time.monotonic() - self._begin)

    def _put(self, frame: TimedFrame) -> None:
        with self._changed:
            self._dropped += self._newest is not None
            self._newest = frame
            self._changed.notify()


def _turned(frame: TimedFrame, mirror: bool) -> Any:
    return np.ascontiguousarray(frame.rgb[:, ::-1]) if mirror else frame.rgb
