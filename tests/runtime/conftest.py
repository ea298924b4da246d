"""Fixtures of the runtime's tests."""

from __future__ import annotations

import hashlib

import pytest


@pytest.fixture
def replace_file(reseal):
    """Return replace_file(folder, name, content): put other bytes into a bundle, every hash fitting."""

    def replace_file(folder, name, content):
        (folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        reseal(folder, lambda manifest: manifest["files"].update({name: digest}))

    return replace_file
