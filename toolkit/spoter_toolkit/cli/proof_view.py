"""Say a proof and a calibration in one line each, for `export`, `parity` and `eval`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spoter_toolkit.report.words import plural

if TYPE_CHECKING:
    from spoter_export.parity.proof import Proof


def proof_in_words(proof: Proof) -> str:
    """Return ``"same answers: 48 shapes, 256 clips, worst 3.5e-06 of 1e-04 allowed"``, or the failure."""
    from spoter_export.parity.facts import kind_of_clips
    from spoter_export.parity.report import largest_in_words
    from spoter_runtime.bundle.goldens import threshold

    if not proof.verdict.passed:
        failures = proof.verdict.failures
        return f"OTHER ANSWERS: {failures[0]}" + (f"; and {len(failures) - 1} more" if failures[1:] else "")
    facts = proof.facts
    unchanged = [group for group in facts.clips if group.change is None]
    given = [group for group in unchanged if group.is_of_people]
    clips = sum(len(group.clips) for group in given or unchanged)
    is_signed = given and kind_of_clips(given) == "clips of people"
    grid = [point.max_logit_diff for point in facts.grid]
    worst = largest_in_words([*grid, *(group.max_logit_diff for group in facts.clips)])
    flips = sum(len(group.flips) for group in unchanged)
    changed = f"; {plural(flips, 'label')} changed within rounding" if flips else ""
    return (
        f"same answers: {plural(len(grid), 'shape')}, {clips} {'' if is_signed else 'generated '}clips, "
        f"worst {worst} of {threshold(proof.policy.max_logit_diff)} allowed{changed}"
    )


def no_sign_in_words(evidence: Mapping[str, Any]) -> str:
    """Return ``"no sign: keeps 97.0 % of 540 signs, answers 4.1 % of 330 made negatives; …"``."""
    kinds = evidence["kinds"]
    clips = sum(kind["clips"] for kind in kinds)
    kept = f"keeps {100 * evidence['kept']:.1f} % of {plural(evidence['signs'], 'sign')}"
    if clips:
        wrong = sum(kind["clips"] * kind["false_answers"] for kind in kinds) / clips
        recorded = sum(kind["clips"] for kind in kinds if kind["recorded"])
        name = "made negative" if not recorded else "negative"
        kept += f", answers {100 * wrong:.1f} % of {plural(clips, name)}"
        kept += f", {recorded} of them recorded" if 0 < recorded < clips else ""
    return f"no sign: {kept}; calibration error {evidence['calibration_error']:.4f}"
