"""How a file is run on a CPU: session settings and batches; and files optimised for this machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spoter_runtime.checked_file import KeptFile
from spoter_runtime.files import cache_folder
from spoter_runtime.machine import usable_cores
from spoter_runtime.ort.session import SessionSettings

MOST_CLIPS: Final = 8  # in a call, for many clips, where nothing was measured; more gain little


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to run a bundle.

    Attributes:
        backend: of `spoter_runtime.backends.BACKENDS`.
        session: how ONNX Runtime runs the file.
        prepared: sha256 of the file as ONNX Runtime has optimised it here, kept beside this; empty for none.
        workers: calls at the same time, for many clips.
        most_clips: in a call, for many clips.
    """

    backend: str
    session: SessionSettings
    prepared: str = ""
    workers: int = 1
    most_clips: int = 1

    def __post_init__(self) -> None:
        for name in ("workers", "most_clips"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}: {value!r}, expected a whole number, at least 1")

    def __str__(self) -> str:
        """Return it in words."""
        words = [self.backend, str(self.session)]
        if self.most_clips > 1 or self.workers > 1:
            words.append(f"{self.workers} at a time, up to {self.most_clips} clips a call")
        return ", ".join(words)


def way_for_many(backend: str, most_clips: int = MOST_CLIPS) -> Way:
    """Return a way for many clips: a call a core, each on one thread; as it is, what is taken untuned."""
    return Way(
        backend=backend,
        session=SessionSettings(threads=1),
        workers=usable_cores(),
        most_clips=most_clips,
    )


def prepared_path(sha256: str) -> Path:
    """Return where a file lies that ONNX Runtime has optimised for this machine."""
    return cache_folder() / "tuned" / f"{sha256[:32]}.onnx"


def read_prepared(sha256: str) -> bytes | None:
    """Return the bytes of such a file; None where they are gone, or are others.

    The bytes and not the path: who tunes at the same time may remove it before it is loaded.
    """
    try:
        content = prepared_path(sha256).read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def keep_prepared(sha256: str) -> KeptFile | None:
    """Return such a file, to be loaded later; None where it is gone."""
    try:
        return KeptFile(prepared_path(sha256), sha256)
    except OSError:
        return None
