"""The landmarker's four ONNX files: each takes one RGB frame, and gives places in it.

| file | inputs besides the frame | outputs |
|---|---|---|
| pose_detection | | region (1, 4), score, other_score |
| pose | region (1, 4) | landmarks (33, 2), region_points (2, 2), visibility (33,), presence (1,) |
| recrop | points (N, 3, 2), landmarks (N, 21, 2), tracked (N, 4) | regions (N, 4) |
| hand | regions (N, 4) | landmarks (N, 21, 2), presence (N,), next_regions (N, 4) |

Landmarks and points are in 0..1 of the picture, regions in pixels (see `picture`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from spoter_export.landmarker import picture
from spoter_export.landmarker.tflite_to_onnx import IMAGE, OPSET, onnx_from_tflite

# Each network's outputs that are used: the names in its TensorFlow Lite file, and ours.
NETWORKS: Final[Mapping[str, Mapping[str, str]]] = {
    "pose_detection": {"Identity": "raw_values", "Identity_1": "raw_scores"},
    "pose": {"Identity": "raw_points", "Identity_1": "raw_presence", "Identity_3": "heatmap"},
    "recrop": {"output_crop": "raw_points"},
    "hand": {"Identity": "raw_points", "Identity_1": "raw_presence"},
}
_FEW: Final = 256  # values of a weight that is not worth a node
_INPUTS: Final[Mapping[str, Sequence[tuple[str, list[int | str]]]]] = {
    "pose_detection": [],
    "pose": [("region", [1, 4])],
    "recrop": [("points", ["N", 3, 2]), ("landmarks", ["N", 21, 2]), ("tracked", ["N", 4])],
    "hand": [("regions", ["N", 4])],
}
_OUTPUTS: Final[Mapping[str, Sequence[tuple[str, list[int | str]]]]] = {
    "pose_detection": [("region", [1, 4]), ("score", []), ("other_score", [])],
    "pose": [("landmarks", [33, 2]), ("region_points", [2, 2]), ("visibility", [33]), ("presence", [1])],
    "recrop": [("regions", ["N", 4])],
    "hand": [("landmarks", ["N", 21, 2]), ("presence", ["N"]), ("next_regions", ["N", 4])],
}


def network(name: str, content: bytes) -> onnx.ModelProto:
    """Return one of the `NETWORKS` alone, from its TensorFlow Lite file: images (N, 3, side, side) go in."""
    batch = "N" if name in ("hand", "recrop") else 1
    return onnx_from_tflite(content, NETWORKS[name], name=name, batch=batch)


def graph(name: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network with its picture's part around it, as the table above says."""
    raw = list(NETWORKS[name].values())
    if name != "pose_detection":
        model = _of_bytes(model)
    calls: list[tuple[Any, list[str], list[str]]]
    if name == "pose_detection":
        calls = [
            (picture.whole_frame, ["frame"], ["square"]),
            (picture.crop_graph(picture.DETECTION_SIDE), ["frame", "square"], ["crop"]),
            (picture.letterboxed, ["frame", "crop"], [IMAGE]),
            (model, [IMAGE], raw),
            (picture.detection_outputs, ["frame", *raw], ["region", "score", "other_score"]),
        ]
    elif name == "pose":
        calls = [
            (picture.crop_graph(picture.POSE_SIDE), ["frame", "region"], [IMAGE]),
            (model, [IMAGE], raw),
            (picture.pose_outputs, ["frame", "region", *raw], [name for name, _ in _OUTPUTS["pose"]]),
        ]
    elif name == "recrop":
        calls = [
            (picture.wrist_region, ["frame", "points"], ["wrists"]),
            (picture.crop_graph(picture.RECROP_SIDE), ["frame", "wrists"], [IMAGE]),
            (model, [IMAGE], raw),
            (picture.recrop_region, ["wrists", *raw], ["found"]),
            (picture.tracked_region, ["frame", "found", "landmarks", "tracked"], ["regions"]),
        ]
    else:
        calls = [
            (picture.crop_graph(picture.HAND_SIDE), ["frame", "regions"], [IMAGE]),
            (model, [IMAGE], raw),
            (picture.hand_outputs, ["frame", "regions", *raw], [name for name, _ in _OUTPUTS["hand"]]),
        ]
    return _joined(name, calls)


def _of_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network that takes 0..255 instead of 0..1: its first layer does the division."""
    taking = onnx.ModelProto()
    taking.CopyFrom(model)
    first = next(node for node in taking.graph.node if node.op_type == "Conv")
    weight = next(weight for weight in taking.graph.initializer if weight.name == first.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) / np.float32(255), weight.name))
    return taking


def _joined(title: str, calls: Sequence[tuple[Any, list[str], list[str]]]) -> onnx.ModelProto:
    """Return one graph of several, each given as the names of its inputs and outputs in the new one."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    for n, (part, inputs, outputs) in enumerate(calls):
        model = (
            part
            if isinstance(part, onnx.ModelProto)
            else onnx.inliner.inline_local_functions(part.to_model_proto())
        )
        old = [value.name for value in (*model.graph.input, *model.graph.output)]
        names = dict(zip(old, [*inputs, *outputs], strict=True))
        for weight in model.graph.initializer:
            weights.append(onnx.TensorProto())
            weights[-1].CopyFrom(weight)
            weights[-1].name = f"{n}_{weight.name}"
        for node in model.graph.node:
            new = onnx.NodeProto()
            new.CopyFrom(node)
            new.name = f"{n}_{node.output[0]}"
            new.input[:] = [names.get(x, x and f"{n}_{x}") for x in node.input]
            new.output[:] = [names.get(x, x and f"{n}_{x}") for x in node.output]
            nodes.append(new)
    weights, casts = _halved(weights)
    nodes = [*casts, *nodes]
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, ["height", "width", 3])
    joined = helper.make_graph(
        nodes,
        title,
        [frame, *_values(_INPUTS[title])],
        _values(_OUTPUTS[title]),
        weights,
    )
    return helper.make_model(joined, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def _halved(weights: Sequence[onnx.TensorProto]) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Return weights that fp16 holds exactly as fp16, and the nodes that make them fp32 again.

    MediaPipe stores its weights as fp16. The files are half as large, and ONNX Runtime casts once, at the
    start: no answer changes.
    """
    kept, casts = [], []
    for weight in weights:
        values = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16) if values.dtype == np.float32 else None
        if half is None or half.size < _FEW or not np.array_equal(half.astype(np.float32), values):
            kept.append(weight)
            continue
        name = f"{weight.name}_fp16"
        kept.append(numpy_helper.from_array(half, name))
        cast = helper.make_node("Cast", [name], [weight.name], name=f"{name}_cast", to=TensorProto.FLOAT)
        casts.append(cast)
    return kept, casts


def _values(named: Sequence[tuple[str, list[int | str]]]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in named]
