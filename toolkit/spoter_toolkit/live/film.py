"""A recording's files: what they have in common, and a video of a session's pictures, each at its own time.

The video is Matroska, which can be read when it was cut off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime.errors import SpoterError, require
from spoter_toolkit.input_files import error_from_os
from spoter_toolkit.live.sources import Arrival

FILM_NAME: Final = "video.mkv"
_CODECS: Final = ("libx264", "mpeg4")  # the second is in every FFmpeg
# A frame leaves the encoder and the container at once, or within a second: a kill loses no more.
_QUICK: Final = {"libx264": {"preset": "ultrafast", "tune": "zerolatency", "crf": "26"}}
_AT_ONCE: Final = {"flush_packets": "1", "cluster_time_limit": "500"}
_SECOND: Final = Fraction(1, 1000)


class Recorded:
    """Files that a session writes.

    Attributes:
        error: why they are not whole; None: they are, so far.
    """

    error: SpoterError | None = None

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Name the file in an error of the disk, and keep it."""
        try:
            yield
        except OSError as error:
            self.error = error_from_os(OSError(error.errno, error.strerror, str(path)))
            raise self.error from error


class Film(Recorded):
    """Writes pictures (height, width, 3) of uint8; all take the size of the first."""

    def __init__(self, path: Path) -> None:
        """Begin with the first picture: without one, no file is written.

        Raises:
            MissingExtraError: PyAV is not installed.
        """
        self._path = path
        self._av = require("av", extra="video")
        self._container: Any = None
        self._stream: Any = None
        self._last_ms = -1

    def frame(self, arrival: Arrival, landmarks_LD: Any) -> None:
        """Write the picture of a frame, where there is one."""
        if np.ndim(arrival.frame) == 3:
            with self.writing(self._path):
                self.add(arrival.frame, arrival.t_ms)

    def add(self, rgb: Any, t_ms: float) -> None:
        """Write a picture; one whose time is not later than the last one's is left out."""
        if self._container is None:
            self._begin(*rgb.shape[:2])
        pts = round(t_ms)
        if pts <= self._last_ms:
            return
        self._last_ms = pts
        frame = self._av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame = frame.reformat(self._stream.width, self._stream.height, "yuv420p")
        frame.pts, frame.time_base = pts, _SECOND
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder holds back, and close the file."""
        container, self._container = self._container, None
        if container is not None:
            with self.writing(self._path), container:
                container.mux(self._stream.encode(None))

    def _begin(self, height: int, width: int) -> None:
        self._container = self._av.open(str(self._path), "w", format="matroska", options=_AT_ONCE)
        codec = next(name for name in _CODECS if name in self._av.codec.codecs_available)
        self._stream = self._container.add_stream(codec, rate=30, options=_QUICK.get(codec, {}))
        self._stream.width, self._stream.height = max(width & ~1, 2), max(height & ~1, 2)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _SECOND
