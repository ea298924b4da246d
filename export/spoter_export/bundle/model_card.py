"""Write the bundle's MODEL_CARD.md from measured facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from spoter_export.parity.proof import Proof
from spoter_export.parity.report import (
    NOT_EXECUTED,
    PROOF_COLUMNS,
    PROOFS_TITLE,
    ROBUSTNESS_COLUMNS,
    agreement_in_words,
    proof_rows,
    robustness_rows,
)
from spoter_runtime.bundle.goldens import threshold
from spoter_runtime.bundle.manifest import Artefact
from spoter_runtime.contract import GraphContract
from spoter_runtime.decision import NO_CALIBRATION, Abstention
from spoter_runtime.landmarks import NUM_FEATURES

_CARD: Final = """# {name}

A recogniser of isolated signs from body and hand landmarks, exported by spoter-kit.

## Where the weights come from

{data}

## Use

```python
from spoter_runtime import Recognizer  # pip install '.[cpu]' in a checkout of spoter-kit
recognizer = Recognizer.load("{name}.spoter")
prediction = recognizer.predict(landmarks)  # (frames, 54, 2), NaN where not detected
```

Replay the proof on your device: `python -m spoter_runtime verify {name}.spoter`

## Contract

{tensors}

1 ≤ lengths ≤ frames ≤ {contract.max_frames}; 1 ≤ batch ≤ {contract.max_batch}. {normalisation}

## Files

{files}

## {proofs_title}

{proofs}

{proof_sections}## When it says "no sign"

{no_sign}

## Labels

{labels}
"""

_FILE_COLUMNS: Final = ("file", "precision", "size", "needs", "built", "executed", "sha256")


def card_from_facts(
    name: str,
    contract: GraphContract,
    artefacts: Sequence[Artefact],
    proofs: Sequence[Proof],
    provenance: dict[str, Any],
    abstention: Abstention | None = None,
) -> str:
    """Return the model card as Markdown."""
    inside = provenance.get("run", {}).get("config", {}).get("normalize", "none") != "none"
    landmarks = "raw landmarks" if inside else "landmarks, normalised as in training,"
    poses = f"{landmarks} x0 y0 x1 y1 …; NaN or (0, 0) = not detected"
    lengths = "real frames of each clip; the rest is padding and is ignored"
    tensors = (
        ("`poses`", "float32", f"batch × frames × {NUM_FEATURES}", poses),
        ("`lengths`", "int32", "batch", lengths),
        ("`logits`", "float32", f"batch × {contract.num_classes}", "unnormalised scores"),
    )
    faces = dict.fromkeys(proof.face for proof in proofs if proof.face)
    engines = [proof for proof in proofs if not proof.face]
    labels = [(i, x.name, x.gloss, x.bengali, x.romanised) for i, x in enumerate(contract.labels)]
    return _CARD.format(
        name=name,
        contract=contract,
        data="\n".join(_data_lines(provenance)),
        tensors=_table(("tensor", "type", "shape", ""), tensors),
        normalisation="Normalisation is inside the graph."
        if inside
        else "**There is no normalisation inside the graph: feed what the model was trained on.**",
        files=_table(
            (*_FILE_COLUMNS, *(f"in the face {face}" for face in faces)),
            ((*_file_cells(file), *(_face_cell(face, file, proofs) for face in faces)) for file in artefacts),
        ),
        proofs_title=PROOFS_TITLE,
        proofs=_table(PROOF_COLUMNS, (row.cells for row in proof_rows(engines, artefacts))),
        proof_sections="".join(map(_proof_section, proofs)),
        no_sign="\n".join(_no_sign_lines(abstention)),
        labels=_table(("", "label", "gloss", "Bengali", "romanised"), labels),
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(map(str, cells))} |".replace("|  |", "| |") for cells in (columns, *rows)]
    return "\n".join((lines[0], "|" + "---|" * len(columns), *lines[1:]))


def _data_lines(provenance: dict[str, Any]) -> list[str]:
    data = provenance.get("data")
    lines = [f"- {provenance.get('origin', 'not stated')}"]
    if data:
        if data.get("synthetic"):
            lines.append(
                "- **Trained on synthetic signing: nobody signed it, and its labels are words of no "
                "language. It shows that the tools work, and recognises no real sign.**"
            )
        lines.append(f"- data: {data['kind']}, sha256 `{data['sha256'][:16]}…`; split {data['split']}")
    else:
        lines.append("- data: not known to spoter-kit; no score is claimed")
    if scores := provenance.get("metrics", {}).get("val"):
        lines.append(
            f"- validation: top-1 {scores['top1']:.3f}, top-5 {scores['top5']:.3f}, macro F1 "
            f"{scores['macro_f1']:.3f} on {scores['clips']} clips of the split above; the best epoch was "
            "chosen by it, so a test split gives the honest figure: `spoter-kit eval`"
        )
    if versions := provenance.get("versions"):
        lines.append("- " + ", ".join(f"{package} {number}" for package, number in versions.items()))
    return lines


def _no_sign_lines(rule: Abstention | None) -> list[str]:
    """Return thresholds and evidence of a calibration; without one, that there is none."""
    if rule is None:
        return [f"Never: {NO_CALIBRATION}. It gives every clip a label, and its scores are no probabilities."]
    found = rule.evidence
    thresholds = (
        ("probability below", f"{rule.min_probability:.4f}"),
        ("margin to the second label below", f"{rule.min_margin:.4f}"),
        *(
            [("likeness to the label's clips below", f"{rule.min_likeness:.4f}")]
            if rule.typical_logits
            else []
        ),
        ("share of frames with a hand below", f"{rule.min_hand_share:.2f}"),
        *((f"the label is {name}", "") for name in rule.background),
    )
    kinds = [
        (
            kind["kind"],
            "recorded" if kind["recorded"] else "made from signs",
            *(kind["clips"], f"{kind['auroc']:.3f}", f"{kind['false_at_95']:.1%}"),
            f"{kind['false_answers']:.1%}",
        )
        for kind in found.get("kinds", ())
    ]
    columns = ("clips without a sign", "", "clips", "AUROC", "false answers at 95 % of signs kept")
    return [
        _table(("no sign, where", "threshold"), thresholds),
        "",
        f"Fitted on {found.get('signs', 0)} clips of signs ({found.get('clips', 'not stated')}) for at most "
        f"{rule.target:.0%} false answers, with temperature {rule.temperature:.4f}. Of these signs "
        f"{found.get('kept', 0):.1%} are kept. Calibration error in {found.get('bins')} bins: "
        f"{found.get('softmax_error', 0):.4f} before, {found.get('calibration_error', 0):.4f} after.",
        *(("", _table((*columns, "false answers by the thresholds"), kinds)) if kinds else ()),
    ]


def _file_cells(artefact: Artefact) -> tuple[str, ...]:
    """Return the table row of a file; an engine that was only built is marked as not executed."""
    built, executed = "exported", "ONNX Runtime, CPU: see the proof"
    if artefact.kind == "ort":
        built = "exported, then optimised by ONNX Runtime"
    if engine := artefact.engine:
        built, executed = f"{engine.library} {engine.version}, {engine.built['month']}", "**not executed**"
        if facts := engine.executed:
            executed = (
                f"{facts['gpu']}, {facts['month']}: {facts['labels_agree']} of {facts['clips']} goldens "
                f"agree, within {facts['max_logit_diff']:.1e}"
            )
    return (
        f"`{artefact.path}`",
        artefact.precision,
        f"{artefact.size_bytes / 1e6:.2f} MB",
        ", ".join(f"{what} {which}" for what, which in artefact.requires.items()),
        *(built, executed, f"`{artefact.sha256[:16]}…`"),
    )


def _face_cell(face: str, artefact: Artefact, proofs: Sequence[Proof]) -> str:
    """Return the verdict on a file in a face, with the largest difference to torch's logits."""
    proven = [proof for proof in proofs if (proof.face, proof.artefact) == (face, artefact.path)]
    if not proven:
        return NOT_EXECUTED
    (row,) = proof_rows(proven)
    return f"{row.verdict}: {row.largest}"


def _proof_section(proof: Proof) -> str:
    facts, policy = proof.facts, proof.policy
    allowed, moved = threshold(policy.max_logit_diff), threshold(policy.max_invariance_diff)
    ran = [point.max_logit_diff for point in facts.grid if point.max_logit_diff is not None]
    grid = f"{len(ran)} of {len(facts.grid)} grid points: batch × frames × full and ragged lengths"
    rows = [(grid, f"{max(ran):.1e}", allowed, "")]
    for clips in facts.clips:
        if clips.change is None:
            what, difference = f"{len(clips.clips)} clips ({clips.source})", f"{clips.max_logit_diff:.1e}"
            rows.append((what, difference, allowed, agreement_in_words(clips, proof.precision)))
    for fact in facts.invariance:
        what = f"{fact.change}, {fact.runner}, {fact.clips} clips"
        rows.append((what, f"{fact.max_logit_diff or 0:.1e}", moved, ""))
    section = (
        f"## Proof of `{proof.artefact}`: {facts.candidate} against {facts.reference}\n\n"
        f"{_table(('what was run', 'largest logit difference', 'allowed', ''), rows)}\n\n"
    )
    if robustness := robustness_rows(facts):
        section += (
            "What cameras and people do to a clip: share of right labels, of answers that stay, and how many "
            f"labels are those of {facts.reference}.\n\n"
            f"{_table(ROBUSTNESS_COLUMNS, (row.cells for row in robustness))}\n\n"
        )
    return section
