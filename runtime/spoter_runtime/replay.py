"""Replay a bundle's goldens through a runner: the proof that travels, run on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spoter_runtime.bundle import Artefact, Goldens
from spoter_runtime.runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a runner made of the goldens.

    Attributes:
        clips: goldens replayed.
        labels_agree: goldens whose best label is the reference's.
        max_logit_diff: largest absolute difference from the reference's logits.
        tolerance: what the bundle allows for the artefact.
        strict: whether every label has to agree. In fp32 it has; in less, a label may turn where two logits
            are closer to each other than twice the tolerance.
    """

    clips: int
    labels_agree: int
    max_logit_diff: float
    tolerance: float
    strict: bool

    @property
    def passed(self) -> bool:
        """True when no logit is further off than the tolerance and the labels agree as they must."""
        agrees = self.labels_agree == self.clips or not self.strict
        return agrees and self.max_logit_diff <= self.tolerance

    def __str__(self) -> str:
        """Return the facts in words."""
        return (
            f"{self.labels_agree} of {self.clips} goldens agree, largest logit difference "
            f"{self.max_logit_diff:.2e} (allowed {self.tolerance:.0e})"
        )


def replay_goldens(runner: Runner, goldens: Goldens, artefact: Artefact) -> Replay:
    """Run the goldens one clip at a time and without padding: the way a device meets them.

    Raises:
        InputError, BackendError: as `Runner.infer`.
    """
    logits = np.concatenate(
        [
            runner.infer(poses[None, :length], np.array([length], np.int32))
            for poses, length in zip(goldens.poses_NTD, goldens.lengths_N, strict=True)
        ]
    )
    return Replay(
        clips=len(logits),
        labels_agree=int((logits.argmax(1) == goldens.logits_NC.argmax(1)).sum()),
        max_logit_diff=float(np.abs(logits - goldens.logits_NC).max()),
        tolerance=artefact.max_logit_diff,
        strict=artefact.precision == "fp32",
    )
