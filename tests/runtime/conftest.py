"""Fixtures of the runtime's tests."""

from __future__ import annotations

import hashlib
import json

import pytest


@pytest.fixture
def reseal():
    """Return reseal(folder, edit): change a bundle's manifest as somebody would who can make its seal.

    Written down here once more, and not taken from the runtime: this is the seal's format.
    """

    def reseal(folder, edit):
        path = folder / "bundle.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        edit(content)
        del content["manifest_sha256"]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        content["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(content), encoding="utf-8")

    return reseal


@pytest.fixture
def replace_file(reseal):
    """Return replace_file(folder, name, content): put other bytes into a bundle, every hash fitting."""

    def replace_file(folder, name, content):
        (folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        reseal(folder, lambda manifest: manifest["files"].update({name: digest}))

    return replace_file
