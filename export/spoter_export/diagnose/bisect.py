"""Find the first tensor at which a graph leaves a model, and the smallest graph that shows it.

Every tensor that both forms have by name is computed from the other form's values of what comes just before
it: an error is met where it is made, not where it has grown, and rounding does not add up on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, TensorProto, helper

from spoter_export.precision.fp16 import rounded_from_fp16
from spoter_export.to_onnx import Traced
from spoter_runtime.contract import LENGTHS, POSES
from spoter_runtime.errors import BackendError
from spoter_runtime.files import replacing, write_json
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort.runner import import_onnxruntime
from spoter_runtime.runner import Int32Array

Array = npt.NDArray[Any]
Values = Mapping[str, Array]

SMALLEST: Final = "smallest.onnx"
TENSORS: Final = "tensors.npz"
FACTS: Final = "divergence.json"

# How far a tensor may be off when it is computed from the other form's values, as a share of its largest
# magnitude. Measured on trained models, full batches of 100 frames: fp32 at most 3e-6 (a LayerNorm), fp16
# 2e-3 (sums of 512 products), dynamic int8 2e-2 (one scale for a whole tensor).
TOLERANCES: Final = {"fp32": 3e-5, "fp16": 1e-2, "int8": 1e-1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first tensor that a graph computes differently from the same values.

    Attributes:
        tensor: its name in the graph.
        operator: what makes it, ``"LayerNormalization"``.
        module: path of the module that it came from; None where the exporter did not say.
        weights: initializers that were read on the way.
        difference: largest difference, as a share of the tensor's largest magnitude; infinite where shapes,
            whole numbers or the places of NaN differ. None where the graph could not compute it.
        tolerance: what its precision explains.
        error: why it could not be computed.
        graph: the smallest graph that still shows it.
        inputs: what to feed it.
        expected: the tensor as the other form has it.
        got: what the graph makes of it; None where there is an error.
    """

    tensor: str
    operator: str
    module: str | None
    weights: tuple[str, ...]
    difference: float | None
    tolerance: float
    error: str | None
    graph: onnx.ModelProto
    inputs: dict[str, Array]
    expected: Array
    got: Array | None

    def __str__(self) -> str:
        """Return it as one sentence."""
        at = f", module {self.module or 'at the top'}" if self.module is not None else ""
        reads = f", reads {', '.join(self.weights)}" if self.weights else ""
        what = f"the first tensor that differs is {self.tensor!r} ({self.operator}{at}{reads})"
        if self.error is not None:
            return f"{what}: it cannot be computed: {self.error}"
        return f"{what}: by {self.difference:.1e} of its magnitude, {self.tolerance:.0e} is rounding"

    def write(self, folder: Path) -> None:
        """Write the graph, its inputs with both answers, and the facts; replaces the folder when complete.

        Raises:
            OSError: the disk is full or the place is read-only.
        """
        with replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / SMALLEST).write_bytes(self.graph.SerializeToString(deterministic=True))
            answers = {"expected": self.expected} | ({} if self.got is None else {"got": self.got})
            arrays = {f"input {name}": value for name, value in self.inputs.items()} | answers
            np.savez_compressed(temporary / TENSORS, allow_pickle=False, **arrays)
            write_json(temporary / FACTS, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return the facts as plain JSON values, without the graph and the arrays."""
        names = ("tensor", "operator", "module", "weights", "tolerance", "error")
        finite = self.difference is not None and np.isfinite(self.difference)
        return {name: getattr(self, name) for name in names} | {
            "difference": self.difference if finite else None,
            "says": str(self),
            "nodes": len(self.graph.graph.node),
            "inputs": {name: list(value.shape) for name, value in self.inputs.items()},
        }


def first_divergence(
    suspect: onnx.ModelProto,
    values: Values,
    *,
    precision: str = "fp32",
    optimise: bool = False,
    module_of: Mapping[str, str] | None = None,
) -> Divergence | None:
    """Compute each tensor of a graph from another form's values, and return the first that differs.

    Args:
        suspect: the graph; its tensors are matched by name.
        values: of the other form, from `values_of_graph` or `values_of_program`; the inputs are among them.
        precision: of the suspect: what rounding explains, see `TOLERANCES`.
        optimise: let ONNX Runtime rewrite each piece of the graph. What it fuses may need several nodes to
            show: pieces of growing size are tried.
        module_of: tensor → module, from `trace_module`.

    Returns:
        None where every tensor that both have is the same.
    """
    pieces = _Pieces(suspect, values, optimise=optimise, rounded=precision == "fp16")
    tolerance = TOLERANCES[precision]
    for tensor in pieces.tensors:
        for reach in pieces.reaches(tensor) if optimise else (1,):
            tried = pieces.computed(tensor, reach)
            if not tried.difference <= tolerance:
                smaller = range(1, reach)  # the reaches grow fast: something between may do
                shown = [
                    p for p in (pieces.computed(tensor, n) for n in smaller) if not p.difference <= tolerance
                ]
                return _divergence(pieces, shown[0] if shown else tried, tolerance, module_of or {})
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Computed:
    """A tensor as a piece of the suspect computes it; the difference is infinite where it cannot."""

    tensor: str
    graph: onnx.ModelProto
    inputs: dict[str, Array]
    got: Array | None
    error: str | None
    difference: float


class _Pieces:
    """Cuts pieces out of a graph, between tensors whose values are known, and runs them."""

    def __init__(self, model: onnx.ModelProto, values: Values, *, optimise: bool, rounded: bool) -> None:
        self._model = model
        self._rounded = rounded  # or ONNX Runtime would compute within a piece in fp32
        self.values = values
        self._optimise = optimise
        self.nodes: Sequence[NodeProto] = model.graph.node
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.tensors = [name for name in self.maker if name in values]
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False).graph
        described = (*inferred.input, *inferred.output, *inferred.value_info)
        self._types = {value.name: value.type.tensor_type.elem_type for value in described}

    def reaches(self, tensor: str) -> Iterator[int]:
        """Return how far back a piece may begin: from the nodes just before to the whole graph."""
        reach = 1
        while reach <= self.maker[tensor]:
            yield reach
            reach *= 8
        yield self.maker[tensor] + 1

    def computed(self, tensor: str, reach: int) -> _Computed:
        """Compute a tensor from known values that are made `reach` or more nodes before it."""
        graph, inputs = self._piece(tensor, reach)
        expected = self.values[tensor]
        try:
            got = _run(graph, inputs, optimise=self._optimise)[tensor]
        except BackendError as error:
            return _Computed(
                tensor=tensor, graph=graph, inputs=inputs, got=None, error=str(error), difference=np.inf
            )
        return _Computed(
            tensor=tensor,
            graph=graph,
            inputs=inputs,
            got=got,
            error=None,
            difference=_relative_difference(got, expected),
        )

    def _piece(self, tensor: str, reach: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
        last = self.maker[tensor]
        wanted, chosen, fed = [tensor], set[int](), set[str]()
        while wanted:
            name = wanted.pop()
            if not name or name in self._weights:
                continue
            made_by = self.maker.get(name, -1)
            if name != tensor and name in self.values and made_by <= last - reach:
                fed.add(name)
            elif made_by not in chosen:
                chosen.add(made_by)
                wanted.extend(self.nodes[made_by].input)
        nodes = [self.nodes[i] for i in sorted(chosen)]
        read = {name for node in nodes for name in node.input}
        inputs = {name: self._typed(name) for name in sorted(fed)}
        graph = helper.make_graph(
            nodes,
            "piece",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
                )
                for name, value in inputs.items()
            ],
            [onnx.ValueInfoProto(name=tensor)],
            [weight for name, weight in self._weights.items() if name in read],
        )
        opsets = list(self._model.opset_import)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self._model.ir_version)
        return rounded_from_fp16(model) if self._rounded else model, inputs

    def _typed(self, name: str) -> Array:
        """Return a known value in the type that the suspect has it in."""
        kind = self._types.get(name, TensorProto.UNDEFINED)
        value = self.values[name]
        if kind == TensorProto.UNDEFINED:
            return value
        with np.errstate(over="ignore"):  # beyond fp16 it becomes infinite there too
            return value.astype(helper.tensor_dtype_to_np_dtype(kind))


def _relative_difference(got: Array, expected: Array) -> float:
    if got.shape != expected.shape:
        return np.inf
    if got.dtype.kind != "f" or expected.dtype.kind != "f":
        return 0.0 if np.array_equal(got, expected) else np.inf
    wide, exact = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(exact)
    if (
        not np.array_equal(wide[~finite], exact[~finite], equal_nan=True)
        or not np.isfinite(wide[finite]).all()
    ):
        return np.inf
    if not finite.any():
        return 0.0
    largest = float(np.abs(exact[finite]).max())
    difference = float(np.abs(wide[finite] - exact[finite]).max())
    return difference / largest if largest else difference


def _divergence(
    pieces: _Pieces, found: _Computed, tolerance: float, module_of: Mapping[str, str]
) -> Divergence:
    weights = [tensor.name for tensor in found.graph.graph.initializer]
    return Divergence(
        tensor=found.tensor,
        operator=pieces.nodes[pieces.maker[found.tensor]].op_type,
        module=module_of.get(found.tensor),
        weights=tuple(name for name in weights if "." in name),  # the others are constants of the export
        difference=None if found.error else found.difference,
        tolerance=tolerance,
        error=found.error,
        graph=found.graph,
        inputs=found.inputs,
        expected=pieces.values[found.tensor],
        got=found.got,
    )


def values_of_graph(
    model: onnx.ModelProto, poses_NTD: Float32Array, lengths_N: Int32Array
) -> dict[str, Array]:
    """Return every tensor that ONNX Runtime computes on the way, the inputs among them, not optimised."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    names = [name for node in model.graph.node for name in node.output if name]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    inputs: dict[str, Array] = {POSES: poses_NTD, LENGTHS: lengths_N}
    return inputs | _run(watched, inputs, optimise=False)


def values_of_program(traced: Traced, poses_NTD: Float32Array, lengths_N: Int32Array) -> dict[str, Array]:
    """Return every tensor that torch computes on the way, by the name that it has in the graph.

    The logits bear another name in the graph and are therefore listed under that.
    """
    recorded: dict[str, Array] = {POSES: poses_NTD, LENGTHS: lengths_N}

    class Recording(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor) and n.op == "call_function":
                recorded[n.name] = value.numpy()
            return value

    module = traced.program.module()
    assert isinstance(module, torch.fx.GraphModule)
    with torch.inference_mode():
        (logits,) = torch.utils._pytree.tree_leaves(
            Recording(module).run(torch.from_numpy(poses_NTD), torch.from_numpy(lengths_N))
        )
    recorded[traced.model.graph.output[0].name] = logits.numpy()
    return recorded


def _run(model: onnx.ModelProto, inputs: Values, *, optimise: bool) -> dict[str, Array]:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal only: what fails here comes back as an exception
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise BackendError(str(error).partition("\n")[0]) from error
