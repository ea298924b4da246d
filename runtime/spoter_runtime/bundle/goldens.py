"""The golden test: replay a bundle's stored inputs on the device and compare the answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from spoter_runtime.bundle.manifest import Artefact, Goldens
from spoter_runtime.errors import NotFiniteError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Runner

_NAMED: Final = 3  # differing goldens that a sentence names


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """A golden whose answer is not the reference's.

    Attributes:
        golden: its index in the bundle's goldens.npz.
        frames: frames of its clip.
        max_logit_diff: largest absolute difference; None if a logit is not finite.
        label_agrees: whether the best label is the reference's.
    """

    golden: int
    frames: int
    max_logit_diff: float | None
    label_agrees: bool

    def __str__(self) -> str:
        clip = f"golden {self.golden} ({self.frames} frame{'s' * (self.frames != 1)})"
        if self.max_logit_diff is None:
            return f"{clip} not a number"
        return f"{clip} off by {self.max_logit_diff:.2e}{'' if self.label_agrees else ', another label'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The result of a golden test.

    Attributes:
        clips: goldens replayed.
        labels_agree: goldens whose best label is the reference's.
        max_logit_diff: largest absolute difference from the reference's logits over the finite answers; None
            if no answer is finite.
        tolerance: the largest difference that the bundle allows for the artefact.
        strict: whether every label must agree, as in fp32. In lower precisions a label may flip where two
            logits are closer than twice the tolerance.
        differing: the goldens beyond the tolerance, not finite, or with another label.
    """

    clips: int
    labels_agree: int
    max_logit_diff: float | None
    tolerance: float
    strict: bool
    differing: tuple[Differing, ...] = ()

    @property
    def passed(self) -> bool:
        """True if every difference is within the tolerance and, if `strict`, every label agrees."""
        if self.max_logit_diff is None or any(one.max_logit_diff is None for one in self.differing):
            return False
        agrees = self.labels_agree == self.clips or not self.strict
        return agrees and self.max_logit_diff <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        """Return the result of the golden test as plain JSON values."""
        names = ("clips", "labels_agree", "max_logit_diff", "tolerance")
        rows = ("golden", "frames", "max_logit_diff", "label_agrees")
        return {name: getattr(self, name) for name in names} | {
            "differing": [{name: getattr(one, name) for name in rows} for one in self.differing]
        }

    def __str__(self) -> str:
        """Return the result as one sentence."""
        largest = "none is a number" if self.max_logit_diff is None else f"{self.max_logit_diff:.2e}"
        words = (
            f"{self.labels_agree} of {self.clips} stored answers (goldens) agree, largest logit difference "
            f"{largest} (allowed {threshold(self.tolerance)})"
        )
        if not self.differing:
            return words
        more = len(self.differing) - _NAMED
        named = "; ".join(map(str, self.differing[:_NAMED]))
        return f"{words}; {named}{f'; and {more} more' if more > 0 else ''}"


def replay_goldens(runner: Runner, goldens: Goldens, artefact: Artefact) -> Replay:
    """Run the goldens one clip at a time, without padding, and compare the answers with the stored ones.

    Logits that are not finite count as a difference; the other goldens still run.

    Raises:
        InputError, BackendError: as `Runner.infer`, except NotFiniteError.
    """
    lengths = [int(length) for length in goldens.lengths_N]
    logits_NC = np.concatenate(
        [
            _answer(runner, poses[None, :length])
            for poses, length in zip(goldens.poses_NTD, lengths, strict=True)
        ]
    )
    return compared(logits_NC, goldens, artefact)


def compared(logits_NC: Float32Array, goldens: Goldens, artefact: Artefact) -> Replay:
    """Compare logits computed for the goldens with the stored ones."""
    lengths = [int(length) for length in goldens.lengths_N]
    difference_N = np.abs(logits_NC - goldens.logits_NC).max(1)
    number_N = np.isfinite(difference_N)
    agrees_N = number_N & (logits_NC.argmax(1) == goldens.logits_NC.argmax(1))
    return Replay(
        clips=len(lengths),
        labels_agree=int(agrees_N.sum()),
        max_logit_diff=float(difference_N[number_N].max()) if number_N.any() else None,
        tolerance=artefact.max_logit_diff,
        strict=artefact.precision == "fp32",
        differing=tuple(
            Differing(
                golden=i,
                frames=lengths[i],
                max_logit_diff=float(difference_N[i]) if number_N[i] else None,
                label_agrees=bool(agrees_N[i]),
            )
            for i in np.flatnonzero(~(difference_N <= artefact.max_logit_diff) | ~agrees_N).tolist()
        ),
    )


def _answer(runner: Runner, poses_1TD: Float32Array) -> Float32Array:
    """Return the logits of one clip; all NaN if one is not finite."""
    try:
        return runner.infer(poses_1TD, np.array([poses_1TD.shape[1]], np.int32))
    except NotFiniteError:
        return np.full((1, runner.contract.num_classes), math.nan, np.float32)


def threshold(value: float) -> str:
    """Return a threshold with all its digits: a rounded one could contradict the failure beside it."""
    short = f"{value:.0e}"
    return short if float(short) == value else f"{value:g}"
