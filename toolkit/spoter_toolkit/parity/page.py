"""Compose the page of a parity run, and the parts of it that a bench shows too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from spoter_export.parity.judge import unexplained_flips
from spoter_export.parity.proof import Proof
from spoter_export.parity.report import (
    NOT_EXECUTED,
    PROOF_COLUMNS,
    PROOFS_TITLE,
    ROBUSTNESS_COLUMNS,
    ProofRow,
    fact_rows,
    proof_rows,
    robustness_rows,
)
from spoter_toolkit.parity.report import ParityReport
from spoter_toolkit.report.html import Page, Section, html_from_page
from spoter_toolkit.report.table import Table
from spoter_toolkit.report.words import without_places

if TYPE_CHECKING:
    from spoter_export.diagnose.chain import Link  # imports torch

_MOST_FLIPS: Final = 100  # of a proof, in its table


def html_from_report(report: ParityReport) -> str:
    """Return a parity report as one HTML page, without the folders of this machine: it is made to be sent.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    bundle = report.bundle
    folders = [bundle.folder] if bundle else []
    not_run = {backend: without_places(why, *folders) for backend, why in report.not_run.items()}
    rows = proof_rows(report.proofs, bundle.artefacts if bundle else (), not_run)
    seeds = ", ".join(dict.fromkeys(str(proof.facts.seed) for proof in report.proofs))
    page = Page(
        title=f"Parity of {report.name}",
        facts={proof.artefact: f"sha256 {proof.sha256}" for proof in report.proofs} | {"seed": seeds},
        summary=findings_from_rows(rows),
        sections=[
            matrix_section(rows, "Each backend against the model that was trained, in PyTorch on the CPU."),
            *([_chain_section(report)] if report.chains else []),
            *(_proof_section(number, proof) for number, proof in enumerate(report.proofs, 1)),
        ],
    )
    return html_from_page(page)


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


def matrix_section(rows: Sequence[ProofRow], said: str) -> Section:
    """Return the section of backends × precisions, with a sentence on where its rows come from."""
    cells = [row.cells for row in rows]
    table = Table(title=PROOFS_TITLE, columns=PROOF_COLUMNS, rows=cells, sentences=True)
    return Section(
        name="parity",
        title="Parity",
        paragraphs=(said,),
        tables=[table] if rows else [],
    )


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
    return Section(name="blame", title="Where it breaks", points=said, tables=tables)


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
        paragraphs=("It fails in:",) if failures else ("Parity holds.",),
        points=failures,
        tables=[facts, *([changed] if changed.rows else []), *([table] if flips else [])],
        new_page=True,
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
