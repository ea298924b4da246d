"""A file server on this machine alone, for proofs and tests of a site."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"


class FileServer:
    """Serves a folder, as any file server would.

    Attributes:
        folder: what it serves.
        url: of the folder.
        asked: path of each request so far.
        sent_bytes: of all answers' bodies so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.sent_bytes = 0
        self.is_closed = False
        handler = partial(_Handler, owner=self, directory=str(folder))
        self._server = ThreadingHTTPServer((LOOPBACK, 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, name="files", daemon=True).start()

    def close(self) -> None:
        """End serving, on open connections too."""
        self.is_closed = True
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> FileServer:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, owner: FileServer, **kwargs: Any) -> None:
        self._owner = owner
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        """Answer with a file; with nothing after the end."""
        if self._owner.is_closed:
            self.close_connection = True
            return
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        self._owner.sent_bytes += len(content)
        outputfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        self._owner.asked.append(self.path)
