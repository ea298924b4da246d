"""Tell that a video file is cut or has a hole, where FFmpeg goes on without an error."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Final

# FFmpeg reads these formats on after a hole, and a cut file to its end. Frames lie one after the other, and
# the header states the length. MP4 needs no check: its table has the place of each frame.
_MATROSKA: Final = "matroska,webm"
_AVI: Final = "avi"
_TS: Final = "mpegts"  # may be joined of several: then packets are marked, and the frames are whole
_GIF_END: Final = b";"
_HOLE_BYTES: Final = 1024  # between two frames of a whole file there are 7 to 24


class WholeFile:
    """Watches the packets of one video file, of all its streams."""

    def __init__(self, container: Any, stream: Any) -> None:
        """Begin before the first packet.

        Args:
            container: an open file of PyAV.
            stream: its video.
        """
        self._path, self._format = Path(container.name), container.format.name
        self._video = stream.index
        self._step_s = 1 / float(stream.average_rate or 30)
        self._stated_s = 0.0
        if self._format in (_MATROSKA, _AVI):
            self._stated_s = (container.duration or 0) / 1e6  # a live recording states none
        if self._format == _AVI:  # of a cut AVI, FFmpeg takes the duration from the size of the file
            self._stated_s = max(self._stated_s, stream.frames * self._step_s)
        self._end_s, self._end_byte = 0.0, 0
        self._times_s: list[float] = []

    def problem(self, packet: Any) -> str:
        """Return what is wrong with the file at this packet; empty if nothing is."""
        if packet.is_corrupt and self._format != _TS:
            return "a part of it is missing or changed"
        if packet.pts is None or not packet.pos:
            return ""
        begin_s = float(packet.pts * packet.time_base)
        jump_s, hole = begin_s - self._end_s, packet.pos - self._end_byte if self._end_byte else 0
        self._end_s = max(self._end_s, begin_s + float((packet.duration or 0) * packet.time_base))
        self._end_byte = max(self._end_byte, packet.pos + packet.size)
        if packet.stream_index == self._video:
            self._times_s.append(begin_s)
        if self._format == _MATROSKA and hole > _HOLE_BYTES and jump_s > self._step_s:
            return f"no frame can be found in the next {hole} bytes"
        return ""

    def problem_at_end(self) -> str:
        """Return what is wrong with the file after its last packet; empty if nothing is."""
        gaps_s = (later - earlier for earlier, later in pairwise(sorted(self._times_s)))
        if self._stated_s - self._end_s > max(1.5 * self._step_s, *gaps_s, 0.0):
            return f"its header states {self._stated_s:.1f} s"
        if self._format == "gif" and not self._path.read_bytes().rstrip(b"\0").endswith(_GIF_END):
            return "its end is missing"
        return ""
