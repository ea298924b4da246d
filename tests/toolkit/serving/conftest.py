"""Servers that run, for the tests of serving."""

from __future__ import annotations

import contextlib

import pytest

from running_server import Running
from spoter_toolkit.serving.app import Application
from spoter_toolkit.serving.limits import Limits
from spoter_toolkit.serving.models import Models


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
    with serve(bundle_folder, clips=8, request_s=0.5, header_bytes=4096, body_mb=1) as running:
        yield running
