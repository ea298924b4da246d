"""lowered: an exported graph with less to do for the same answers, pass by pass.

Each pass says what it requires and what it ensures, is checked against the graph before it, and leaves alone
what does not look like what it requires: any module may be exported. What they are worth is measured by
`benchmarks/lowering.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from spoter_export.passes.attention import (
    absorb_single_query,
    absorb_single_query_into_one_operator,
    attend_in_one_operator,
    pack_projections,
)
from spoter_export.passes.gemm import add_in_gemm, rows_as_gemm
from spoter_export.passes.graph import Graph, node_of
from spoter_export.passes.reshape import constant_shapes, fold_feature_order
from spoter_export.probes import generated_clips
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import BackendError, ExportError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort.runner import OrtRunner, SessionSettings, write_optimised
from spoter_runtime.runner import Int32Array, pad_clips

Pass = Callable[[Graph], None]

# Of the logits' largest magnitude, between the graphs before and after a pass. Measured: 7e-7.
TOLERANCE: Final = 1e-5


def fold_constants(graph: Graph) -> None:
    """Compute here what depends on weights alone.

    Requires: a node all of whose inputs are constants.
    Ensures: none is left; engines need not do it whenever they load the file.
    """
    kept = []
    for node in graph.nodes:
        if node.input and all(name in graph.weights for name in node.input if name):
            values = {name: graph.weights[name] for name in node.input if name}
            results = ReferenceEvaluator(node).run(None, values)
            for name, result in zip(node.output, results, strict=True):
                graph.constant(name, np.asarray(result))
        else:
            kept.append(node)
    graph.replace_all(kept)


def fold_feature_weights(graph: Graph) -> None:
    """Multiply a factor a feature into the weights of the product behind it.

    Requires: Mul by a constant a feature, read by nothing but a MatMul with a weight.
    Ensures: that MatMul alone.
    """
    for node in list(graph.nodes):
        factors = graph.weights.get(node.input[1]) if node.op_type == "Mul" else None
        product = graph.only_reader(node.output[0])
        if factors is None or factors.ndim != 1 or product is None or product.op_type != "MatMul":
            continue
        weight = graph.weights.get(product.input[1])
        if weight is not None and weight.ndim == 2 and len(weight) == len(factors):
            weighed = graph.constant(f"{product.input[1]}_weighed", factors[:, None] * weight)
            graph.replace([node_of("MatMul", [node.input[0], weighed], product.output[0])])


# In this order.
_FOLDED: Final[tuple[Pass, ...]] = (
    fold_constants,
    fold_feature_weights,
    fold_feature_order,
    constant_shapes,
)
# What a file for any runtime gets before int8 is made of it, which takes MatMul, not Gemm.
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
        model: what `onnx_from_module` returns.
        passes: what is done, in this order.
        batches: poses and lengths on which each pass has to give the logits of the graph before it.

    Raises:
        ExportError: what a pass made is not valid ONNX, or gives other logits; the pass is named.
    """
    for apply in passes:
        graph = Graph(model)
        apply(graph)
        graph.replace_all(graph.nodes)
        _check_pass(apply.__name__, model, graph.model, batches)
        model = graph.model
    return model


def telling_batches(contract: GraphContract) -> list[tuple[Float32Array, Int32Array]]:
    """Return generated clips to check the passes on: several, one alone, and one with padding."""
    clips = sorted(generated_clips(contract, seed=0).clips, key=len, reverse=True)
    several = pad_clips(clips[: contract.max_batch], fill=np.nan)
    poses_1TD, lengths_1 = pad_clips([clips[0]])
    # Padded even where a batch holds one clip: half of the longest one is all that is real.
    half_1 = np.maximum(lengths_1 // 2, 1)
    padded_1TD = poses_1TD.copy()
    padded_1TD[:, half_1[0] :] = np.nan
    return [several, (poses_1TD, lengths_1), (padded_1TD, half_1)]


def _check_pass(
    name: str,
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    batches: Sequence[tuple[Float32Array, Int32Array]],
) -> None:
    try:
        onnx.checker.check_model(after, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{name}: the graph that it made is not valid ONNX: {error}") from error
    if not batches or before.graph == after.graph:
        return
    try:
        runners = [OrtRunner(graph.SerializeToString()) for graph in (before, after)]
        answers = [[runner.infer(*batch) for runner in runners] for batch in batches]
    except BackendError as error:
        raise ExportError(f"{name}: the graph that it made cannot be run: {error}") from error
    for (poses_NTD, _), (expected, got) in zip(batches, answers, strict=True):
        difference = float(np.abs(got - expected).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise ExportError(
                f"{name}: the graph that it made gives other logits, by {difference:.1e} on poses "
                f"{poses_NTD.shape}",
                fix="report it; the module is not what the pass took it for",
            )
