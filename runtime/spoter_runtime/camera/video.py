"""Frames of a video file or a camera, one at a time, with their times: PyAV."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.camera.whole import WholeFile
from spoter_runtime.errors import DataError, require

Frame = npt.NDArray[np.uint8]

_EXTRA: Final = "video"
_CROOKED: Final = 0.02  # about one degree
_CAMERA_FORMATS: Final = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True, slots=True)
class TimedFrame:
    """One picture of a video.

    Attributes:
        rgb: (height, width, 3) uint8, upright, in a fresh array.
        t_ms: since the first frame.
    """

    rgb: Frame
    t_ms: float


def video_frames(path: Path | str) -> Iterator[TimedFrame]:
    """Yield the frames of a video file; only the current one is in memory.

    Frames are upright: the file's rotation flag is heeded, also where it mirrors. Grey and 10-bit pictures
    become 8-bit RGB, an alpha channel is dropped, and a frame may have another size than the one before.

    Args:
        path: of any format and codec that FFmpeg decodes.

    Raises:
        MissingExtraError: PyAV is not installed.
        DataError: no such file, no video, no frame that can be decoded, damaged further on, or turned by an
            angle that is no quarter turn.
    """
    check_video(path)
    yield from _frames(str(path), None, {}, is_file=True)


def check_video(path: Path | str) -> None:
    """Check that a video can be looked for in a file, without opening it.

    Raises:
        MissingExtraError: PyAV is not installed.
        DataError: no such file.
    """
    require("av", extra=_EXTRA)
    if not isinstance(path, str | os.PathLike):
        raise DataError(f"a video is the path of a file, got {path!r}", fix="camera_frames(0) is a camera")
    if not Path(path).is_file():
        raise DataError(f"{path}: {'is not a file' if Path(path).exists() else 'no such file'}")


def camera_frames(
    camera: int | str = 0,
    *,
    width: int = 640,
    height: int = 480,
    fps: int = 30,
    input_format: str | None = None,
) -> Iterator[TimedFrame]:
    """Yield what a camera sees, until the caller stops.

    Args:
        camera: its number, or its name as the system has it (``/dev/video2``, ``video=USB Camera``).
        width: asked for; a camera may answer with another size.
        height: as `width`.
        fps: as `width`.
        input_format: FFmpeg's name of the way to the camera; None means this system's own.

    Raises:
        MissingExtraError: PyAV is not installed.
        DataError: no such camera, another program has it, or it was unplugged.
    """
    require("av", extra=_EXTRA)
    if isinstance(camera, str) and "://" in camera:
        raise DataError(f"{camera}: is an address, not a camera", fix=f"network_frames({camera!r})")
    if isinstance(camera, int) and camera < 0:
        raise DataError(f"camera {camera}: cameras are counted from 0", fix="camera_frames(0)")
    way = input_format or _CAMERA_FORMATS.get(sys.platform, "v4l2")
    name = camera if isinstance(camera, str) else f"/dev/video{camera}" if way == "v4l2" else str(camera)
    if way == "v4l2" and not Path(name).exists():
        there = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
        raise DataError(f"{name}: no such camera", fix=f"there are {there}" if there else "plug one in")
    options = {} if way == "lavfi" else {"video_size": f"{width}x{height}", "framerate": str(fps)}
    yield from _frames(name, way, options)


def network_frames(url: str) -> Iterator[TimedFrame]:
    """Yield what a network camera sends, until the caller stops.

    Args:
        url: ``rtsp://…``, ``http://…``, or another address that FFmpeg opens.

    Raises:
        MissingExtraError: PyAV is not installed.
        DataError: no address, nobody answers within five seconds, it sends no video, it is a file, or it went
            away.
    """
    if "://" not in url:
        raise DataError(f"{url}: is no address", fix="rtsp://HOST/…; video_frames(FILE), camera_frames(0)")
    options = {"timeout": "5000000"} | ({"rtsp_transport": "tcp"} if url.startswith("rtsp") else {})
    yield from _frames(url, None, options)


def _frames(
    source: str,
    input_format: str | None,
    options: dict[str, str],
    *,
    is_file: bool = False,
) -> Iterator[TimedFrame]:
    av = require("av", extra=_EXTRA)
    broken, fix = "went away", ""
    if is_file:
        broken, fix = (
            "is damaged",
            f"copy the file again, or keep its good frames: {_rewritten(source, 'whole')}",
        )
    try:
        container = av.open(source, format=input_format, options=options)
    except (av.FFmpegError, OSError, ValueError) as error:
        fix = "check the address, and that the camera is on" if "://" in source else ""
        raise DataError(f"{source}: {_reason(error, 'cannot be opened as a video')}", fix=fix) from error
    with closing(container):
        # Played as a camera, its frames would come all at once, and again from the beginning.
        if source.startswith("http") and container.duration and container.size > 0:
            raise DataError(f"{source}: is a file, not a camera", fix=f"curl -O {source}, and take the file")
        if not container.streams.video:
            raise DataError(
                f"{source}: has no video in it{', only sound' if container.streams.audio else ''}"
            )
        stream = container.streams.video[0]
        stream.thread_count = 1
        display = _Display()
        count, last_ms, first_ms = 0, -1.0, None
        try:
            for frame in _decoded(container, stream) if is_file else container.decode(stream):
                step_ms = 1000 / float(stream.average_rate or 30)
                t_ms = last_ms + step_ms if frame.time is None else frame.time * 1000
                first_ms = t_ms if first_ms is None else first_ms
                # a file with broken times still goes forward
                last_ms = t_ms - first_ms if t_ms - first_ms > last_ms else last_ms + step_ms
                count += 1
                yield TimedFrame(display.upright(frame), last_ms)
        except (av.FFmpegError, OSError, _DamagedError) as error:
            where = (
                f"after frame {count} ({max(last_ms, 0) / 1000:.1f} s)" if count else "before the first frame"
            )
            raise DataError(f"{source}: {_reason(error, f'{broken} {where}')}", fix=fix) from error
        except _CrookedError as error:
            raise DataError(f"{source}: {error}", fix=_rewritten(source, "turned")) from error
        if count == 0:
            raise DataError(f"{source}: has no frame that can be decoded", fix=fix)


class _CrookedError(Exception):
    """A frame is to be shown turned by an angle that is no quarter turn."""


class _DamagedError(Exception):
    """A file is cut or has a hole, and FFmpeg did not say so."""


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames of a file.

    Raises:
        _DamagedError: the file is cut or has a hole.
    """
    whole = WholeFile(container, stream)
    for packet in container.demux():
        if problem := whole.problem(packet):
            raise _DamagedError(problem)
        for frame in packet.decode() if packet.stream is stream else ():
            if frame.is_corrupt:
                raise _DamagedError("this frame cannot be decoded whole")
            yield frame
    if problem := whole.problem_at_end():
        raise _DamagedError(problem)


class _Display:
    """Turns frames as their display matrix shows them."""

    def __init__(self) -> None:
        # By rotation: looking at the side data of every frame keeps the frames in memory, in a circle.
        self._known: dict[int, tuple[bool, slice, slice]] = {}

    def upright(self, frame: Any) -> Frame:
        """Return a frame's pixels, turned by quarters and mirrored.

        Raises:
            _CrookedError: turned by another angle.
        """
        if frame.rotation not in self._known:
            self._known[frame.rotation] = _orientation(frame)
        turned, rows, columns = self._known[frame.rotation]
        rgb: Frame = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray((rgb.transpose(1, 0, 2) if turned else rgb)[rows, columns])


def _orientation(frame: Any) -> tuple[bool, slice, slice]:
    """Return whether rows are shown as columns, and then the order of rows and columns."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, slice(None), slice(None)
    # A pixel at (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(np.int64)
    along, across = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(along, across) > _CROOKED * max(along, across):
        raise _CrookedError(f"is turned by {abs(frame.rotation)} degrees, expected 0, 90, 180 or 270")
    turned = across > along
    x, y = (c, b) if turned else (a, d)
    return bool(turned), slice(None, None, -1 if y < 0 else 1), slice(None, None, -1 if x < 0 else 1)


def _rewritten(source: str, name: str) -> str:
    """Return the command that decodes a file into another one beside it: upright, with its good frames."""
    import shlex  # not at the top: only a fix needs it

    return shlex.join(["ffmpeg", "-i", source, str(Path(source).with_suffix(f".{name}.mp4"))])


def _reason(error: Exception, otherwise: str) -> str:
    """Return what FFmpeg's error means for the user."""
    reasons = {
        errno.EBUSY: "another program uses this camera",
        errno.ENODEV: "the camera was unplugged",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
    }
    return reasons.get(
        getattr(error, "errno", None) or 0, f"{otherwise} ({getattr(error, 'strerror', None) or error})"
    )
