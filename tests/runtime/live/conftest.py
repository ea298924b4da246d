"""A recognizer of the small bundle, and feed(stream, times, frames)."""

from __future__ import annotations

import pytest

from spoter_runtime import Recognizer


@pytest.fixture(scope="session")
def recognizer(bundle_folder):
    return Recognizer.load(bundle_folder, "ort-cpu", threads=1, tuned=False)


@pytest.fixture(scope="session")
def feed():
    def feed(stream, times, frames, *, flush=True):
        events = []
        for t_ms, frame in zip(times, frames, strict=True):
            stream.accept(frame, t_ms)
            events += stream.events()
        if flush:
            stream.flush()
        return events + stream.events()

    return feed
