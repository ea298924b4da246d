"""add_trt8_files: add the ONNX files that TensorRT 8.6 builds from to a bundle, and prove them.

JetPack 6.0 has that version. It cannot read the bundle's own files, of opset 20, and the device has no onnx.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnx

from spoter_export.bundle.engines import replace_bundle
from spoter_export.bundle.files import bundle_lock
from spoter_export.parity.policy import policy_of
from spoter_export.parity.proof import ROUNDED, Proof, prove
from spoter_export.passes.opset17 import OPSET_OF_TENSORRT_8, opset_17
from spoter_export.precision.fp16 import check_fp16_range, fp16_from_fp32, rounded_from_fp16
from spoter_export.probes import generated_clips
from spoter_export.to_onnx import check_graph
from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.goldens import replay_goldens
from spoter_runtime.bundle.manifest import Artefact, Bundle, read_bundle
from spoter_runtime.errors import ConfigError, ExportError
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import pad_clips

TRT8: Final = "trt8"  # `Artefact.kind`


def add_trt8_files(
    folder: Path, *, precisions: Sequence[str] = ("fp32",), on_progress: OnProgress | None = None
) -> tuple[Proof, ...]:
    """Add an ONNX file of opset 17 in each precision to a bundle, all or none; replace those that it has.

    Each must pass the golden test and the comparison with the bundle's fp32 file over the whole grid.

    Args:
        folder: the bundle.
        precisions: fp32, fp16 or both.
        on_progress: called with (done, total, what).

    Raises:
        BundleError: no bundle, or a damaged one.
        ConfigError: a precision that is not for engines.
        ExportError: an operator has no form in opset 17, or the answers are wrong; nothing was added.
    """
    if other := [name for name in precisions if name not in ("fp32", "fp16")]:
        raise ConfigError(f"--trt8: TensorRT 8.6 gets no {other[0]} file", fix="--precision fp32,fp16")
    folder = Path(os.path.realpath(folder))  # as in `add_engines`
    read_bundle(folder)
    with bundle_lock(folder, on_progress):
        bundle = read_bundle(folder)
        bundle.check_files()
        content = bundle.read(bundle.onnx().path)
        reference = OrtRunner(content)
        fp32 = opset_17(onnx.load_from_string(content))
        added, proofs, files = [], [], {}
        for precision in dict.fromkeys(precisions):
            graph = fp32 if precision == "fp32" else in_fp16(fp32, bundle)
            check_graph(graph, bundle.contract, opset=OPSET_OF_TENSORRT_8)
            file: bytes = graph.SerializeToString(deterministic=True)
            artefact = artefact_of(file, precision)
            runner = runner_of(graph, file, precision)
            proof = prove(reference, runner, artefact, on_progress=on_progress)
            replay = replay_goldens(runner, bundle.goldens(), artefact)
            failures = [*proof.verdict.failures[:10], *([] if replay.passed else [str(replay)])]
            if failures:
                raise ExportError(
                    f"{artefact.path}: its answers are not the model's; it was not added:\n"
                    + "\n".join(failures)
                )
            added.append(artefact)
            proofs.append(proof)
            files[artefact.path] = file
        replace_bundle(bundle, added, proofs, files)
    return tuple(proofs)


def in_fp16(fp32: onnx.ModelProto, bundle: Bundle) -> onnx.ModelProto:
    """Return the graph in fp16; its range is checked on generated clips and on the goldens."""
    clips = [*generated_clips(bundle.contract, seed=0).clips, *bundle.goldens().clips()]
    check_fp16_range(fp32, (pad_clips([clip]) for clip in clips))
    return fp16_from_fp32(fp32)


def runner_of(graph: onnx.ModelProto, content: bytes, precision: str) -> OrtRunner:
    """Return the runner that proves a file, as `spoter_export.bundle.writer` proves its files."""
    if precision == "fp16":
        return OrtRunner(rounded_from_fp16(graph).SerializeToString(), name=ROUNDED)
    return OrtRunner(content)


def artefact_of(content: bytes, precision: str) -> Artefact:
    """Return the manifest entry of a file."""
    stem = "model" if precision == "fp32" else f"model.{precision}"
    return Artefact(
        path=f"{stem}.trt8.onnx",
        kind=TRT8,
        precision=precision,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        max_logit_diff=policy_of(precision).max_logit_diff,
        requires={"tensorrt": "8.6", "opset": str(OPSET_OF_TENSORRT_8)},
    )
