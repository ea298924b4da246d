"""Replay a bundle's proof on this device: hashes, then goldens through the engine, with numpy alone."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spoter_runtime.bundle import read_bundle
from spoter_runtime.errors import BundleError
from spoter_runtime.recognizer import open_runner


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """Facts of one replay, and whether they stay within the bundle's own tolerance.

    Attributes:
        files: how many files were hashed and found as written.
        clips: goldens replayed.
        labels_agree: goldens whose best label is the reference's.
        max_logit_diff: largest absolute difference from the reference's logits.
        tolerance: what the bundle allows.
        machine: processor and operating system.
    """

    bundle: str
    backend: str
    files: int
    clips: int
    labels_agree: int
    max_logit_diff: float
    tolerance: float
    machine: str
    seconds: float

    @property
    def passed(self) -> bool:
        """True when every label agrees and no logit is further off than the tolerance."""
        return self.labels_agree == self.clips and self.max_logit_diff <= self.tolerance

    def summary(self) -> str:
        """Return the report in one sentence."""
        return (
            f"{self.bundle} on {self.backend}, {self.machine}: {self.files} files as written; "
            f"{self.labels_agree} of {self.clips} goldens agree, largest logit difference "
            f"{self.max_logit_diff:.2e} (allowed {self.tolerance:.0e}): "
            f"{'verified' if self.passed else 'NOT VERIFIED'}"
        )


def verify_bundle(path: Path | str, backend: str | None = None) -> VerifyReport:
    """Hash every file of a bundle and replay its goldens on this machine.

    Args:
        path: the bundle folder.
        backend: one of `spoter_runtime.recognizer.BACKENDS`; None for the best that works here.

    Raises:
        BundleError: a file is missing, damaged, or the model is not the one the manifest describes.
        BackendError: no engine can run it here.
        MissingExtraError: the engine is not installed.
    """
    begin = time.perf_counter()
    bundle = read_bundle(path)
    files = bundle.check_files()
    goldens = bundle.goldens()
    runner, _ = open_runner(bundle, backend)
    if runner.contract != bundle.contract:
        raise BundleError(f"{path}: the model carries another contract than bundle.json")
    logits = np.concatenate(
        [
            # One clip at a time and without padding: the way a device meets them.
            runner.infer(poses[None, :length], np.array([length], np.int32))
            for poses, length in zip(goldens.poses_NTD, goldens.lengths_N, strict=True)
        ]
    )
    return VerifyReport(
        bundle=bundle.name,
        backend=runner.name,
        files=files,
        clips=len(logits),
        labels_agree=int((logits.argmax(1) == goldens.logits_NC.argmax(1)).sum()),
        max_logit_diff=float(np.abs(logits - goldens.logits_NC).max()),
        tolerance=max(a.max_logit_diff for a in bundle.artefacts if a.kind == "onnx"),
        machine=f"{platform.machine()} {platform.system()} {platform.release()}",
        seconds=time.perf_counter() - begin,
    )
