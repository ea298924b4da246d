"""onnx_from_module: export a module with the graph contract to a checked, reproducible ONNX file."""

from __future__ import annotations

import ast
import json
import logging
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from spoter_export.passes.graph import check_valid
from spoter_runtime.contract import LENGTHS, LOGITS, METADATA_KEY, POSES, GraphContract
from spoter_runtime.errors import ExportError
from spoter_runtime.landmarks import NUM_FEATURES

# 20, not 23 or 24: there the exporter writes Attention with a mask that ONNX Runtime's CPU provider rejects.
OPSET: Final = 20
ORT_DOMAIN: Final = "com.microsoft"  # domain of ONNX Runtime's own operators

# Example sizes. 0 or 1 would freeze the axis although the file declares it dynamic; sizes equal to each other
# or to a constant of the model (60, 54, 108, 300) could become the same symbol.
EXAMPLE_BATCH: Final = 3
EXAMPLE_FRAMES: Final = 37


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A module's ONNX graph, and the origin of its tensors.

    Attributes:
        model: the graph, as from `onnx_from_module`.
        program: torch's program; most of its nodes have the names of the graph's tensors.
        module_of: tensor → path of the module that computes it, ``"encoder_layers.0.norm1"``; ``""`` is the
            top.
    """

    model: onnx.ModelProto
    program: torch.export.ExportedProgram
    module_of: dict[str, str]


def onnx_from_module(module: nn.Module, contract: GraphContract) -> onnx.ModelProto:
    """Export a module to ONNX with dynamic batch and frames axes.

    Args:
        module: ``forward(poses, lengths) -> logits``, as the contract says, on the CPU; this sets eval mode.
        contract: the contract, which is stored in the file's metadata.

    Returns:
        A model of standard operators at opset 20, weights inside, whose bytes depend only on the weights, the
        contract and the versions of torch, onnx and onnxscript. Its form was checked, its answers were not;
        see `spoter_export.parity.compare`.

    Raises:
        ExportError: torch cannot export the module, or the graph does not match the contract.
    """
    return trace_module(module, contract).model


def trace_module(module: nn.Module, contract: GraphContract) -> Traced:
    """Export a module as `onnx_from_module` does; return also the program and the module of each tensor.

    Raises:
        ExportError: see `onnx_from_module`.
    """
    poses, lengths, dynamic_shapes = example_of(contract)
    # The exporter's warnings, about its internals and about missing torchvision, do not help the user.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                (poses, lengths),
                dynamo=True,
                opset_version=OPSET,
                input_names=[POSES, LENGTHS],
                output_names=[LOGITS],
                dynamic_shapes=dynamic_shapes,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's own errors have no common base
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        reason = error.__cause__ or error  # torch wraps the cause in long advice
        first_line = str(reason).partition("\n")[0]
        raise ExportError(
            f"torch {torch.__version__} cannot export the module: {type(reason).__name__}: {first_line}"
        ) from error
    finally:
        logger.setLevel(level)
    if program is None or program.exported_program is None:
        raise ExportError(f"torch {torch.__version__} returned no ONNX program")
    proto = program.model_proto
    module_of = modules_of(proto.graph, {path for path, _ in module.named_modules()})
    model = strip_remarks(proto)
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(contract.as_json(), ensure_ascii=False))
    check_graph(model, contract)
    return Traced(model=model, program=program.exported_program, module_of=module_of)


def was_interrupted(error: BaseException | None) -> bool:
    """Tell whether an error began with Ctrl-C: in its imports torch makes another error of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def modules_of(graph: onnx.GraphProto, paths: set[str]) -> dict[str, str]:
    """Return tensor → module path, from the exporter's metadata; tensors without metadata are left out."""
    found = {}
    for node in graph.node:
        remarks = {entry.key: entry.value for entry in node.metadata_props}
        # "['', 'encoder_layers.0', 'encoder_layers.0.norm1', 'layer_norm']": the modules, then the operation.
        scopes = ast.literal_eval(remarks.get("pkg.torch.onnx.name_scopes", "[]"))
        if modules := [scope for scope in scopes[:-1] if scope in paths]:
            found.update(dict.fromkeys(node.output, modules[-1]))
    return found


def example_of(contract: GraphContract) -> tuple[Tensor, Tensor, tuple[dict[int, Any], dict[int, Any]]]:
    """Return example poses, example lengths and the dynamic axes, for tracing.

    Raises:
        ExportError: the contract allows only one frame.
    """
    if contract.max_frames < 2:
        raise ExportError("max_frames is 1: an example of one frame would freeze the frames axis")
    # The model may have a limit of frames below the example's; it has none for the batch.
    frames = min(EXAMPLE_FRAMES, contract.max_frames)
    poses = torch.rand(EXAMPLE_BATCH, frames, NUM_FEATURES, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([frames, max(1, frames // 2), 1], dtype=torch.int32)
    batch_axis = torch.export.Dim("batch", min=1, max=max(contract.max_batch, EXAMPLE_BATCH))
    frames_axis = torch.export.Dim("frames", min=1, max=contract.max_frames)
    return poses, lengths, ({0: batch_axis, 1: frames_axis}, {0: batch_axis})


def strip_remarks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove stack traces, paths, doc strings and intermediate shapes.

    Raises:
        ExportError: the graph has control flow.
    """
    for owner in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        del owner.metadata_props[:]
        owner.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                raise ExportError(f"node {node.name}: control flow in the graph; the models have none")
    del model.graph.value_info[:]  # engines infer shapes; stale ones only mislead
    model.producer_name = "spoter-kit"
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Return a graph's opset version."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain == "")


def check_graph(
    model: onnx.ModelProto, contract: GraphContract, *, opset: int = OPSET, domains: Collection[str] = ()
) -> None:
    """Check a graph's names, types, axes, opset and operators, and that it contains its weights.

    Args:
        model: the graph.
        contract: the expected names, types and axes.
        opset: the expected opset.
        domains: domains of allowed operators besides the standard ones.

    Raises:
        ExportError: something differs; the message has the first difference.
    """
    check_valid(model, "the graph is not valid ONNX")
    expected: dict[str, tuple[Any, list[str | int]]] = {
        POSES: (TensorProto.FLOAT, ["batch", "frames", NUM_FEATURES]),
        LENGTHS: (TensorProto.INT32, ["batch"]),
        LOGITS: (TensorProto.FLOAT, ["batch", contract.num_classes]),
    }
    names = [[value.name for value in values] for values in (model.graph.input, model.graph.output)]
    if names != [[POSES, LENGTHS], [LOGITS]]:
        raise ExportError(f"inputs and outputs: expected {[[POSES, LENGTHS], [LOGITS]]}, got {names}")
    found = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    for name, (dtype, axes) in expected.items():
        tensor = found[name].type.tensor_type
        got_axes = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        if tensor.elem_type != dtype or got_axes != axes:
            pairs = zip(axes, got_axes, strict=False)
            frozen = [want for want, got in pairs if isinstance(want, str) and isinstance(got, int)]
            raise ExportError(
                f"{name}: expected {TensorProto.DataType.Name(dtype)} {axes}, "
                f"got {TensorProto.DataType.Name(tensor.elem_type)} {got_axes}"
                + (f": the export froze {' and '.join(frozen)}" if frozen else "")
            )
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx", *domains})
    if foreign or opsets.get("") != opset:
        raise ExportError(f"expected standard operators of opset {opset}, got {opsets}, domains {foreign}")
    external = [t.name for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    if external:
        raise ExportError(f"weights outside the file: {', '.join(external[:3])}")
