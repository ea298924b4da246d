"""lowered: an exported graph with less to do for the same answers, pass by pass.

Each pass states its requirement and its result, is checked against the graph before it, and leaves nodes
alone that do not meet the requirement: any module may be exported. `benchmarks/lowering.py` measures them.
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

# Of the logits' largest magnitude, between the graphs before and after a pass. Measured: 7e-7.
TOLERANCE: Final = 1e-5

# In this order.
_FOLDED: Final[tuple[Pass, ...]] = (
    fold_constants,
    fold_feature_weights,
    fold_feature_order,
    constant_shapes,
)
# For any runtime, before int8: its quantiser takes MatMul, not Gemm.
SIMPLER: Final[tuple[Pass, ...]] = (*_FOLDED, absorb_single_query, pack_projections)
# For any runtime: standard operators, of an opset that all of them know.
PORTABLE: Final[tuple[Pass, ...]] = (*SIMPLER, rows_as_gemm, add_in_gemm)
# For ONNX Runtime: one operator for the middle of each attention, from a newer opset.
SIMPLER_FOR_ORT: Final[tuple[Pass, ...]] = (
    *_FOLDED,
    attend_in_one_operator,
    absorb_single_query_into_one_operator,
    pack_projections,
)
FOR_ORT: Final[tuple[Pass, ...]] = (*SIMPLER_FOR_ORT, rows_as_gemm, add_in_gemm)


def passes_for(kind: str, precision: str) -> tuple[Pass, ...]:
    """Return the passes that come before the precision for a bundle's file of a kind, `Artefact.kind`."""
    if kind == "ort":
        return SIMPLER_FOR_ORT if precision == "int8" else FOR_ORT
    return SIMPLER if precision == "int8" else PORTABLE


def optimised_by_onnxruntime(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph as ONNX Runtime's optimisers leave it, without those that depend on the processor.

    A session that need not run them again loads in 20 ms instead of 52 (AMD EPYC, ONNX Runtime 1.32).

    Raises:
        BackendError: ONNX Runtime cannot load it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        write_optimised(model.SerializeToString(), SessionSettings(threads=1), path, any_cpu=True)
        optimised = onnx.load(path)
    used = {node.domain for node in optimised.graph.node} | {""}
    for entry in [entry for entry in optimised.opset_import if entry.domain not in used]:
        optimised.opset_import.remove(entry)  # ONNX Runtime names every domain that it knows
    return optimised


def lowered(
    model: onnx.ModelProto,
    passes: Sequence[Pass] = PORTABLE,
    *,
    batches: Sequence[tuple[Float32Array, Int32Array]] = (),
) -> onnx.ModelProto:
    """Return the graph after some passes; the one that was given is left as it is.

    Args:
        model: from `onnx_from_module`.
        passes: to apply, in this order.
        batches: poses and lengths on which each pass has to give the logits of the graph before it.

    Raises:
        ExportError: the graph after a pass is not valid ONNX, or gives other logits; the pass is named.
    """
    edited = ir.from_proto(model)
    answers: list[Float32Array] = []  # of the graph as it is
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
    """Return the logits of the graph that a pass made, if they are those of the graph before it.

    Raises:
        ExportError: they are not, or the graph cannot be run; the pass is named.
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
