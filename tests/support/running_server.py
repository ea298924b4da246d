"""A server in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
import time

from spoter_toolkit.serving.server import Server, listen


def wait_until(is_so):
    """Wait for a condition, 20 s at most."""
    end = time.monotonic() + 20
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    assert is_so()


class Running:
    """A server that runs.

    Attributes:
        app: its application, to look into.
    """

    def __init__(self, app):
        self.app = app
        self._listener = listen("127.0.0.1", 0)
        self.port = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self.server = Server(app, self._listener)
        self._started = threading.Event()
        self._thread = threading.Thread(target=self.server.serve_until_told, args=[self._note_start])
        self._thread.start()
        assert self._started.wait(20)

    def _note_start(self):
        self._loop = asyncio.get_running_loop()
        self._started.set()

    def terminate(self):
        """Do what SIGTERM does, which only the main thread of a process gets."""
        self._loop.call_soon_threadsafe(self.server.drain, self.app.limits.grace_s)
        wait_until(lambda: self.app.draining)

    def stop(self):
        self.server.should_exit = True
        self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive()
