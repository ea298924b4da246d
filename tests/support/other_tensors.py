"""ONNX files whose tensors are not those of their contract, which spoter-kit's own metadata claims."""

from __future__ import annotations

import json

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from spoter_runtime.contract import METADATA_KEY, GraphContract

POSES = "input float32 (batch, frames, 108)"


def other_tensors(contract: GraphContract) -> dict[str, tuple[ModelProto, str]]:
    """Return name → (the file, what a loader says of it)."""
    logits = f"output float32 (batch, {contract.num_classes})"
    lengths = "input int32 (batch)"
    return {
        "right": (_model(contract), ""),
        "name": (_model(contract, poses="frames"), f"poses: expected {POSES}, got none"),
        "features": (
            _model(contract, shape=("batch", "frames", 54)),
            f"poses: expected {POSES}, got input float32 (batch, frames, 54)",
        ),
        "one-clip": (
            _model(contract, shape=(1, "frames", 108)),
            f"poses: expected {POSES}, got input float32 (1, frames, 108)",
        ),
        "type": (
            _model(contract, lengths=TensorProto.INT64),
            f"lengths: expected {lengths}, got input int64 (batch)",
        ),
        "labels": (
            _model(contract, classes=contract.num_classes + 1),
            f"logits: expected {logits}, got output float32 (batch, {contract.num_classes + 1})",
        ),
        "output": (_model(contract, logits="scores"), f"logits: expected {logits}, got none"),
        "one-more": (
            _model(contract, more=("mask",)),
            "mask: expected none, got input float16 (?)",
        ),
    }


def _model(
    contract,
    *,
    poses="poses",
    shape=("b", "t", 108),
    lengths=TensorProto.INT32,
    logits="logits",
    more=(),
    classes=0,
):
    """Return a file that takes the mean over frames, then one product."""
    classes = classes or contract.num_classes
    inputs = [
        helper.make_tensor_value_info(poses, TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("lengths", lengths, [shape[0]]),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["any"]) for name in more),
    ]
    nodes = [
        helper.make_node("ReduceMean", [poses, "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], [logits]),
    ]
    weights = {
        "axis": np.array([1], np.int64),
        "weight": np.ones((shape[2], classes), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "graph",
        inputs,
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, [shape[0], classes])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(contract.as_json())})
    return model
