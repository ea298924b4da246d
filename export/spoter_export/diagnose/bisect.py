"""Find the first tensor that a graph computes differently from another form of the model.

Each tensor that both forms have by name is computed from the other form's values of the tensors just before
it: so an error shows in the node that makes it, and rounding does not accumulate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch

from spoter_export.passes.graph import name_of
from spoter_export.precision.fp16 import rounded_from_fp16
from spoter_export.to_onnx import Traced
from spoter_runtime.contract import LENGTHS, POSES
from spoter_runtime.errors import BackendError
from spoter_runtime.files import replacing, write_json
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort.installed import import_onnxruntime
from spoter_runtime.runner import Int32Array

Array = npt.NDArray[Any]
Values = Mapping[str, Array]

SMALLEST: Final = "smallest.onnx"
TENSORS: Final = "tensors.npz"
FACTS: Final = "divergence.json"

# Largest difference of a tensor that is computed from the other form's values, as a share of its largest
# magnitude. Measured on trained models, full batches of 100 frames: fp32 at most 3e-6 (a LayerNorm), fp16
# 2e-3 (sums of 512 products), dynamic int8 2e-2 (one scale for a whole tensor).
TOLERANCES: Final = {"fp32": 3e-5, "fp16": 1e-2, "int8": 1e-1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first tensor that a graph computes differently from the same values.

    Attributes:
        tensor: the tensor's name in the graph.
        operator: type of the node that computes it, ``"LayerNormalization"``.
        module: path of its torch module; None if the exporter did not record one.
        weights: initializers that `graph` reads.
        difference: largest difference as a share of the tensor's largest magnitude; infinite if shapes, whole
            numbers or the positions of NaN differ. None if the tensor could not be computed.
        tolerance: the largest difference that the precision's rounding explains.
        error: why the tensor could not be computed; None if it could.
        graph: the smallest graph that shows the difference.
        inputs: inputs of `graph`.
        expected: the tensor in the other form.
        got: the tensor that the graph computes; None with an error.
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

    @property
    def is_rounding(self) -> bool:
        """True if `difference` is at most `tolerance`; False if the tensor could not be computed."""
        return self.difference is not None and self.difference <= self.tolerance

    def __str__(self) -> str:
        """Return the divergence as one sentence."""
        at = f", module {self.module or 'at the top'}" if self.module is not None else ""
        reads = f", reads {', '.join(self.weights)}" if self.weights else ""
        what = f"the first tensor that differs is {self.tensor!r} ({self.operator}{at}{reads})"
        if self.error is not None:
            return f"{what}: it cannot be computed: {self.error}"
        return f"{what}: by {self.difference:.1e} of its magnitude, {self.tolerance:.0e} is rounding"

    def write(self, folder: Path) -> None:
        """Write the smallest graph, its inputs, both answers and the facts into a folder, replacing it.

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
    """Return the first tensor that a graph computes differently from another form of the model.

    Args:
        suspect: the graph; its tensors are matched with `values` by name.
        values: tensors of the other form, inputs included, from `values_of_graph` or `values_of_program`.
        precision: precision of the suspect, for the tolerance; see `TOLERANCES`.
        optimise: let ONNX Runtime optimise each piece of the graph. Its fusions may need several nodes to
            show an error, so pieces of growing size are tried.
        module_of: tensor → module, from `trace_module`.

    Returns:
        The divergence; None if all tensors that both have are the same.
    """
    pieces = Pieces(suspect, values, precision=precision, optimise=optimise, module_of=module_of or {})
    for tensor in pieces.tensors:
        for reach in pieces.reaches(tensor) if optimise else (1,):
            tried = pieces.compute(tensor, reach)
            if not tried.is_rounding:
                smaller = (pieces.compute(tensor, n) for n in range(1, reach))  # the reaches grow fast
                return next((found for found in smaller if not found.is_rounding), tried)
    return None


class Pieces:
    """Cuts pieces out of a graph, between tensors with known values, and runs them.

    Attributes:
        tensors: names of the computed tensors with known values.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        values: Values,
        *,
        precision: str,
        optimise: bool,
        module_of: Mapping[str, str],
    ) -> None:
        self._known = values
        self._precision = precision
        self._optimise = optimise
        self._module_of = module_of
        self._model = ir.from_proto(onnx.shape_inference.infer_shapes(model))
        self._place = {node: i for i, node in enumerate(self._model.graph)}
        self._made = {name_of(value): value for node in self._place for value in node.outputs if value.name}
        self.tensors = [name for name in self._made if name in values]

    def reaches(self, tensor: str) -> Iterator[int]:
        """Yield the sizes of pieces to try, in nodes before the tensor: from 1 to the whole graph."""
        reach, place = 1, self._place_of(self._made[tensor])
        while reach <= place:
            yield reach
            reach *= 8
        yield place + 1

    def compute(self, tensor: str, reach: int) -> Divergence:
        """Compute a tensor from known values at least `reach` nodes before it, and return the comparison."""
        graph, inputs = self._piece(self._made[tensor], reach)
        expected, got, difference, message = self._known[tensor], None, None, None
        try:
            got = run_graph(graph, inputs, optimise=self._optimise)[tensor]
            difference = relative_difference(got, expected)
        except BackendError as error:
            message = str(error)
        producer = self._made[tensor].producer()
        return Divergence(
            tensor=tensor,
            operator=producer.op_type if producer is not None else "",
            module=self._module_of.get(tensor),
            # The other constants were added by the export.
            weights=tuple(constant.name for constant in graph.graph.initializer if "." in constant.name),
            difference=difference,
            tolerance=TOLERANCES[self._precision],
            error=message,
            graph=graph,
            inputs=inputs,
            expected=expected,
            got=got,
        )

    def _place_of(self, value: ir.Value) -> int:
        producer = value.producer()
        return -1 if producer is None else self._place[producer]

    def _piece(self, target: ir.Value, reach: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """Return the graph that computes a value from known ones, and the known values."""
        latest = self._place_of(target) - reach
        wanted, seen, fed = [target], set[ir.Value](), set[ir.Value]()
        while wanted:
            value = wanted.pop()
            if value is not target and name_of(value) in self._known and self._place_of(value) <= latest:
                fed.add(value)
            elif value not in seen and (producer := value.producer()) is not None:
                seen.add(value)
                wanted += [v for v in producer.inputs if v is not None and not v.is_initializer()]
        graph = ir.convenience.extract(self._model.graph, sorted(fed, key=name_of), [target])
        inputs = {}
        for value in graph.inputs:
            array = self._known[name_of(value)]
            if value.dtype is not None:
                with np.errstate(over="ignore"):  # beyond fp16's range the graph gives infinity too
                    array = array.astype(value.dtype.numpy())
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape([None] * array.ndim)
            inputs[name_of(value)] = array
        piece = ir.to_proto(ir.Model(graph, ir_version=self._model.ir_version))
        # With rounding, otherwise ONNX Runtime computes inside a piece in fp32.
        return rounded_from_fp16(piece) if self._precision == "fp16" else piece, inputs


def relative_difference(got: Array, expected: Array) -> float:
    """Return the value of `Divergence.difference` for two tensors."""
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


def values_of_graph(
    model: onnx.ModelProto, poses_NTD: Float32Array, lengths_N: Int32Array
) -> dict[str, Array]:
    """Return name → value of every tensor of a graph, inputs included, run unoptimised by ONNX Runtime."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    names = [name for node in model.graph.node for name in node.output if name]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    inputs: dict[str, Array] = {POSES: poses_NTD, LENGTHS: lengths_N}
    return inputs | run_graph(watched, inputs, optimise=False)


def values_of_program(traced: Traced, poses_NTD: Float32Array, lengths_N: Int32Array) -> dict[str, Array]:
    """Return name → value of every tensor of a torch program, by the names of the ONNX graph."""
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


def run_graph(model: onnx.ModelProto, inputs: Values, *, optimise: bool) -> dict[str, Array]:
    """Run a graph; return output name → value.

    Raises:
        BackendError: ONNX Runtime cannot load or run it.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal only: failures come back as exceptions
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
