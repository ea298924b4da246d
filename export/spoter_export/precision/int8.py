"""int8_from_fp32: quantise the large products of an ONNX graph to int8, for CPUs.

Dynamic quantisation: weights are rounded at export, activations while the model runs, each tensor to 256
steps between its least and largest value, by standard operators. `onnxruntime.quantization` rewrites the
graph; this module chooses the products and the range of the weights. Measured in
benchmarks/results/int8-amd-epyc-2026-11.md:

- Weights stay within -64..64. A CPU without VNNI adds two products of a byte and a signed byte in 16 bits and
  saturates: with weights up to 127 its answers are wrong. Up to 64 nothing saturates, and every CPU computes
  the same integer sums; only a float sum in another order may still round a value to the neighbouring step.
- Only products after a LayerNormalization, which bounds every row. One scale serves a whole tensor, with its
  padding and all clips of a batch: without the bound, a clip far outside of the picture would coarsen the
  steps of the others. Quantising the projection of the landmarks alone would make most of the error.
- A scale for each row would make padding harmless, but in standard operators it costs all that int8 gains.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from spoter_export.parity.facts import WeightFact
from spoter_runtime.contract import POSES
from spoter_runtime.errors import ExportError
from spoter_runtime.ort.installed import import_onnxruntime

# A sum of two products of a byte and a weight fits 16 bits: 2 x 255 x 64 = 32,640.
EXACT_WEIGHT: Final = 64
_FAR: Final = 1e9  # stands for infinitely many steps, because JSON has no infinity

# Operators whose output is bounded for any input.
_BOUNDS: Final = frozenset(
    {
        *("LayerNormalization", "Sigmoid", "Softmax", "Tanh", "Shape"),
        *("Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual"),
    }
)

# Metadata that tells the quantiser that shapes are inferred, to avoid its warning.
_PREPARED: Final = ("onnx.quant.pre_process", "onnxruntime.quant")


def int8_from_fp32(model: onnx.ModelProto, *, keep_fp32: Collection[str] = ()) -> onnx.ModelProto:
    """Return the graph with its products after a LayerNormalization in int8.

    Products are MatMuls with a weight: linear layers on every frame. Layers on one row per clip, which torch
    exports as Gemm, stay fp32: they take no time.

    Args:
        model: from `onnx_from_module`; not modified.
        keep_fp32: names of nodes to keep in fp32 too.

    Returns:
        A model of standard operators with the same inputs, outputs and metadata; the products' weights are
        int8 with one scale per column. Equal models give equal bytes.

    Raises:
        ExportError: there is no such product, `keep_fp32` names an unknown node, or the quantiser fails.
        MissingExtraError: ONNX Runtime is not installed.
    """
    unknown = set(keep_fp32) - {node.name for node in model.graph.node}
    if unknown:
        raise ExportError(f"keep_fp32: no node of the graph is called {sorted(unknown)[0]!r}")
    products = [node.name for node in bounded_products(model.graph) if node.name not in keep_fp32]
    if not products:
        raise ExportError(
            "no product with a weight comes behind a LayerNormalization: int8 has nothing to do here",
            fix="stay with --precision fp32",
        )
    quantised = quantised_by_onnxruntime(model, products)
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)  # a copy, because the quantiser adds metadata
    lowered.graph.CopyFrom(quantised.graph)
    lowered.graph.name = model.graph.name
    del lowered.graph.value_info[:]  # engines infer shapes; stale ones only mislead
    check_exact(lowered)
    return lowered


def bounded_products(graph: onnx.GraphProto) -> list[NodeProto]:
    """Return each MatMul with a weight whose input is bounded by a LayerNormalization or the like."""
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    unbounded = {POSES}
    products = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and node.input[0] not in unbounded:
            products.append(node)
        if node.op_type not in _BOUNDS and unbounded.intersection(node.input):
            unbounded.update(node.output)
    return products


def weight_facts(int8: onnx.ModelProto, fp32: onnx.ModelProto) -> tuple[WeightFact, ...]:
    """Compare each int8 weight, times its scale, with the weight of the same name in an fp32 file.

    Args:
        int8: from `int8_from_fp32`, maybe optimised by ONNX Runtime.
        fp32: the bundle's fp32 file of the same kind.
    """
    weights = {tensor.name: tensor for tensor in fp32.graph.initializer}
    tensors = {tensor.name: tensor for tensor in int8.graph.initializer}
    facts = []
    quantised = {name for name in weights if {f"{name}_quantized", f"{name}_scale"} <= tensors.keys()}
    for name in sorted(quantised):
        weight, values, scale = (
            numpy_helper.to_array(tensor).astype(np.float64)
            for tensor in (weights[name], tensors[f"{name}_quantized"], tensors[f"{name}_scale"])
        )
        # With a scale of 0 or NaN, every weight is infinitely many steps away.
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.nan_to_num(np.abs(values * scale - weight) / np.abs(scale), nan=_FAR, posinf=_FAR)
        steps = np.where(values * scale == weight, 0.0, steps)
        facts.append(WeightFact(name=name, steps=float(min(steps.max(initial=0.0), _FAR))))
    return tuple(facts)


def check_exact(model: onnx.ModelProto) -> None:
    """Check that no CPU saturates: every int8 weight is within -64..64 and has no zero point.

    Raises:
        ExportError: a tensor is not so; the first is named. Or there is no int8 product.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    if not products:
        raise ExportError("no product in 8 bits in the graph")
    for node in products:
        weight, zero_point = (numpy_helper.to_array(tensors[node.input[i]]) for i in (1, 3))
        largest = int(np.abs(weight.astype(np.int32)).max())
        if weight.dtype != np.int8 or largest > EXACT_WEIGHT or zero_point.any():
            raise ExportError(
                f"{node.input[1]}, read by {node.name!r}: expected int8 within -64..64 around zero, got "
                f"{weight.dtype} up to {largest}: some CPUs would cut off its sums"
            )


def quantised_by_onnxruntime(model: onnx.ModelProto, products: list[str]) -> onnx.ModelProto:
    """Return the graph with the named products quantised by ONNX Runtime.

    Raises:
        ExportError: the quantiser fails, or leaves a product unchanged.
    """
    import_onnxruntime()  # raises an error that names the package if it is missing
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = onnx.ModelProto()  # the quantiser changes its input
    source.CopyFrom(model)
    source.metadata_props.add(key=_PREPARED[0], value=_PREPARED[1])
    # Without a handler, the quantiser's calls of `logging.info` would configure the root logger.
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "int8.onnx"
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=products,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                # Types for the outputs of ONNX Runtime's own operators, which onnx cannot infer.
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
            lowered = onnx.load(target)
    except (ValueError, RuntimeError) as error:
        raise ExportError(f"onnxruntime.quantization cannot lower the graph to int8: {error}") from error
    finally:
        root.removeHandler(silent)
    made = sum(node.op_type == "MatMulInteger" for node in lowered.graph.node)
    if made != len(products):
        raise ExportError(f"onnxruntime.quantization lowered {made} of {len(products)} products")
    return lowered
