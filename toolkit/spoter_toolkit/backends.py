"""Open a bundle on any backend by name: the runtime's own, and torch as the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spoter_runtime.bundle import Bundle
from spoter_runtime.errors import BackendError
from spoter_runtime.recognizer import BACKENDS as DEVICE_BACKENDS
from spoter_runtime.recognizer import open_runner
from spoter_runtime.runner import Runner

BACKENDS: Final = ("torch", *DEVICE_BACKENDS)


def open_backend(name: str, bundle: Bundle, *, run: Path | None = None, threads: int | None = None) -> Runner:
    """Open `bundle` on one backend; imports torch only for ``"torch"``.

    Args:
        name: one of `BACKENDS`.
        bundle: from `read_bundle`.
        run: the RUN that the bundle was made from, for torch; None looks where the bundle says.
        threads: threads inside one operator; None leaves it to the engine.

    Raises:
        BackendError: unknown name, or it cannot be opened here.
        CheckpointError: torch was asked for and the run is gone, or is not the one of this bundle.
    """
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; there are {', '.join(BACKENDS)}")
    if name == "torch":
        from spoter_toolkit.reference import open_reference

        return open_reference(bundle, run, threads=threads)
    return open_runner(bundle, name, threads=threads)[0]
