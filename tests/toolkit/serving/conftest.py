"""A server in a thread of the test's process."""

from __future__ import annotations

import contextlib
import threading

import pytest

from spoter_toolkit.serving.app import Application
from spoter_toolkit.serving.limits import Limits
from spoter_toolkit.serving.models import Models
from spoter_toolkit.serving.server import Server, listen


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
        started = threading.Event()
        self._thread = threading.Thread(target=self.server.serve_until_told, args=[started.set])
        self._thread.start()
        assert started.wait(20)

    def stop(self):
        self.server.should_exit = True
        self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def serve():
    """Return serve(bundle, **limits): a context manager of a running server."""

    @contextlib.contextmanager
    def serve(bundle, *, control=False, **limits):
        models = Models(sources={("small", "1"): bundle}, backend="ort-cpu")
        running = Running(Application(models, Limits(**limits), control=control))
        try:
            yield running
        finally:
            running.stop()

    return serve


@pytest.fixture(scope="session")
def served(serve, bundle_folder):
    """A server of the small bundle, shared by all tests that change nothing."""
    with serve(bundle_folder, clips=8, request_s=0.5, header_bytes=4096, body_bytes=1_000_000) as running:
        yield running
