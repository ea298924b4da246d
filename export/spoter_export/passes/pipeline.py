"""lowered: apply passes that make an exported graph faster without changing its answers.

Each pass states what it requires and ensures, and its graph is checked against the graph before. Nodes that
do not meet the requirement stay as they are, so any module may be exported. `benchmarks/lowering.py` measures
the passes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from spoter_export.passes.attention import (
    absorb_single_query,
    absorb_single_query_into_one_operator,
    attend_in_one_operator,
    pack_projections,
)
from spoter_export.passes.folding import fold_constants, fold_feature_order, fold_feature_weights
from spoter_export.passes.gemm import add_in_gemm, rows_as_gemm
from spoter_export.passes.graph import check_valid, proto_from_ir
from spoter_export.passes.reshape import constant_shapes
from spoter_runtime.errors import BackendError, ExportError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.ort.session import SessionSettings, write_optimised
from spoter_runtime.runner import Int32Array

Pass = Callable[[ir.Model], None]

# Largest difference of logits before and after a pass, as a share of their largest magnitude. Measured: 7e-7.
TOLERANCE: Final = 1e-5

# In this order.
_FOLDED: Final[tuple[Pass, ...]] = (
    fold_constants,
    fold_feature_weights,
    fold_feature_order,
    constant_shapes,
)
# For any runtime, and before int8, whose quantiser takes MatMul, not Gemm.
SIMPLER: Final[tuple[Pass, ...]] = (*_FOLDED, absorb_single_query, pack_projections)
# For any runtime: standard operators of opset 20.
PORTABLE: Final[tuple[Pass, ...]] = (*SIMPLER, rows_as_gemm, add_in_gemm)
# For ONNX Runtime: the operator Attention, from opset 24.
SIMPLER_FOR_ORT: Final[tuple[Pass, ...]] = (
    *_FOLDED,
    attend_in_one_operator,
    absorb_single_query_into_one_operator,
    pack_projections,
)
FOR_ORT: Final[tuple[Pass, ...]] = (*SIMPLER_FOR_ORT, rows_as_gemm, add_in_gemm)


def passes_for(kind: str, precision: str) -> tuple[Pass, ...]:
    """Return the passes for a file of a kind (`Artefact.kind`), to apply before changing the precision."""
    if kind == "ort":
        return SIMPLER_FOR_ORT if precision == "int8" else FOR_ORT
    return SIMPLER if precision == "int8" else PORTABLE


def optimised_by_onnxruntime(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph after ONNX Runtime's optimisers, except those that depend on the processor.

    A session then loads in 20 ms instead of 52 (AMD EPYC, ONNX Runtime 1.32).

    Raises:
        BackendError: ONNX Runtime cannot load it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        write_optimised(model.SerializeToString(), SessionSettings(threads=1), path, any_cpu=True)
        optimised = onnx.load(path)
    used = {node.domain for node in optimised.graph.node} | {""}
    for entry in [entry for entry in optimised.opset_import if entry.domain not in used]:
        optimised.opset_import.remove(entry)  # ONNX Runtime imports every domain that it knows
    return optimised


def lowered(
    model: onnx.ModelProto,
    passes: Sequence[Pass] = PORTABLE,
    *,
    batches: Sequence[tuple[Float32Array, Int32Array]] = (),
) -> onnx.ModelProto:
    """Return a copy of the graph after some passes.

    Args:
        model: from `onnx_from_module`.
        passes: passes in the order of application.
        batches: poses and lengths to check each pass with: the logits must stay the same.

    Raises:
        ExportError: a pass gave an invalid graph or other logits; the pass is named.
    """
    edited = ir.from_proto(model)
    answers: list[Float32Array] = []  # logits of the current graph
    for apply in passes:
        apply(edited)
        after = proto_from_ir(edited)
        check_valid(after, f"{apply.__name__}: the graph that it made is not valid ONNX")
        if batches and after.graph != model.graph:
            before = answers or logits_of(model, batches)
            answers = same_answers(apply.__name__, after, batches, before)
        model = after
    return model


def same_answers(
    name: str,
    model: onnx.ModelProto,
    batches: Sequence[tuple[Float32Array, Int32Array]],
    before: Sequence[Float32Array],
) -> list[Float32Array]:
    """Check a pass by its logits, and return them.

    Raises:
        ExportError: the logits differ from those before, or the graph cannot be run; the pass is named.
    """
    try:
        answers = logits_of(model, batches)
    except BackendError as error:
        raise ExportError(f"{name}: the graph that it made cannot be run: {error}") from error
    for expected_NC, got_NC, (poses_NTD, _) in zip(before, answers, batches, strict=True):
        difference = float(np.abs(got_NC - expected_NC).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected_NC).max())):
            raise ExportError(
                f"{name}: the graph that it made gives other logits, by {difference:.1e} on poses "
                f"{poses_NTD.shape}",
                fix="report it; the module is not what the pass took it for",
            )
    return answers


def logits_of(
    model: onnx.ModelProto, batches: Sequence[tuple[Float32Array, Int32Array]]
) -> list[Float32Array]:
    """Return ONNX Runtime's logits for each batch."""
    runner = OrtRunner(model.SerializeToString())
    return [runner.infer(*batch) for batch in batches]
