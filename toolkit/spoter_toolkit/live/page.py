"""A page on this machine alone that shows a session: picture, skeleton, timeline, words.

It is Python's own HTTP server: two one-way streams (pictures, and events as server-sent events) for one
viewer need no web framework.
"""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections import deque
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, ClassVar, Final

import numpy as np

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError, is_installed
from spoter_runtime.landmarks import BONES
from spoter_runtime.live.events import AnyEvent
from spoter_toolkit.live.sources import Arrival

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 8018
_KEPT: Final = 200  # messages that a viewer who is slow, or comes late, still gets
_WIDTH: Final = 640  # of the picture
_WAIT_S: Final = 1.0
_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self'; connect-src 'self'"
)


class LivePage:
    """Serves the page; a watcher and a sink of a session. Nothing waits for a viewer."""

    def __init__(self, labels: Sequence[Label], *, port: int = PORT) -> None:
        """Begin to serve, on the loopback interface only.

        Raises:
            DataError: the port is taken.
        """
        self.changed = threading.Condition()
        self.messages: deque[tuple[int, str]] = deque(maxlen=_KEPT)
        self.picture: tuple[int, bytes] = (0, b"")
        self.viewers = 0
        self.closed = False
        self.start = json.dumps(
            {
                "bones": BONES,
                "words": {one.name: [one.gloss, one.bengali] for one in labels},
            }
        )
        handler = type("Handler", (_Handler,), {"page": self})
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), handler)
        except OSError as error:
            raise DataError(f"port {port}: {error.strerror}", fix="--port 0 takes a free one") from error
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://{LOOPBACK}:{self.port}/"
        threading.Thread(target=self._server.serve_forever, name="page", daemon=True).start()

    def __call__(self, event: AnyEvent) -> None:
        """Send an event."""
        self._send({"event": event.as_json()})

    def frame(self, arrival: Arrival, landmarks_LD: Any) -> None:
        """Send landmarks and picture of a frame, if somebody looks."""
        if not self.viewers:
            return
        frame = arrival.frame
        has_picture = isinstance(frame, np.ndarray) and frame.ndim == 3
        points = [] if landmarks_LD is None else landmarks_LD.round(4).tolist()
        ratio = frame.shape[1] / frame.shape[0] if has_picture else 4 / 3
        self._send(
            {
                "t_ms": arrival.t_ms,
                "ratio": ratio,
                "landmarks": [None if x != x or y != y else [x, y] for x, y in points],
            }
        )
        if has_picture and is_installed("av"):
            jpeg = jpeg_of(frame)
            with self.changed:
                self.picture = (self.picture[0] + 1, jpeg)
                self.changed.notify_all()

    def _send(self, message: dict[str, Any]) -> None:
        with self.changed:
            number = self.messages[-1][0] + 1 if self.messages else 1
            self.messages.append((number, json.dumps(message)))
            self.changed.notify_all()

    def messages_after(self, number: int) -> list[tuple[int, str]]:
        """Return newer messages than one, after at most a second; none where none came."""
        with self.changed:
            if not self.messages or self.messages[-1][0] <= number:
                self.changed.wait(_WAIT_S)
            return [one for one in self.messages if one[0] > number]

    def picture_after(self, number: int) -> tuple[int, bytes]:
        """Return the newest picture, after at most a second if it is not newer than one."""
        with self.changed:
            if self.picture[0] <= number:
                self.changed.wait(_WAIT_S)
            return self.picture

    def close(self) -> None:
        """End serving."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers one viewer's request; each has a thread."""

    page: ClassVar[LivePage]

    def do_GET(self) -> None:
        """Answer with the page, the events, or the pictures."""
        if self.headers.get("Host") not in (f"{LOOPBACK}:{self.page.port}", f"localhost:{self.page.port}"):
            self.send_error(403)  # a page of somebody else, whose name was made to lead here
            return
        paths = {"/": self._html, "/events": self._events, "/picture": self._pictures}
        if (answer := paths.get(self.path)) is None:
            self.send_error(404)
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the viewer has gone
            answer()

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def _html(self) -> None:
        self._begin("text/html; charset=utf-8")
        self.wfile.write(files("spoter_toolkit.live").joinpath("page.html").read_bytes())

    def _events(self) -> None:
        page = self.page
        self._begin("text/event-stream")
        self.wfile.write(f"data: {page.start}\n\n".encode())
        page.viewers += 1
        last = 0
        try:
            while not page.closed:
                waiting = page.messages_after(last)
                for number, text in waiting:
                    self.wfile.write(f"data: {text}\n\n".encode())
                    last = number
                if not waiting:
                    self.wfile.write(b":\n\n")  # finds out whether the viewer is still there
        finally:
            page.viewers -= 1

    def _pictures(self) -> None:
        page, last = self.page, 0
        self._begin("multipart/x-mixed-replace; boundary=frame")
        while not page.closed:
            number, jpeg = page.picture_after(last)
            if number > last:
                last = number
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal belongs to the session."""


def jpeg_of(rgb: Any) -> bytes:
    """Return a picture as JPEG, at most `_WIDTH` wide."""
    import av

    height, width = rgb.shape[:2]
    scale = min(1.0, _WIDTH / width)
    file = io.BytesIO()
    with av.open(file, "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height = round(width * scale / 2) * 2, round(height * scale / 2) * 2
        stream.pix_fmt = "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
