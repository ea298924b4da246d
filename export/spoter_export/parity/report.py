"""Table rows for proofs, their facts, and changed clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Final, NamedTuple

from spoter_export.parity.facts import ClipFact, ClipFacts, ParityFacts, kind_of_clips
from spoter_export.parity.judge import Z_95, agreement, unexplained_flips, worst_group
from spoter_export.parity.proof import Proof
from spoter_runtime.bundle.goldens import threshold
from spoter_runtime.bundle.libraries import BACKEND_OF
from spoter_runtime.bundle.manifest import Artefact

NOT_EXECUTED: Final = "not executed"
HOLDS: Final = "holds"
NO_CHANGE: Final = "as recorded"
_CLAIMED: Final = 0.95  # lower bound of label agreement that the clips of people should suffice to show


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofRow:
    """The row of one backend in one precision; without a proof it has only a verdict and a reason.

    Attributes:
        verdict: ``"holds"``, ``"FAILS (2 failures)"`` or `NOT_EXECUTED`.
        largest, allowed: logit difference, and its limit.
        moved: logit difference by padding, batch composition and order.
        where: the machine that it ran on, or why it did not run.
    """

    backend: str
    precision: str
    verdict: str
    largest: str = ""
    allowed: str = ""
    labels: str = ""
    flips: str = ""
    moved: str = ""
    where: str

    @property
    def holds(self) -> bool:
        """True where the proof was run and holds."""
        return self.verdict == HOLDS

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as cells for `PROOF_COLUMNS`."""
        return astuple(self)

    @property
    def name(self) -> str:
        """The backend with its precision."""
        return self.backend if self.precision in self.backend else f"{self.backend} {self.precision}"


PROOFS_TITLE: Final = "Parity with torch, backends × precisions"
PROOF_COLUMNS: Final = (
    *("backend", "precision", "verdict", "largest logit difference", "allowed", "labels agree"),
    *("unexplained flips", "padding, batch composition, order", "where, or why not"),
)


def proof_rows(
    proofs: Sequence[Proof],
    artefacts: Sequence[Artefact] = (),
    not_executed: Mapping[str, str] | None = None,
) -> list[ProofRow]:
    """Return a row for each proof, in their order, then one for each backend without a proof.

    Args:
        proofs: from a bundle's parity.json, or from a new parity run.
        artefacts: the bundle's artefacts: they name an engine's GPU, and give rows to engines without proofs.
        not_executed: backend, with ``:fp16`` for another precision than fp32 → why it was not run, empty if
            unknown. Backends with a proof are left out.
    """
    by_path = {artefact.path: artefact for artefact in artefacts}
    rows = [_proof_row(proof, by_path.get(proof.artefact)) for proof in proofs]
    proven = {(row.backend, row.precision) for row in rows}
    missing = {}
    for artefact in artefacts:
        if engine := artefact.engine:
            key = (BACKEND_OF[engine.library], artefact.precision)
            missing[key] = f"built by {engine.library} {engine.version}, never run"
            if executed := engine.executed:
                ran = f"{executed['gpu']}, {executed['month']}"
                missing[key] = f"only the goldens, on {ran}; no proof over the shapes"
    for name, why in (not_executed or {}).items():
        backend, _, precision = name.partition(":")
        key = (backend, precision or "fp32")
        missing[key] = why or missing.get(key, "no proof is stored")
    return rows + [
        ProofRow(backend=backend, precision=precision, verdict=NOT_EXECUTED, where=why)
        for (backend, precision), why in missing.items()
        if (backend, precision) not in proven
    ]


def _proof_row(proof: Proof, artefact: Artefact | None) -> ProofRow:
    facts, failures = proof.facts, len(proof.verdict.failures)
    own = [fact.max_logit_diff for fact in facts.invariance if fact.runner == facts.candidate]
    by_clips = [None if clips.error else clips.max_logit_diff for clips in facts.clips]
    flips = sum(len(group.flips) for group in facts.clips)
    unexplained = sum(len(unexplained_flips(group, proof.precision)) for group in facts.clips)
    where = "a GPU" if proof.on_gpu else "CPU"  # proofs of ONNX files do not name the processor
    if artefact and artefact.engine and (executed := artefact.engine.executed):
        where = f"{executed['gpu']}, {executed['month']}"
    return ProofRow(
        backend=facts.candidate,
        precision=proof.precision,
        verdict=HOLDS if not failures else f"FAILS ({failures} failure{'s' * (failures > 1)})",
        largest=largest_in_words([*(point.max_logit_diff for point in facts.grid), *by_clips]),
        allowed=threshold(proof.policy.max_logit_diff),
        labels=_labels(facts),
        flips=f"{unexplained} of {flips} flips" if flips else "no flip",
        moved=largest_in_words(own),
        where=where,
    )


def largest_in_words(values: Sequence[float | None]) -> str:
    """Return the largest difference and the number of cases without one; NaN counts as the largest."""
    found = [value for value in values if value is not None]
    if not found:
        return "no answer"
    largest = "not a number" if any(map(math.isnan, found)) else f"{max(found):.1e}"
    silent = len(values) - len(found)
    return f"{largest}; {silent} of {len(values)} gave no answer" if silent else largest


def _labels(facts: ParityFacts) -> str:
    """Return the number of agreeing labels, with an interval for clips of people."""
    unchanged = [group for group in facts.clips if group.change is None]
    people = [group for group in unchanged if group.is_of_people]
    groups = people or unchanged
    clips, agree = sum(len(group.clips) for group in groups), sum(group.labels_agree for group in groups)
    if not clips:
        return "no clip was run"
    if not people:
        return f"{agree} of {clips}, generated; none of people"
    return f"{agree} of {clips} {agreement(agree, clips).interval}"


def fact_rows(proof: Proof) -> list[tuple[str, str, str]]:
    """Return a proof's facts as table rows: inputs, largest difference, labels."""
    facts = proof.facts
    ran = [point.max_logit_diff for point in facts.grid if point.max_logit_diff is not None]
    grid = f"{max(ran):.1e}" if ran else "none ran"
    rows = [
        ("grid: batch × frames, full and ragged lengths", grid, f"{len(ran)} of {len(facts.grid)} points")
    ]
    for clips in facts.clips:
        if clips.change is None:
            difference = "" if clips.error else f"{clips.max_logit_diff:.1e}"
            rows.append((f"clips, {clips.source}", difference, agreement_in_words(clips, proof.precision)))
    for fact in facts.invariance:
        difference = largest_in_words([fact.max_logit_diff])
        rows.append((f"{fact.change}, {fact.runner}", difference, f"{fact.clips} clips"))
    if facts.weights:
        worst = max(fact.steps for fact in facts.weights)
        rows.append(("weights in 8 bits", f"{worst:.3g} steps", f"{len(facts.weights)} weights"))
    return rows


def agreement_in_words(facts: ClipFacts, precision: str) -> str:
    """Return the number of agreeing labels, an interval for clips of people, and the unexplained flips."""
    if facts.error is not None:
        return "no answer"
    count = len(facts.clips)
    words = f"{facts.labels_agree} of {count} labels agree"
    if facts.is_of_people:
        best, five = agreement(facts.labels_agree, count), agreement(facts.top5_agree, count)
        words += f" {best.interval}, the best five of {five.agree} {five.interval}"
    if facts.flips:
        words += f"; {len(unexplained_flips(facts, precision))} of {len(facts.flips)} flips unexplained"
    for by, title in (("label", "class"), ("signer", "signer")):
        if worst := worst_group(facts, by):
            words += f"; worst {title} {worst[0]}: {worst[1]} of {worst[2]}"
    return words


class FewClips(NamedTuple):
    """The caveat that a proof compared too few clips of people to say much about labels."""

    message: str
    fix: str


def few_clips(facts: ParityFacts) -> FewClips | None:
    """Return a caveat if the clips of people are too few to say much about labels; else None."""
    groups = [g for g in facts.clips if g.is_of_people and not g.change and g.clips]
    clips = sum(len(group.clips) for group in groups)
    if not clips or (found := agreement(sum(g.labels_agree for g in groups), clips)).low >= _CLAIMED:
        return None
    needed = math.ceil(Z_95**2 * _CLAIMED / (1 - _CLAIMED))  # so many agreeing clips give that lower end
    return FewClips(
        message=f"{clips} {kind_of_clips(groups)} say little about labels: the share that agrees may be "
        f"{found.low:.0%}",
        fix=f"{needed} or more with --data; min_clips in a policy asks for them",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessRow:
    """The row of one source's clips under one change.

    Attributes:
        change: the change made to each clip, or `NO_CHANGE`.
        reference_accuracy, candidate_accuracy: share of correct labels; None if labels are unknown.
        kept: share of clips with the same candidate label as the unchanged clip.
        agree: number of clips with the reference's label.
        max_logit_diff: largest absolute difference from the reference.
    """

    source: str
    change: str
    clips: int
    reference_accuracy: float | None
    candidate_accuracy: float | None
    kept: float
    agree: int
    max_logit_diff: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as cells for `ROBUSTNESS_COLUMNS`."""
        known = (self.candidate_accuracy, self.reference_accuracy)
        shares = ["not known" if share is None else f"{share:.1%}" for share in known]
        agree = f"{self.agree} of {self.clips}"
        return (
            f"{self.source}, {self.change}",
            *shares,
            f"{self.kept:.1%}",
            agree,
            f"{self.max_logit_diff:.1e}",
        )


ROBUSTNESS_COLUMNS: Final = (
    *("clips", "right labels", "reference's", "answer kept", "labels agree", "largest logit difference"),
)


def robustness_rows(facts: ParityFacts) -> list[RobustnessRow]:
    """Return rows of each source: the unchanged clips, then one row for each change."""
    rows = []
    for clean in facts.clips:
        changed = [g for g in facts.clips if g.source == clean.source and g.change and g.clips]
        if clean.change is None and clean.clips and changed:
            unchanged = {clip.name: clip for clip in clean.clips}
            same = [unchanged[clip.name] for clip in changed[0].clips]
            rows.append(_robustness_row(clean.source, NO_CHANGE, same, unchanged))
            rows += [_robustness_row(g.source, g.change or "", g.clips, unchanged) for g in changed]
    return rows


def _robustness_row(
    source: str, change: str, clips: Sequence[ClipFact], unchanged: Mapping[str, ClipFact]
) -> RobustnessRow:
    count, labelled = len(clips), all(clip.label is not None for clip in clips)
    return RobustnessRow(
        source=source,
        change=change,
        clips=count,
        reference_accuracy=sum(c.reference == c.label for c in clips) / count if labelled else None,
        candidate_accuracy=sum(c.candidate == c.label for c in clips) / count if labelled else None,
        kept=sum(c.candidate == unchanged[c.name].candidate for c in clips) / count,
        agree=sum(not clip.is_flip for clip in clips),
        max_logit_diff=max(clip.max_logit_diff for clip in clips),
    )
