"""Write a bundle: export, prove, then move it into place atomically."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from torch import nn

from spoter_export.bundle.files import bundle_lock, check_bundle_folder, describe_bundle
from spoter_export.parity.compare import Remembering, infer_batches
from spoter_export.parity.policy import policy_of
from spoter_export.parity.proof import ROUNDED, Proof, one_of, prove
from spoter_export.passes.attention import OPSET_OF_ATTENTION, ORT_WITH_ATTENTION
from spoter_export.passes.pipeline import lowered, optimised_by_onnxruntime, passes_for
from spoter_export.precision.fp16 import check_fp16_range, fp16_from_fp32, rounded_from_fp16
from spoter_export.precision.int8 import int8_from_fp32, weight_facts
from spoter_export.probes import ClipSet, generated_clips, probe_batches, spread_by_length
from spoter_export.to_onnx import OPSET, ORT_DOMAIN, check_graph, onnx_from_module, opset_of
from spoter_export.torch_runner import TorchRunner
from spoter_runtime._types import OnProgress
from spoter_runtime.backends import session_for
from spoter_runtime.bundle.manifest import GOLDENS, Artefact, Bundle, Goldens, read_bundle
from spoter_runtime.camera.files import BUNDLED, LandmarkerFiles, copy_landmarker
from spoter_runtime.contract import REQUIRES_KEY, GraphContract
from spoter_runtime.decision import Abstention
from spoter_runtime.errors import ExportError
from spoter_runtime.files import replacing, write_text
from spoter_runtime.ort.execution import FUSED
from spoter_runtime.ort.installed import import_onnxruntime, is_older
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.ort.session import SessionSettings
from spoter_runtime.runner import Runner, pad_clips

_GOLDEN_CLIPS: Final = 16

# kind → `Artefact.requires`
_REQUIRES: Final = {
    "onnx": {"onnxruntime": ">=1.20", "opset": str(OPSET)},
    "ort": {"onnxruntime": f">={ORT_WITH_ATTENTION}", "opset": str(OPSET_OF_ATTENTION)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A written bundle with the proofs of its files."""

    bundle: Bundle
    proofs: tuple[Proof, ...]


def export_bundle(
    module: nn.Module,
    contract: GraphContract,
    folder: Path,
    *,
    provenance: dict[str, Any],
    clips: ClipSet | None = None,
    keep_goldens: bool = True,
    precisions: Sequence[str] = ("fp32",),
    landmarker: LandmarkerFiles | None = None,
    abstention: Abstention | None = None,
    stream_files: Callable[[Goldens, Runner], dict[str, str]] | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Export a module to ONNX, prove every file over the shape grid, and write a bundle.

    Args:
        module: ``forward(poses, lengths) -> logits``, as the contract says.
        contract: the shapes and labels that the bundle claims, and that are proven.
        folder: ``<name>.spoter``; an existing one is only replaced with `force`.
        provenance: source of the weights; plain JSON values, shown in the model card.
        clips: clips of people to compare on, besides generated ones.
        keep_goldens: whether some of `clips` may travel in the bundle. Landmarks of people are personal data.
        precisions: precisions of the files; fp32 is always included, because the others are made from it.
        landmarker: put into the bundle, which then goes from a video to a label by itself; None: none.
        abstention: when the model says that a clip shows no sign; None: the bundle says that it cannot tell.
        stream_files: makes file name → content of the golden stream, from the goldens and the reference.
        force: replace an existing bundle.
        on_progress: called with (done, total, what).

    Raises:
        ExportError: `folder` exists, the graph does not match the contract, a precision would change nothing,
            or parity fails; nothing is written.
        ConfigError: an unknown precision.
        OSError: the disk is full or read-only; nothing is left behind.
    """
    check_bundle_folder(folder, force=force)
    precisions = list(dict.fromkeys(("fp32", *precisions)))
    for precision in precisions:
        policy_of(precision)
    reference = Remembering(TorchRunner(module, contract))
    artefacts, proofs = [], []
    # Create the folder first: find a read-only place before the proof, not after it.
    with bundle_lock(folder, on_progress), replacing(folder) as temporary:
        temporary.mkdir()
        if on_progress:
            on_progress(0, 0, "exporting to ONNX")
        fp32_of: dict[str, onnx.ModelProto] = {}  # kind → fp32 graph
        graphs = list(graphs_of(module, contract, precisions, clips))
        for number, (kind, precision, graph) in enumerate(graphs):
            fp32 = fp32_of.setdefault(kind, graph)
            content: bytes = graph.SerializeToString(deterministic=True)
            artefact = artefact_of(content, kind, precision)
            weights = weight_facts(graph, fp32) if precision == "int8" else ()
            sets, candidate = [clips] if clips else [], runner_of(graph, content, artefact)
            proof = prove(
                reference,
                candidate,
                artefact,
                sets,
                weights=weights,
                on_progress=one_of(on_progress, number, len(graphs)),
            )
            check_proven(proof)
            artefacts.append(artefact)
            proofs.append(proof)
            (temporary / artefact.path).write_bytes(content)
        goldens = goldens_from(reference, clips if keep_goldens else None)
        # numpy dates every entry 1980, so equal goldens give equal bytes.
        arrays = {"poses": goldens.poses_NTD, "lengths": goldens.lengths_N, "logits": goldens.logits_NC}
        np.savez_compressed(temporary / GOLDENS, allow_pickle=False, **arrays)
        for name, text in (stream_files(goldens, reference) if stream_files else {}).items():
            write_text(temporary / name, text)
        if landmarker:
            copy_landmarker(landmarker, temporary / BUNDLED)
        describe_bundle(
            temporary,
            name=folder.stem,
            contract=contract,
            artefacts=artefacts,
            proofs=proofs,
            provenance=provenance,
            abstention=abstention,
        )
    return Exported(bundle=read_bundle(folder), proofs=tuple(proofs))


def graphs_of(
    module: nn.Module, contract: GraphContract, precisions: Sequence[str], clips: ClipSet | None
) -> Iterator[tuple[str, str, onnx.ModelProto]]:
    """Yield (kind, precision, graph) of each file that a bundle gets.

    Kind ``"ort"`` is made if attention can become one operator that this ONNX Runtime runs; never in fp16,
    because a CPU computes fp16 in fp32.

    Raises:
        ExportError: a weight, or a value on some clip, is beyond fp16's range (the message names it), or a
            precision would change nothing in this graph.
    """
    exported = onnx_from_module(module, contract)
    batches = probe_batches(contract)
    kinds = ("onnx", "ort") if runs_attention() else ("onnx",)
    after = functools.cache(lambda passes: lowered(exported, passes, batches=batches))  # fp16's are fp32's
    for precision in precisions:
        for kind in kinds if precision != "fp16" else kinds[:1]:
            graph = after(passes_for(kind, precision))
            if kind == "ort" and opset_of(graph) == OPSET:
                continue
            if precision == "int8":
                graph = int8_from_fp32(graph)
            elif precision == "fp16":
                looked_at = [*(clips.clips if clips else ()), *generated_clips(contract, seed=0).clips]
                check_fp16_range(graph, (pad_clips([clip]) for clip in looked_at))
                graph = fp16_from_fp32(graph)
            if kind == "ort":
                graph = optimised_by_onnxruntime(graph)
                # Also in the file's metadata: without the bundle, an older ONNX Runtime would run it wrongly.
                graph.metadata_props.add(key=REQUIRES_KEY, value=_REQUIRES[kind]["onnxruntime"])
                check_graph(graph, contract, opset=OPSET_OF_ATTENTION, domains=(ORT_DOMAIN,))
            else:
                check_graph(graph, contract)
            yield kind, precision, graph


def runs_attention() -> bool:
    """Return True if this ONNX Runtime runs the operator Attention correctly; warn if not."""
    version = import_onnxruntime().__version__
    if not is_older(version, ORT_WITH_ATTENTION):
        return True
    problem = ExportError(
        f"onnxruntime {version} is older than {ORT_WITH_ATTENTION}: no model.ort.onnx is made, which would "
        "be faster on a CPU",
        fix=f"pip install 'onnxruntime>={ORT_WITH_ATTENTION}', then export again",
    )
    warnings.warn(str(problem), stacklevel=2)
    return False


def artefact_of(content: bytes, kind: str, precision: str) -> Artefact:
    """Return the manifest entry of an ONNX file with these bytes."""
    stem = "model" if precision == "fp32" else f"model.{precision}"
    return Artefact(
        path=f"{stem}.ort.onnx" if kind == "ort" else f"{stem}.onnx",
        kind=kind,
        precision=precision,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        max_logit_diff=policy_of(precision).max_logit_diff,
        requires=dict(_REQUIRES[kind]),
    )


def runner_of(graph: onnx.ModelProto, content: bytes, artefact: Artefact) -> Runner:
    """Return the runner that proves a file; `content` is the graph's bytes."""
    if artefact.precision == "fp16":  # otherwise the CPU provider keeps most tensors in fp32
        return OrtRunner(rounded_from_fp16(graph).SerializeToString(), name=ROUNDED)
    name = FUSED if artefact.kind == "ort" else None
    return OrtRunner(content, settings=session_for(artefact.kind, SessionSettings()), name=name)


def check_proven(proof: Proof) -> None:
    """Raise an ExportError with the first failures if a proof failed."""
    if failures := proof.verdict.failures:
        shown = "\n".join(f"  {failure}" for failure in failures[:10])
        raise ExportError(
            f"{proof.artefact} in {proof.precision} is not the model it came from; nothing was written. "
            f"{len(failures)} checks failed:\n{shown}"
        )


def goldens_from(reference: Runner, clips: ClipSet | None = None) -> Goldens:
    """Return clips of many lengths with the reference's logits, computed one by one without padding."""
    real = [clips.clips[i] for i in spread_by_length(clips.clips, _GOLDEN_CLIPS)] if clips else []
    kept = [*real, *generated_clips(reference.contract, seed=0).clips]
    poses, lengths = pad_clips(kept)
    return Goldens(poses_NTD=poses, lengths_N=lengths, logits_NC=infer_batches(reference, kept))
