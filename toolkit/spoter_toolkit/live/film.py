"""A video of a session's pictures, each at its own time: Matroska, which can be read when it was cut off."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from spoter_runtime.errors import require

FILM_NAME: Final = "video.mkv"
_CODECS: Final = ("libx264", "mpeg4")  # the second is in every FFmpeg
_QUICK: Final = {"libx264": {"preset": "ultrafast", "crf": "26"}}
_SECOND: Final = Fraction(1, 1000)


class Film:
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
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None

    def _begin(self, height: int, width: int) -> None:
        self._container = self._av.open(str(self._path), "w", format="matroska")
        codec = next(name for name in _CODECS if name in self._av.codec.codecs_available)
        self._stream = self._container.add_stream(codec, rate=30, options=_QUICK.get(codec, {}))
        self._stream.width, self._stream.height = max(width & ~1, 2), max(height & ~1, 2)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _SECOND
