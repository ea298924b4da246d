"""Write a bundle: export, prove, and only then put everything in its place, atomically."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

from spoter_export.model_card import card_from_facts
from spoter_export.parity import (
    OnProgress,
    ParityFacts,
    Policy,
    Verdict,
    generated_clips,
    judge,
    run_parity,
    spread_by_length,
)
from spoter_export.to_onnx import OPSET, onnx_from_module
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.bundle import (
    GOLDENS,
    MANIFEST,
    MODEL_CARD,
    PARITY,
    Artefact,
    Bundle,
    Goldens,
    manifest_from_bundle,
    read_bundle,
)
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import ExportError
from spoter_runtime.files import is_replaceable, replacing, sha256_of, write_json, write_text
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort import OrtRunner
from spoter_runtime.runner import Runner, pad_clips

MODEL: Final = "model.onnx"
_GOLDEN_CLIPS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofClips:
    """Clips to prove the export on, and to keep as goldens.

    Attributes:
        clips: (frames, 54, 2) each; may be empty: generated ones are always used too.
        source: where they come from, as the reports shall say it.
        keep: whether some of them may travel in the bundle as goldens. Landmarks of people are personal.
    """

    clips: Sequence[Float32Array] = ()
    source: str = ""
    keep: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A bundle that was written, with the facts of its proof."""

    bundle: Bundle
    facts: ParityFacts
    verdict: Verdict


def export_bundle(
    module: nn.Module,
    contract: GraphContract,
    folder: Path,
    *,
    provenance: dict[str, Any],
    proof: ProofClips,
    policy: Policy | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Export a module to ONNX, run the file over its whole grid, and write a bundle.

    Args:
        module: ``forward(poses, lengths) -> logits`` as the contract says.
        contract: what the bundle claims, and what is proven.
        folder: ``<name>.spoter``; an existing one is only replaced with `force`.
        provenance: where the weights come from; plain JSON values, shown in the model card.
        proof: clips to compare on.
        policy: thresholds; None for those of fp32.
        force: replace an existing bundle.
        on_progress: called with (done, total, what).

    Raises:
        ExportError: `folder` exists, the graph is not what the contract says, or parity fails; nothing is
            written then.
        OSError: the disk is full or read-only; nothing is left behind.
    """
    if not is_replaceable(folder, MANIFEST):
        raise ExportError(f"{folder}: exists already and is no bundle. Fix: choose another -o")
    if (folder / MANIFEST).exists() and not force:
        raise ExportError(f"{folder}: exists already. Fix: choose another -o, or replace it with --force")
    policy = policy or Policy()
    # The folder first: a place that cannot be written to is better found before the proof than after it.
    with replacing(folder) as temporary:
        temporary.mkdir()
        if on_progress:
            on_progress(0, 0, "exporting to ONNX")
        model = onnx_from_module(module, contract).SerializeToString(deterministic=True)
        reference, candidate = TorchRunner(module, contract), OrtRunner(model)
        facts = run_parity(reference, candidate, proof.clips, source=proof.source, on_progress=on_progress)
        verdict = judge(facts, policy)
        if not verdict.passed:
            shown = "\n".join(f"  {failure}" for failure in verdict.failures[:10])
            raise ExportError(
                "the exported file is not the model it came from; nothing was written. "
                f"{len(verdict.failures)} checks failed:\n{shown}"
            )
        (temporary / MODEL).write_bytes(model)
        (temporary / GOLDENS).write_bytes(_npz(goldens_from(reference, proof)))
        digest = hashlib.sha256(model).hexdigest()
        write_json(temporary / PARITY, parity_json(facts, policy, verdict, digest))
        artefact = Artefact(
            path=MODEL,
            kind="onnx",
            precision="fp32",
            sha256=digest,
            size_bytes=len(model),
            max_logit_diff=policy.max_logit_diff,
            requires={"onnxruntime": ">=1.20", "opset": str(OPSET)},
        )
        card = card_from_facts(folder.stem, contract, (artefact,), facts, policy, provenance)
        write_text(temporary / MODEL_CARD, card)
        bundle = Bundle(
            folder=temporary,
            name=folder.stem,
            contract=contract,
            artefacts=(artefact,),
            files={name: sha256_of(temporary / name) for name in (GOLDENS, PARITY, MODEL_CARD)},
            provenance=provenance,
        )
        write_json(temporary / MANIFEST, manifest_from_bundle(bundle))
    return Exported(bundle=read_bundle(folder), facts=facts, verdict=verdict)


def parity_json(facts: ParityFacts, policy: Policy, verdict: Verdict, model_sha256: str) -> dict[str, Any]:
    """Return what parity.json holds: which file was run, the facts, and one judgement of them."""
    return {
        "schema_version": 1,
        "model_sha256": model_sha256,
        "facts": facts.as_json(),
        "policy": asdict(policy),
        "passed": verdict.passed,
        "failures": list(verdict.failures),
    }


def goldens_from(reference: Runner, proof: ProofClips) -> Goldens:
    """Return clips of many lengths with the reference's logits, each computed alone and without padding."""
    real = spread_by_length(proof.clips, _GOLDEN_CLIPS) if proof.keep else []
    clips = real + generated_clips(reference.contract, seed=0)
    poses, lengths = pad_clips(clips)
    logits = np.concatenate([reference.infer(*pad_clips([clip])) for clip in clips])
    return Goldens(poses_NTD=poses, lengths_N=lengths, logits_NC=logits)


def _npz(goldens: Goldens) -> bytes:
    buffer = BytesIO()  # numpy stamps every entry with 1980, so equal goldens make equal bytes
    np.savez_compressed(buffer, poses=goldens.poses_NTD, lengths=goldens.lengths_N, logits=goldens.logits_NC)
    return buffer.getvalue()
