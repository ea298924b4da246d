"""Check a bundle's calibration on each backend: the same decisions as torch, and the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from spoter_runtime._types import OnProgress
from spoter_runtime.decision import Abstention
from spoter_runtime.runner import Runner
from spoter_runtime.strict import expect, made_from, shown
from spoter_toolkit.calibration.calibrate import CalibrationClips, answers_of
from spoter_toolkit.calibration.figures import Answers, auroc, decisions, figures_of
from spoter_toolkit.report.words import plural

# Share of clips with the same decision. A threshold is a value that clips have, so rounding turns some.
MIN_AGREEMENT: Final = {"fp32": 0.999, "fp16": 0.99, "int8": 0.97}
MOST_MOVED: Final = 0.01  # calibration error and AUROC

Answered = tuple[Answers, list[Answers]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationCheck:
    """A backend's decisions beside the reference's, on the clips that a bundle was calibrated on.

    Attributes:
        backend: as in ``--backend``.
        agree: clips with the same label and the same answer to the question whether it is a sign.
        calibration_error, auroc: of the backend, and of the reference; AUROC is None without negatives.
    """

    backend: str
    precision: str
    clips: int
    agree: int
    calibration_error: float
    reference_error: float
    auroc: float | None
    reference_auroc: float | None

    @property
    def failures(self) -> tuple[str, ...]:
        """What differs by more than rounding explains."""
        found = []
        if self.agree < MIN_AGREEMENT[self.precision] * self.clips:
            found.append(
                f"{self.agree} of {self.clips} decisions agree, {self.precision} allows "
                f"{1 - MIN_AGREEMENT[self.precision]:.1%} to differ"
            )
        pairs = {
            "calibration error": (self.calibration_error, self.reference_error),
            "AUROC": (self.auroc, self.reference_auroc),
        }
        for name, (own, reference) in pairs.items():
            if own is not None and reference is not None and not abs(own - reference) <= MOST_MOVED:
                found.append(f"{name} {own:.4f} instead of {reference:.4f}, {MOST_MOVED} is allowed")
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"failures": list(self.failures)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CalibrationCheck:
        """Read what `as_json` wrote.

        Raises:
            ValueError: a field is missing, unknown, or of another type.
        """
        stated = expect(value, dict[str, Any], "calibration")
        check = made_from(cls, {name: stated[name] for name in stated if name != "failures"}, "calibration")
        if check.precision not in MIN_AGREEMENT:
            raise ValueError(f"calibration.precision: {shown(check.precision)}")
        return check


class CalibrationReference:
    """The decisions of the PyTorch model on the clips that a bundle was calibrated on."""

    def __init__(self, rule: Abstention, runner: Runner, clips: CalibrationClips) -> None:
        """Answer the clips with `runner`."""
        self._names = [label.name for label in runner.contract.labels]
        self._rule = rule
        self._clips = clips
        self._answered = answers_of(runner, clips)

    def check(
        self, backend: str, precision: str, runner: Runner, *, on_progress: OnProgress | None = None
    ) -> CalibrationCheck:
        """Return a backend's decisions beside the reference's."""
        other = answers_of(runner, self._clips, on_progress=on_progress)
        said, answered = self._decided(self._answered), self._decided(other)
        own_error, own_auroc = self._figures(other)
        error, area = self._figures(self._answered)
        return CalibrationCheck(
            backend=backend,
            precision=precision,
            clips=len(said),
            agree=int((said == answered).all(1).sum()),
            calibration_error=own_error,
            reference_error=error,
            auroc=own_auroc,
            reference_auroc=area,
        )

    def _decided(self, answered: Answered) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return label and decision of each clip, (clips, 2)."""
        signs, negatives = answered
        rows = [
            np.column_stack((one.logits_NC.argmax(1), decisions(one, self._rule, self._names).is_sign_N))
            for one in (signs, *negatives)
        ]
        return np.concatenate(rows).astype(np.int64)

    def _figures(self, answered: Answered) -> tuple[float, float | None]:
        """Return the calibration error, and the AUROC over all negatives together."""
        signs, negatives = answered
        scores = [decisions(one, self._rule, self._names).score_N for one in negatives]
        error = figures_of(signs, (), self._rule, self._names).calibration_error
        if not scores:
            return error, None
        return error, auroc(decisions(signs, self._rule, self._names).score_N, np.concatenate(scores))


def in_words(checks: Sequence[CalibrationCheck]) -> str:
    """Return one line on all backends."""
    least = min(check.agree for check in checks)
    errors = sorted(check.calibration_error for check in checks)
    between = f"{errors[0]:.4f}" + (f" to {errors[-1]:.4f}" if errors[-1] - errors[0] > 5e-5 else "")
    return (
        f"calibration holds on {plural(len(checks), 'backend')}: of {checks[0].clips} decisions at least "
        f"{least} agree, calibration error {between} (torch {checks[0].reference_error:.4f})"
    )
