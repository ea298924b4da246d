"""Lay proofs out as tables: backends × precisions, and the facts of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from spoter_export.parity.compare import ClipFacts
from spoter_export.parity.judge import Proof, agreement, agreement_in_words, unexplained_flips
from spoter_export.probes import GENERATED, GOLDENS
from spoter_runtime.bundle.goldens import threshold
from spoter_runtime.bundle.libraries import BACKEND_OF
from spoter_runtime.bundle.manifest import Artefact

NOT_EXECUTED: Final = "not executed"

_COLUMNS: Final = (
    "backend",
    "precision",
    "verdict",
    "largest logit difference",
    "allowed",
    "labels agree",
    "unexplained flips",
    "padding, company, order",
    "where, or why not",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofMatrix:
    """A table of formatted cells, a row a backend and precision; every row fills every column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def proof_matrix(
    proofs: Sequence[Proof],
    artefacts: Sequence[Artefact] = (),
    not_executed: Mapping[str, str] | None = None,
) -> ProofMatrix:
    """Lay stored proofs out as backends × precisions; what has no proof is said to be not executed.

    Args:
        proofs: from a bundle's parity.json, or of a new parity run.
        artefacts: the bundle's. They tell which GPU an engine ran on; an engine without a proof gets a row.
        not_executed: backend, ``:fp16`` behind it for another precision than fp32 → why it was not run, empty
            where nobody knows. One that has a proof is left out.

    Returns:
        First the proofs in their order, then what was not executed.
    """
    by_path = {artefact.path: artefact for artefact in artefacts}
    rows = [_proof_row(proof, by_path.get(proof.artefact)) for proof in proofs]
    proven = {(proof.facts.candidate, proof.precision) for proof in proofs}
    missing = {
        (BACKEND_OF[artefact.engine.library], artefact.precision): _built_only(artefact)
        for artefact in artefacts
        if artefact.engine is not None
    }
    for name, why in (not_executed or {}).items():
        backend, _, precision = name.partition(":")
        key = (backend, precision or "fp32")
        missing[key] = why or missing.get(key, "no proof is stored")
    rows += [_missing_row(*key, why) for key, why in missing.items() if key not in proven]
    return ProofMatrix(title="Parity with torch, backends × precisions", columns=_COLUMNS, rows=tuple(rows))


def fact_rows(proof: Proof) -> list[tuple[str, str, str]]:
    """Return the facts as table rows: what, the largest difference, labels."""
    facts = proof.facts
    ran = [point.max_logit_diff for point in facts.grid if point.max_logit_diff is not None]
    rows = [
        (
            "grid: batch × frames, full and ragged lengths",
            f"{max(ran):.1e}" if ran else "none ran",
            f"{len(ran)} of {len(facts.grid)} points",
        )
    ]
    rows += [
        (
            f"clips, {clips.source}",
            "" if clips.error else f"{clips.max_logit_diff:.1e}",
            agreement_in_words(clips, proof.precision),
        )
        for clips in facts.clips
        if clips.change is None
    ]
    rows += [
        (
            f"{fact.change}, {fact.runner}",
            "no answer" if fact.max_logit_diff is None else f"{fact.max_logit_diff:.1e}",
            f"{fact.clips} clips",
        )
        for fact in facts.invariance
    ]
    if facts.weights:
        worst = max(fact.steps for fact in facts.weights)
        rows.append(("weights in 8 bits", f"{worst:.3g} steps", f"{len(facts.weights)} weights"))
    return rows


def _built_only(artefact: Artefact) -> str:
    assert artefact.engine is not None  # asked for engines alone
    if executed := artefact.engine.executed:
        return f"only the goldens, on {executed['gpu']}, {executed['month']}; no proof over the shapes"
    return f"built by {artefact.engine.library} {artefact.engine.version}, never run"


def _missing_row(backend: str, precision: str, why: str) -> tuple[str, ...]:
    return (backend, precision, NOT_EXECUTED, *[""] * (len(_COLUMNS) - 4), why)


def _proof_row(proof: Proof, artefact: Artefact | None) -> tuple[str, ...]:
    facts = proof.facts
    failures = len(proof.verdict.failures)
    own = [fact for fact in facts.invariance if fact.runner == facts.candidate]
    flips = sum(len(group.flips) for group in facts.clips)
    unexplained = sum(len(unexplained_flips(group, proof.precision)) for group in facts.clips)
    return (
        facts.candidate,
        proof.precision,
        "holds" if proof.verdict.passed else f"FAILS ({failures} failure{'s' * (failures > 1)})",
        _largest([*(point.max_logit_diff for point in facts.grid), *map(_difference, facts.clips)]),
        threshold(proof.policy.max_logit_diff),
        _labels(proof),
        f"{unexplained} of {flips} flips" if flips else "no flip",
        _largest([fact.max_logit_diff for fact in own]),
        _where(proof, artefact),
    )


def _largest(values: Sequence[float | None]) -> str:
    """Return the largest difference and how many cases gave none; a NaN is larger than any number."""
    found = [value for value in values if value is not None]
    if not found:
        return "no answer"
    largest = "not a number" if any(map(math.isnan, found)) else f"{max(found):.1e}"
    silent = len(values) - len(found)
    return f"{largest}; {silent} of {len(values)} gave no answer" if silent else largest


def _difference(clips: ClipFacts) -> float | None:
    return None if clips.error else clips.max_logit_diff


def _labels(proof: Proof) -> str:
    """Return how many labels agree; the interval is claimed for clips of people alone."""
    unchanged = [group for group in proof.facts.clips if group.change is None]
    people = [group for group in unchanged if group.source not in (GENERATED, GOLDENS)]
    groups = people or unchanged
    clips, agree = sum(len(group.clips) for group in groups), sum(group.labels_agree for group in groups)
    if not clips:
        return "no clip was run"
    if not people:
        return f"{agree} of {clips}, generated; none of people"
    found = agreement(agree, clips)
    return f"{agree} of {clips} ({found.low:.1%} to {found.high:.1%})"


def _where(proof: Proof, artefact: Artefact | None) -> str:
    """Return where the candidate ran: a proof of an ONNX file does not name its processor."""
    if artefact and artefact.engine and (executed := artefact.engine.executed):
        return f"{executed['gpu']}, {executed['month']}"
    return "a GPU" if proof.on_gpu else "CPU"
