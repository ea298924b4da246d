"""Compose the page of a parity run, and the parts of it that a bench shows too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from spoter_export.parity.facts import ClipFacts
from spoter_export.parity.judge import unexplained_flips
from spoter_export.parity.proof import Proof
from spoter_export.parity.report import (
    NOT_EXECUTED,
    PROOF_COLUMNS,
    PROOFS_TITLE,
    ROBUSTNESS_COLUMNS,
    ProofRow,
    fact_rows,
    few_clips,
    proof_rows,
    robustness_rows,
)
from spoter_export.probes import GOLDENS, ClipSet, generated_clips
from spoter_runtime.bundle.goldens import threshold
from spoter_runtime.landmarks import Float32Array, detected
from spoter_toolkit.parity.calibration import CalibrationCheck
from spoter_toolkit.parity.report import ParityReport
from spoter_toolkit.report.charts import Cell, Grid
from spoter_toolkit.report.html import Page, Section, html_from_page
from spoter_toolkit.report.skeleton import skeleton_of
from spoter_toolkit.report.table import Table
from spoter_toolkit.report.words import plural, without_places

if TYPE_CHECKING:
    from spoter_export.diagnose.chain import Link  # imports torch

_JUDGED: Final = " They are stored ones, of the machine that made them: nothing was run here."
_MOST_FLIPS: Final = 100  # of a proof, in its table


def html_from_report(report: ParityReport, *, judged: bool = False) -> str:
    """Return a parity report as one HTML page, without the folders of this machine: it is made to be sent.

    Args:
        report: of a run, or of stored facts.
        judged: say that the facts were stored, and nothing was run for this page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    bundle = report.bundle
    folders = [bundle.folder] if bundle else []
    not_run = {backend: without_places(why, *folders) for backend, why in report.not_run.items()}
    rows = proof_rows(report.proofs, bundle.artefacts if bundle else (), not_run)
    seeds = ", ".join(dict.fromkeys(str(proof.facts.seed) for proof in report.proofs))
    held = sum(proof.verdict.passed for proof in report.proofs)
    worst = worst_clip_section(report)
    few = [found.message for proof in report.proofs if (found := few_clips(proof.facts))]
    page = Page(
        verdict=f"Same model: {'yes' if report.passed else 'no'}",
        title=f"Parity of {report.name}",
        about=f"Proofs that hold: {held} of {len(report.proofs)}.{_JUDGED if judged else ''}",
        passed=report.passed,
        lead=[verdict_grid(rows)],
        caveats=[f"{message}." for message in dict.fromkeys(few)],
        sections=[
            *([worst] if worst else []),
            *([_chain_section(report)] if report.chains else []),
            proofs_section(
                rows, "Each backend beside the trained model, which runs in PyTorch on the CPU.", grid=False
            ),
            *([_calibration_section(report.calibration)] if report.calibration else []),
            *(_proof_section(number, proof) for number, proof in enumerate(report.proofs, 1)),
        ],
        facts={proof.artefact: f"sha256 {proof.sha256}" for proof in report.proofs} | {"seed": seeds},
    )
    return html_from_page(page)


def calibration_table(checks: Sequence[CalibrationCheck]) -> Table:
    """Return a row for each backend: its decisions, calibration error and AUROC beside the reference's."""
    return Table(
        title='Decisions "sign" and "no sign" beside the trained model\'s',
        columns=("backend", "decisions agree", "calibration error", "AUROC", ""),
        rows=[
            (
                check.backend,
                f"{check.agree} of {check.clips}",
                f"{check.calibration_error:.4f} ({check.reference_error:.4f})",
                "" if check.auroc is None else f"{check.auroc:.4f} ({check.reference_auroc:.4f})",
                "; ".join(check.failures) or "holds",
            )
            for check in checks
        ],
    )


def _calibration_section(checks: Sequence[CalibrationCheck]) -> Section:
    said = "In brackets: the trained model, which runs in PyTorch on the CPU."
    return Section(
        name="calibration",
        title="Calibration",
        paragraphs=(said,),
        layout="wide",
        tables=[calibration_table(checks)],
    )


def verdict_grid(rows: Sequence[ProofRow]) -> Grid:
    """Return backends × precisions: whether each gives the answers of the trained model."""
    precisions = sorted({row.precision for row in rows}, key=lambda name: (name != "fp32", name))
    found: dict[str, dict[str, Cell]] = {}
    for row in rows:
        backend, _, how = row.backend.partition(", ")
        found.setdefault(backend, {})[row.precision] = _cell(row, how)
    empty = Cell(state="none")
    return Grid(
        caption="✓ gives the answers of the trained model, ✗ does not, – was not run.",
        corner="backend",
        columns=precisions,
        rows=[(name, [cells.get(p, empty) for p in precisions]) for name, cells in found.items()],
    )


def _cell(row: ProofRow, how: str) -> Cell:
    if row.verdict == NOT_EXECUTED:
        return Cell(state="none")
    differs = f"differs by {row.largest} of {row.allowed} allowed"
    return Cell(state="yes" if row.holds else "no", text=f"{differs}; {how}" if how else differs)


def findings_from_rows(rows: Sequence[ProofRow]) -> list[str]:
    """Return a sentence for each proof, and one for all backends that were not executed."""
    found = [
        f"Parity {row.verdict} for {row.name}: largest logit difference {row.largest}, allowed "
        f"{row.allowed}; labels that agree: {row.labels}."
        for row in rows
        if row.verdict != NOT_EXECUTED
    ]
    unrun = [row.name for row in rows if row.verdict == NOT_EXECUTED]
    return [*found, *([f"Not executed, so without a proof: {', '.join(unrun)}."] if unrun else [])]


def proofs_section(rows: Sequence[ProofRow], said: str, *, grid: bool = True) -> Section:
    """Return the section of backends × precisions, with a sentence on where its rows come from."""
    table = Table(title=PROOFS_TITLE, columns=PROOF_COLUMNS, rows=[row.cells for row in rows], sentences=True)
    return Section(
        name="parity",
        title="Same answers",
        paragraphs=(said,),
        charts=[verdict_grid(rows)] if rows and grid else [],
        layout="wide",
        folded={"In words": findings_from_rows(rows)} if rows else {},
        tables=[table] if rows else [],
    )


def worst_clip_section(report: ParityReport) -> Section | None:
    """Return the clip with the worst answer as a skeleton, with both answers; None where no clip was run.

    A clip with another label comes before all others; then those of the data, for people see what they show.
    """
    found = [
        (clip.is_flip, group.is_of_people, _nan_last(clip.max_logit_diff), proof, group, clip)
        for proof in report.proofs
        for group in proof.facts.clips
        if group.change is None
        for clip in group.clips
    ]
    if not found:
        return None
    *_, proof, group, clip = max(found, key=lambda one: one[:3])
    poses = _poses_of(report, proof, group, clip.name)
    signed = f", signed {clip.label}" if clip.label else ""
    names = f"{proof.facts.reference} says {clip.reference}, {proof.backend} says {clip.candidate}."
    caption = f"{clip.name}{signed}: {names}"
    allowed = threshold(proof.policy.max_logit_diff)
    differs = f"Its logits differ by {clip.max_logit_diff:.1e}, allowed {allowed}."
    if poses is None or not detected(poses).any():
        said = (caption, differs, "Its landmarks cannot be drawn: not at hand, or none was detected.")
        return Section(name="worst", title="The worst clip", paragraphs=said)
    drawn = skeleton_of(poses, caption=caption, alt=caption)
    return Section(name="worst", title="The worst clip", paragraphs=(differs,), charts=[drawn], layout="wide")


def _nan_last(difference: float) -> float:
    return math.inf if math.isnan(difference) else difference


def _poses_of(report: ParityReport, proof: Proof, group: ClipFacts, name: str) -> Float32Array | None:
    """Return the landmarks of a clip that was compared; None where they are not at hand."""
    sets = [report.clips] if report.clips else []
    if report.bundle:
        sets.append(generated_clips(report.bundle.contract, proof.facts.seed))
        sets.append(ClipSet(source=GOLDENS, clips=report.bundle.goldens().clips()))
    for clips in sets:
        if clips.source == group.source:
            return next((poses for i, poses in enumerate(clips.clips) if clips.name_of(i) == name), None)
    return None


def chain_table(backend: str, chain: Sequence[Link]) -> Table:
    """Return the chain from torch to a backend, a row a step."""
    return Table(
        title=f"from torch to {backend}",
        columns=("step", "differs from the step before", "padding moves it", "holds"),
        rows=[
            (
                link.step,
                "" if link.max_logit_diff is None else f"{link.max_logit_diff:.1e}",
                link.error or f"{link.max_padding_diff:.1e}",
                "yes" if link.holds else "NO",
            )
            for link in chain
        ],
    )


def _chain_section(report: ParityReport) -> Section:
    said = []
    for backend, chain in report.chains.items():
        broken = next((link for link in chain if not link.holds), None)
        where = f"it breaks at {broken}" if broken else "no step breaks on the clips that were tried"
        said.append(f"{backend}: {where}.")
    said += [f"{backend}: {where}." for backend, where in report.divergences.items()]
    tables = [chain_table(backend, chain) for backend, chain in report.chains.items()]
    return Section(
        name="blame", title="Where it breaks", folded={"Each backend that fails": said}, tables=tables
    )


def _proof_section(number: int, proof: Proof) -> Section:
    facts = Table(
        title=f"{proof.artefact}: {proof.facts.candidate} against {proof.facts.reference}",
        columns=("what was run", "largest logit difference", "of what, and labels"),
        rows=fact_rows(proof),
    )
    changed = Table(
        title="What cameras and people do to a clip",
        columns=ROBUSTNESS_COLUMNS,
        rows=[row.cells for row in robustness_rows(proof.facts)],
    )
    flips = _flip_rows(proof)
    shown = f", the first {_MOST_FLIPS} of {len(flips)}" if len(flips) > _MOST_FLIPS else ""
    table = Table(
        title=f"Clips whose label is another{shown}",
        columns=("clip", "label", "signer", "torch says", "margin", "backend says", "margin", "explained"),
        rows=flips[:_MOST_FLIPS],
        sentences=True,
    )
    failures = proof.verdict.failures
    return Section(
        name=f"proof-{number}",
        title=f"{proof.facts.candidate}, {proof.precision}",
        paragraphs=() if failures else ("Parity holds.",),
        folded={f"It fails in {plural(len(failures), 'way')}": failures} if failures else {},
        tables=[facts, *([changed] if changed.rows else []), *([table] if flips else [])],
    )


def _flip_rows(proof: Proof) -> list[tuple[str, ...]]:
    return [
        (
            flip.name,
            flip.label or "not known",
            flip.signer or "not known",
            flip.reference,
            f"{flip.reference_margin:.1e}",
            flip.candidate,
            f"{flip.candidate_margin:.1e}",
            "NO" if flip in unexplained_flips(group, proof.precision) else "yes, by rounding",
        )
        for group in proof.facts.clips
        for flip in group.flips
    ]
