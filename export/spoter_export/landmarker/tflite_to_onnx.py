"""Convert a TensorFlow Lite network of convolutions to ONNX: fp32 weights, channels first.

Only the operators of MediaPipe's landmark networks are known; an error names any other one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from spoter_runtime.errors import ExportError, require

OPSET: Final = 20
IMAGE: Final = "image"  # the network's input: float32 (batch, 3, height, width)

_DTYPES: Final = {0: np.float32, 1: np.float16, 2: np.int32}
_CHANNELS_FIRST: Final = (0, 3, 1, 2)
_CHANNELS_LAST: Final = (0, 2, 3, 1)

Array = npt.NDArray[Any]


def onnx_from_tflite(
    content: bytes, outputs: Mapping[str, str], *, name: str, batch: str | int = 1
) -> onnx.ModelProto:
    """Return the network as ONNX; what only other outputs need is left out.

    Args:
        content: the bytes of a ``.tflite`` file with one input (1, height, width, 3) float32.
        outputs: the name of each wanted tensor in the file, and its name in the ONNX graph. Tensors of
            four axes come out with the channels first.
        name: of the graph, and how errors name it.
        batch: how many images a call takes; a name makes the axis dynamic.

    Raises:
        MissingExtraError: the package `tflite` is not installed.
        ExportError: an operator, or a setting of one, that is not known.
    """
    return _Conversion(content, name, batch).model(outputs)


class _Conversion:
    """One graph on its way: tensors of the file by their index, to names and constants of the new graph."""

    def __init__(self, content: bytes, name: str, batch: str | int) -> None:
        self.tflite = require("tflite", extra="landmarker")
        self.source = self.tflite.Model.GetRootAsModel(content, 0)
        self.graph = self.source.Subgraphs(0)
        self.title = name
        self.batch = batch
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.constants: dict[int, Array] = {}  # made by DEQUANTIZE and DENSIFY
        self.names: dict[int, str] = {}

    def model(self, outputs: Mapping[str, str]) -> onnx.ModelProto:
        operators = {v: k for k, v in vars(self.tflite.BuiltinOperator).items() if isinstance(v, int)}
        (entry,) = self.graph.InputsAsNumpy().tolist()
        self.names[entry] = IMAGE
        for n in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(n)
            code = self.source.OperatorCodes(operator.OpcodeIndex())
            kind = operators[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            convert = getattr(self, f"_on_{kind.lower()}", None)
            if convert is None:
                raise self._unknown(f"the operator {kind}")
            (out,) = operator.OutputsAsNumpy().tolist()
            convert(operator, operator.InputsAsNumpy().tolist(), out)
        values = []
        for i in self.graph.OutputsAsNumpy().tolist():
            if (name := outputs.get(self.graph.Tensors(i).Name().decode())) is not None:
                self._add("Identity", [self.names[i]], name)
                values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, self._shape_out(i)))
        self._check(len(values) == len(outputs), f"one of the outputs {', '.join(outputs)}")
        return self._assembled(entry, values)

    def _assembled(self, entry: int, values: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        needed, nodes = {value.name for value in values}, []
        for node in reversed(self.nodes):
            if node.output[0] in needed:
                needed |= set(node.input)
                nodes.append(node)
        image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, self._shape_out(entry))
        weights = [
            numpy_helper.from_array(value, key) for key, value in self.weights.items() if key in needed
        ]
        graph = helper.make_graph(nodes[::-1], self.title, [image], values, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)

    # What the file says

    def _unknown(self, what: str) -> ExportError:
        return ExportError(f"{self.title}: cannot be converted to ONNX: {what} is not known")

    def _check(self, known: bool, what: str) -> None:
        if not known:
            raise self._unknown(what)

    def _shape(self, i: int) -> list[int]:
        return [int(n) for n in self.graph.Tensors(i).ShapeAsNumpy()]

    def _shape_out(self, i: int) -> list[int | str]:
        shape = self._shape(i)
        return (
            [self.batch, *(shape[k] for k in _CHANNELS_FIRST[1:])]
            if len(shape) == 4
            else [self.batch, *shape[1:]]
        )

    def _constant(self, i: int) -> Array:
        if i not in self.constants:
            self.constants[i] = self._stored(i).reshape(self._shape(i))
        return self.constants[i]

    def _stored(self, i: int) -> Array:
        tensor = self.graph.Tensors(i)
        data = self.source.Buffers(tensor.Buffer()).DataAsNumpy()
        self._check(tensor.Type() in _DTYPES and not isinstance(data, int), f"the constant {i}")
        return np.frombuffer(data.tobytes(), _DTYPES[tensor.Type()])

    def _options(self, operator: Any, kind: str) -> Any:
        options, table = getattr(self.tflite, kind)(), operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options

    # What the new graph gets

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def _weight(self, name: str, value: Any, dtype: type[np.generic] = np.float32) -> str:
        self.weights[name] = np.ascontiguousarray(value, dtype)
        return name

    def _activated(self, made: str, activation: int, out: int) -> None:
        kinds = self.tflite.ActivationFunctionType
        self._check(activation in (kinds.NONE, kinds.RELU, kinds.RELU6), f"the activation {activation}")
        if activation == kinds.RELU:
            made = self._add("Relu", [made], f"t{out}_relu")
        if activation == kinds.RELU6:
            bounds = [self._weight("zero", 0), self._weight("six", 6)]
            made = self._add("Clip", [made, *bounds], f"t{out}_relu6")
        self.names[out] = made

    def _channels_last(self, i: int, out: int) -> str:
        """Return a tensor as the file has it, for operators that read its values in their order."""
        if len(self._shape(i)) != 4:
            return self.names[i]
        return self._add("Transpose", [self.names[i]], f"t{out}_channels_last", perm=_CHANNELS_LAST)

    # Operators: constants

    def _on_dequantize(self, operator: Any, ins: list[int], out: int) -> None:
        self.constants[out] = self._constant(ins[0]).astype(np.float32)

    def _on_densify(self, operator: Any, ins: list[int], out: int) -> None:
        self.constants[out] = self._dense(ins[0])

    def _dense(self, i: int) -> Array:
        """Return a sparse constant with its zeros.

        It is stored as a tree, a level per axis of `order`; a level has either every index, or those that
        it lists. Axes beyond the tensor's own are those within a block.
        """
        shape, sparsity, values = self._shape(i), self.graph.Tensors(i).Sparsity(), self._stored(i)
        order = sparsity.TraversalOrderAsNumpy().tolist()
        blocks = sparsity.BlockMapAsNumpy().tolist() if sparsity.BlockMapLength() else []
        position, along, sizes = np.zeros(1, np.int64), np.zeros((0, 1), np.int64), {}
        for axis, level in zip(order, map(sparsity.DimMetadata, range(len(order))), strict=True):
            if level.Format() == self.tflite.DimensionType.DENSE:
                sizes[axis] = level.DenseSize()
                row = np.repeat(np.arange(len(position)), level.DenseSize())
                index = np.tile(np.arange(level.DenseSize()), len(position))
                position = position[row] * level.DenseSize() + index
            else:
                starts = self._whole_numbers(level.ArraySegments(), level.ArraySegmentsType())
                listed = self._whole_numbers(level.ArrayIndices(), level.ArrayIndicesType())
                counts = starts[position + 1] - starts[position]
                row = np.repeat(np.arange(len(position)), counts)
                first = np.repeat(starts[position] - (np.cumsum(counts) - counts), counts)
                position = first + np.arange(len(row))
                index = listed[position]
            along = np.vstack([along[:, row], index])
        rank = len(shape)
        block_size = {axis: sizes[rank + k] for k, axis in enumerate(blocks)}
        at = np.zeros((rank, len(position)), np.int64)
        for axis, index in zip(order, along, strict=True):
            at[axis if axis < rank else blocks[axis - rank]] += index * (block_size.get(axis, 1))
        dense = np.zeros(shape, values.dtype)
        dense[tuple(at)] = values[position]
        return dense

    def _whole_numbers(self, table: Any, kind: int) -> npt.NDArray[np.int64]:
        kinds = self.tflite.SparseIndexVector
        names = {
            kinds.Int32Vector: "Int32Vector",
            kinds.Uint16Vector: "Uint16Vector",
            kinds.Uint8Vector: "Uint8Vector",
        }
        vector = getattr(self.tflite, names[kind])()
        vector.Init(table.Bytes, table.Pos)
        return np.asarray(vector.ValuesAsNumpy(), np.int64)

    # Operators: layers

    def _on_conv_2d(self, operator: Any, ins: list[int], out: int) -> None:
        kernel = self._constant(ins[1]).transpose(0, 3, 1, 2)
        self._convolution(self._options(operator, "Conv2DOptions"), kernel, 1, ins, out)

    def _on_depthwise_conv_2d(self, operator: Any, ins: list[int], out: int) -> None:
        options = self._options(operator, "DepthwiseConv2DOptions")
        kernel = self._constant(ins[1]).transpose(3, 0, 1, 2)
        self._check(len(kernel) == self._shape(ins[0])[3], "a depthwise convolution that multiplies channels")
        self._convolution(options, kernel, len(kernel), ins, out)

    def _convolution(self, options: Any, kernel: Array, group: int, ins: list[int], out: int) -> None:
        strides = [options.StrideH(), options.StrideW()]
        dilations = [options.DilationHFactor(), options.DilationWFactor()]
        weights = [self._weight(f"t{out}_weights", kernel)]
        if len(ins) > 2 and ins[2] >= 0:
            weights.append(self._weight(f"t{out}_bias", self._constant(ins[2])))
        made = self._add(
            "Conv",
            [self.names[ins[0]], *weights],
            f"t{out}",
            kernel_shape=kernel.shape[2:],
            strides=strides,
            dilations=dilations,
            pads=self._pads(
                options.Padding(), self._shape(ins[0])[1:3], kernel.shape[2:], strides, dilations
            ),
            group=group,
        )
        self._activated(made, options.FusedActivationFunction(), out)

    def _pads(self, padding: int, sizes: Any, kernel: Any, strides: Any, dilations: Any) -> list[int]:
        """Return ONNX's pads; TensorFlow's SAME puts an odd one at the end."""
        if padding == self.tflite.Padding.VALID:
            return [0, 0, 0, 0]
        whole = [
            max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
            for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        return [*(pad // 2 for pad in whole), *(pad - pad // 2 for pad in whole)]

    def _on_max_pool_2d(self, operator: Any, ins: list[int], out: int) -> None:
        options = self._options(operator, "Pool2DOptions")
        kernel = [options.FilterHeight(), options.FilterWidth()]
        strides = [options.StrideH(), options.StrideW()]
        pads = self._pads(options.Padding(), self._shape(ins[0])[1:3], kernel, strides, [1, 1])
        made = self._add(
            "MaxPool", [self.names[ins[0]]], f"t{out}", kernel_shape=kernel, strides=strides, pads=pads
        )
        self._activated(made, options.FusedActivationFunction(), out)

    def _on_fully_connected(self, operator: Any, ins: list[int], out: int) -> None:
        flat = self._add("Flatten", [self._channels_last(ins[0], out)], f"t{out}_flat")
        weights = [
            self._weight(f"t{out}_{part}", self._constant(i))
            for part, i in zip(("weights", "bias"), ins[1:], strict=True)
        ]
        made = self._add("Gemm", [flat, *weights], f"t{out}", transB=1)
        self._activated(made, self._options(operator, "FullyConnectedOptions").FusedActivationFunction(), out)

    def _on_add(self, operator: Any, ins: list[int], out: int) -> None:
        made = self._add("Add", [self.names[i] for i in ins], f"t{out}")
        self._activated(made, self._options(operator, "AddOptions").FusedActivationFunction(), out)

    def _on_prelu(self, operator: Any, ins: list[int], out: int) -> None:
        slope = self._constant(ins[1])
        self._check(slope.shape[:-1] == (1, 1), f"a slope of shape {slope.shape}")
        # a·x + (1 - a)·max(x, 0): ONNX Runtime's PRelu takes 1.4 times as long in the whole network
        slope, x = slope.reshape(-1, 1, 1), self.names[ins[0]]
        linear = self._add("Mul", [x, self._weight(f"t{out}_slope", slope)], f"t{out}_linear")
        positive = self._add("Relu", [x], f"t{out}_positive")
        rest = self._add("Mul", [positive, self._weight(f"t{out}_rest", 1 - slope)], f"t{out}_scaled")
        self.names[out] = self._add("Add", [linear, rest], f"t{out}")

    def _on_logistic(self, operator: Any, ins: list[int], out: int) -> None:
        self.names[out] = self._add("Sigmoid", [self.names[ins[0]]], f"t{out}")

    def _on_mean(self, operator: Any, ins: list[int], out: int) -> None:
        axes = sorted(self._constant(ins[1]).reshape(-1).tolist())
        self._check(axes == [1, 2], f"a mean over the axes {axes}")
        made = self._add("GlobalAveragePool", [self.names[ins[0]]], f"t{out}")
        self.names[out] = made if len(self._shape(out)) == 4 else self._add("Flatten", [made], f"t{out}_flat")

    # Operators: places

    def _on_pad(self, operator: Any, ins: list[int], out: int) -> None:
        pads = self._constant(ins[1])[list(_CHANNELS_FIRST)]
        inputs = [self.names[ins[0]], self._weight(f"t{out}_pads", pads.T.reshape(-1), np.int64)]
        self.names[out] = self._add("Pad", inputs, f"t{out}")

    def _on_resize_bilinear(self, operator: Any, ins: list[int], out: int) -> None:
        options = self._options(operator, "ResizeBilinearOptions")
        mode = (
            "half_pixel"
            if options.HalfPixelCenters()
            else "align_corners"
            if options.AlignCorners()
            else "asymmetric"
        )
        scales = np.divide(self._shape(out)[1:3], self._shape(ins[0])[1:3])
        inputs = [self.names[ins[0]], "", self._weight(f"t{out}_scales", [1, 1, *scales])]
        self.names[out] = self._add(
            "Resize", inputs, f"t{out}", mode="linear", coordinate_transformation_mode=mode
        )

    def _on_depth_to_space(self, operator: Any, ins: list[int], out: int) -> None:
        size = self._options(operator, "DepthToSpaceOptions").BlockSize()
        self.names[out] = self._add("DepthToSpace", [self.names[ins[0]]], f"t{out}", blocksize=size)

    def _on_reshape(self, operator: Any, ins: list[int], out: int) -> None:
        shape = self._shape(out)
        self._check(len(shape) != 4, "a reshape to four axes")
        inputs = [self._channels_last(ins[0], out), self._weight(f"t{out}_shape", [-1, *shape[1:]], np.int64)]
        self.names[out] = self._add("Reshape", inputs, f"t{out}")

    def _on_concatenation(self, operator: Any, ins: list[int], out: int) -> None:
        self._check(len(self._shape(out)) != 4, "a concatenation of tensors with four axes")
        axis = self._options(operator, "ConcatenationOptions").Axis()
        self.names[out] = self._add("Concat", [self.names[i] for i in ins], f"t{out}", axis=axis)

    def _on_strided_slice(self, operator: Any, ins: list[int], out: int) -> None:
        options = self._options(operator, "StridedSliceOptions")
        begin, end, stride = (self._constant(i).tolist() for i in ins[1:4])
        shape = self._shape(ins[0])
        self._check(len(shape) == 4 and not options.ShrinkAxisMask(), "a slice that drops an axis")
        cuts = []
        for axis, n in enumerate(shape):
            first = 0 if options.BeginMask() >> axis & 1 else begin[axis]
            last = n if options.EndMask() >> axis & 1 else end[axis]
            if (first, last, stride[axis]) != (0, n, 1):
                cuts.append((first, last, _CHANNELS_FIRST.index(axis), stride[axis]))
        names = zip(("begin", "end", "axes", "steps"), zip(*cuts, strict=True), strict=True)
        weights = [self._weight(f"t{out}_{name}", values, np.int64) for name, values in names]
        self.names[out] = self._add("Slice", [self.names[ins[0]], *weights], f"t{out}")
