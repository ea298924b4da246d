"""Verify a bundle on this device: check its hashes, then run the golden test."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spoter_runtime.backends import open_runner
from spoter_runtime.bundle.goldens import Replay, replay_goldens
from spoter_runtime.bundle.manifest import Bundle, read_bundle
from spoter_runtime.errors import BundleError

if TYPE_CHECKING:
    from spoter_runtime.bundle.signature import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The result of `verify_bundle`.

    Attributes:
        artefact: the file that was run.
        files: number of files whose hash was checked.
        machine: processor and operating system.
        passed_over: backend → why it was skipped, for those with a special file; empty if one was named.
        signer: the name of the trusted key that signed the bundle; None: nobody checked who made it.
    """

    bundle: str
    backend: str
    artefact: str
    precision: str
    files: int
    replay: Replay
    machine: str
    seconds: float
    passed_over: dict[str, str]
    signer: str | None = None

    @property
    def passed(self) -> bool:
        """True if the golden test passed."""
        return self.replay.passed

    def summary(self) -> str:
        """Return the report in one line."""
        return "; ".join(self.lines())

    def lines(self) -> list[str]:
        """Return the verdict, the figures, and the machine, a line each."""
        verdict = "verified" if self.passed else "NOT VERIFIED"
        return [
            f"{self.bundle}: {verdict} on {self.backend} in {self.precision}",
            str(self.replay),
            f"{self.files} files match bundle.json; ran {self.artefact} on {self.machine}",
            *([f"signed by {self.signer[:12]}…, a trusted key"] if self.signer else []),
        ]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, the facts of the replay among the others."""
        names = (
            "bundle",
            "backend",
            "artefact",
            "precision",
            "files",
            "machine",
            "seconds",
            "passed",
            "passed_over",
            "signer",
        )
        return {name: getattr(self, name) for name in names} | self.replay.as_json()


def verify_bundle(
    path: Path | str, backend: str | None = None, *, precision: str = "fp32", trust: Trust | None = None
) -> VerifyReport:
    """Hash every file of a bundle and replay its goldens on this machine.

    Args:
        path: the bundle folder.
        backend: one of `spoter_runtime.backends.BACKENDS`; None for the best that works here.
        precision: of the artefact to run.
        trust: public keys and certificates, one of which has to fit a signature; see `Recognizer.load`.

    Raises:
        BundleError: a file is missing, damaged, the model is not the one the manifest describes, or no
            trusted key signed them.
        BackendError: no engine can run it here.
        MissingExtraError: the engine is not installed.
    """
    begin = time.perf_counter()
    bundle, signer = (read_bundle(path), None) if trust is None else _trusted(path, trust)
    files = bundle.check_files()
    opened = open_runner(bundle, backend, precision=precision)
    with opened.runner as runner:
        if runner.contract != bundle.contract:
            raise BundleError(f"{path}: the model carries another contract than bundle.json")
        replay = replay_goldens(runner, bundle.goldens(), opened.artefact)
    return VerifyReport(
        bundle=bundle.name,
        backend=runner.name,
        artefact=opened.artefact.path,
        precision=precision,
        files=files,
        replay=replay,
        machine=f"{platform.machine()} {platform.system()} {platform.release()}",
        seconds=time.perf_counter() - begin,
        passed_over=opened.passed_over(bundle),
        signer=signer,
    )


def _trusted(path: Path | str, trust: Trust) -> tuple[Bundle, str]:
    from spoter_runtime.bundle.signature import read_trusted  # not at the top: only trust needs it

    return read_trusted(path, trust)
