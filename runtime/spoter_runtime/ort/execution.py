"""How a bundle runs on a CPU: backend, session settings, batch size; and its optimised files."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from spoter_runtime.checked_file import KeptFile
from spoter_runtime.files import cache_folder
from spoter_runtime.machine import usable_cores
from spoter_runtime.ort.session import SessionSettings

MOST_CLIPS: Final = 8  # default batch size for many clips; larger ones gain little


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionConfig:
    """How a bundle runs on a CPU: backend, session settings, batch size, parallel calls.

    Attributes:
        backend: one of `spoter_runtime.backends.BACKENDS`.
        session: ONNX Runtime's settings.
        prepared: sha256 of a copy of the file that ONNX Runtime optimised for this machine; empty for none.
        workers: concurrent calls for many clips.
        most_clips: batch size for many clips.
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

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"session": self.session.as_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ExecutionConfig:
        """Read what `as_json` wrote.

        Raises:
            KeyError, TypeError, ValueError, BackendError: a field is missing, unknown or of another form.
        """
        return cls(**(value | {"session": SessionSettings.from_json(dict(value["session"]))}))

    def __str__(self) -> str:
        """Return the configuration in words."""
        words = [self.backend, str(self.session)]
        if self.most_clips > 1 or self.workers > 1:
            words.append(f"{self.workers} at a time, up to {self.most_clips} clips a call")
        return ", ".join(words)


def default_batch_config(backend: str, most_clips: int = MOST_CLIPS) -> ExecutionConfig:
    """Return the untuned configuration for many clips: one single-threaded call per core."""
    return ExecutionConfig(
        backend=backend,
        session=SessionSettings(threads=1),
        workers=usable_cores(),
        most_clips=most_clips,
    )


def prepared_path(sha256: str) -> Path:
    """Return the path of a file that `tune` optimised for this machine."""
    return cache_folder() / "tuned" / f"{sha256[:32]}.onnx"


def read_prepared(sha256: str) -> bytes | None:
    """Return the bytes of a file that `tune` optimised; None if it is missing or changed.

    Not the path: a concurrent `tune` may delete the file before ONNX Runtime opens it.
    """
    try:
        content = prepared_path(sha256).read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def write_prepared(content: bytes) -> str:
    """Keep the bytes of a file that `tune` optimised; return their sha256.

    Under its own name at once: a kill leaves no temporary file, and `read_prepared` refuses half a file.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    if read_prepared(sha256) != content:  # never overwrites one that a tuned bundle uses
        prepared_path(sha256).write_bytes(content)
    return sha256


def keep_prepared(sha256: str) -> KeptFile | None:
    """Return a file that `tune` optimised, to load it later; None if it is missing."""
    try:
        return KeptFile(prepared_path(sha256), sha256)
    except OSError:
        return None


FUSED: Final = "ort-cpu-fused"  # the file made for ONNX Runtime on a CPU


ON_CPU: Final = (FUSED, "ort-cpu")
