"""The bundle's MODEL_CARD.md, written from facts alone: what was not measured is not claimed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spoter_export.parity.proof import Proof
from spoter_export.parity.report import (
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
from spoter_runtime.landmarks import NUM_FEATURES


def card_from_facts(
    name: str,
    contract: GraphContract,
    artefacts: Sequence[Artefact],
    proofs: Sequence[Proof],
    provenance: dict[str, Any],
) -> str:
    """Return the model card as Markdown."""
    return "\n".join(
        (
            f"# {name}",
            "",
            "A recogniser of isolated signs from body and hand landmarks, exported by spoter-kit.",
            "",
            *_data_section(provenance),
            *_use_section(name),
            *_contract_section(contract, provenance),
            *_artefact_section(artefacts),
            *_matrix_section(proofs, artefacts),
            *(line for proof in proofs for line in _proof_section(proof)),
            *_label_section(contract),
        )
    )


def _data_section(provenance: dict[str, Any]) -> list[str]:
    data = provenance.get("data")
    lines = ["## Where the weights come from", ""]
    lines.append(f"- {provenance.get('origin', 'not stated')}")
    if data:
        if data.get("synthetic"):
            lines.append(
                "- **Trained on synthetic signing: nobody signed it, and its labels are words of no "
                "language. It shows that the tools work, and recognises no real sign.**"
            )
        lines.append(f"- data: {data['kind']}, sha256 `{data['sha256'][:16]}…`; split {data['split']}")
    else:
        lines.append("- data: not known to spoter-kit; no score is claimed")
    scores = provenance.get("metrics", {}).get("val")
    if scores:
        lines.append(
            f"- validation: top-1 {scores['top1']:.3f}, top-5 {scores['top5']:.3f}, macro F1 "
            f"{scores['macro_f1']:.3f} on {scores['clips']} clips of the split above; the best epoch was "
            "chosen by it, so a test split gives the honest figure: `spoter-kit eval`"
        )
    if versions := provenance.get("versions"):
        lines.append("- " + ", ".join(f"{package} {number}" for package, number in versions.items()))
    return [*lines, ""]


def _use_section(name: str) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "from spoter_runtime import Recognizer  # pip install 'spoter-kit[cpu]'",
        f'recognizer = Recognizer.load("{name}.spoter")',
        "prediction = recognizer.predict(landmarks)  # (frames, 54, 2), NaN where not detected",
        "```",
        "",
        f"Replay the proof on your device: `python -m spoter_runtime verify {name}.spoter`",
        "",
    ]


def _contract_section(contract: GraphContract, provenance: dict[str, Any]) -> list[str]:
    config = provenance.get("run", {}).get("config", {})
    inside = config.get("normalize", "none") != "none"
    poses = "raw landmarks" if inside else "landmarks, normalised as in training,"
    return [
        "## Contract",
        "",
        "| tensor | type | shape | |",
        "|---|---|---|---|",
        f"| `poses` | float32 | batch × frames × {NUM_FEATURES} | {poses} x0 y0 x1 y1 …; "
        "NaN or (0, 0) = not detected |",
        "| `lengths` | int32 | batch | real frames of each clip; the rest is padding and is ignored |",
        f"| `logits` | float32 | batch × {contract.num_classes} | unnormalised scores |",
        "",
        f"1 ≤ lengths ≤ frames ≤ {contract.max_frames}; 1 ≤ batch ≤ {contract.max_batch}. "
        + (
            "Normalisation is inside the graph."
            if inside
            else "**There is no normalisation inside the graph: feed what the model was trained on.**"
        ),
        "",
    ]


def _artefact_section(artefacts: Sequence[Artefact]) -> list[str]:
    rows = [
        f"| `{a.path}` | {a.precision} | {a.size_bytes / 1e6:.2f} MB | "
        + ", ".join(f"{what} {which}" for what, which in a.requires.items())
        + f" | {_built(a)} | {_executed(a)} | `{a.sha256[:16]}…` |"
        for a in artefacts
    ]
    return [
        "## Files",
        "",
        "| file | precision | size | needs | built | executed | sha256 |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _built(artefact: Artefact) -> str:
    if artefact.kind == "ort":
        return "exported, then optimised by ONNX Runtime"
    if artefact.engine is None:
        return "exported"
    return f"{artefact.engine.library} {artefact.engine.version}, {artefact.engine.built['month']}"


def _executed(artefact: Artefact) -> str:
    """Say where a file was run: an engine that was built has not been executed by that."""
    if artefact.engine is None:
        return "ONNX Runtime, CPU: see the proof"
    if (executed := artefact.engine.executed) is None:
        return "**not executed**"
    return (
        f"{executed['gpu']}, {executed['month']}: {executed['labels_agree']} of {executed['clips']} goldens "
        f"agree, within {executed['max_logit_diff']:.1e}"
    )


def _matrix_section(proofs: Sequence[Proof], artefacts: Sequence[Artefact]) -> list[str]:
    cells = [row.cells for row in proof_rows(proofs, artefacts)]
    rows = (_table_line(cells) for cells in (PROOF_COLUMNS, ["---"] * len(PROOF_COLUMNS), *cells))
    return [f"## {PROOFS_TITLE}", "", *rows, ""]


def _proof_section(proof: Proof) -> list[str]:
    facts, policy = proof.facts, proof.policy
    run = [point for point in facts.grid if point.max_logit_diff is not None]
    worst = max(point.max_logit_diff or 0.0 for point in run)
    rows = [
        f"| {len(run)} of {len(facts.grid)} grid points: batch × frames × full and ragged lengths "
        f"| {worst:.1e} | {threshold(policy.max_logit_diff)} | |"
    ]
    rows += [
        f"| {len(clips.clips)} clips ({clips.source}) | {clips.max_logit_diff:.1e} | "
        f"{threshold(policy.max_logit_diff)} | {agreement_in_words(clips, proof.precision)} |"
        for clips in facts.clips
        if clips.change is None
    ]
    rows += [
        f"| {fact.change}, {fact.runner}, {fact.clips} clips | {fact.max_logit_diff or 0:.1e} | "
        f"{threshold(policy.max_invariance_diff)} | |"
        for fact in facts.invariance
    ]
    return [
        f"## Proof of `{proof.artefact}`: {facts.candidate} against {facts.reference}",
        "",
        "| what was run | largest logit difference | allowed | |",
        "|---|---|---|---|",
        *rows,
        "",
        *_robustness_lines(proof),
    ]


def _robustness_lines(proof: Proof) -> list[str]:
    rows = robustness_rows(proof.facts)
    if not rows:
        return []
    return [
        "What cameras and people do to a clip: share of right labels, of answers that stay, and how many "
        f"labels are those of {proof.facts.reference}.",
        "",
        _table_line(ROBUSTNESS_COLUMNS),
        _table_line(["---"] * len(ROBUSTNESS_COLUMNS)),
        *(_table_line(row.cells) for row in rows),
        "",
    ]


def _table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _label_section(contract: GraphContract) -> list[str]:
    rows = [
        f"| {i} | {label.name} | {label.gloss} | {label.bengali} | {label.romanised} |"
        for i, label in enumerate(contract.labels)
    ]
    return ["## Labels", "", "| | label | gloss | Bengali | romanised |", "|---|---|---|---|---|", *rows, ""]
