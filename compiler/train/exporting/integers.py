"""What a trained network computes on the device, as ONNX: operators on the same integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatchmethod
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from compiler.ir.evaluate import evaluate
from compiler.ir.graph import Graph, Input, Node, TupleElement
from compiler.ir.op import Op
from compiler.ir.types import DType
from compiler.ops.depth_to_space import Take
from compiler.ops.max_pool import MaxPool
from compiler.ops.shapes import Reshape
from compiler.rules.exporting import MICROSOFT
from compiler.train.exporting.writer import Array, ModelWriter, convolution_attributes, unwritable
from compiler.train.integer.convolution import StepConv2d
from compiler.train.integer.dense import DenseSums, StepDense
from compiler.train.integer.functions import CodeTable
from compiler.train.integer.loss import CODED_PROBABILITY, CodeSums, RealSums, StepSoftmax
from compiler.train.integer.maps import PadCodes, PixelSums, StepAveragePool, StepConcat
from compiler.train.integer.normalization import FRACTION_BITS, Normalization, Normalize, RunningStatistics
from compiler.train.integer.sums import Requantized, StepAdd
from compiler.train.integer.weights import QuantizeBias, QuantizeWeights
from compiler.train.lowering import code_bounds, unit_of
from compiler.train.network import TrainableNetwork, rebatched
from compiler.train.scalars import ScalarFunction
from compiler.train.step import evaluation
from isa import arithmetic

Values = Mapping[int, Array]
UNWRITTEN: Final = (
    Input,
    QuantizeWeights,
    QuantizeBias,
    RunningStatistics,
    Normalization,
    ScalarFunction,
    TupleElement,
)
"""What stands in the model as numbers."""


def signed_codes(codes: Array) -> Array:
    """Codes as they stand in the model: unsigned ones less 128, with -128 for 0.

    On x86 without VNNI the kernels of ONNX Runtime saturate sums of two products of uint8 and int8; those of
    int8 are exact everywhere.
    """
    return (codes ^ np.uint8(128)).view(np.int8) if codes.dtype == np.uint8 else codes


def device_codes(tensor: Array, dtype: DType) -> Array:
    """Codes of the device, of those that stand in the model."""
    return tensor.view(np.uint8) ^ np.uint8(128) if dtype is DType.U8 else tensor


class StepWriter(ModelWriter):
    """Writes an evaluation with the state that it has as operators on integers.

    Scales are powers of two, as the device shifts: so a QLinearConv multiplies by 2^-shift and nothing else.
    Each node's tensor has the node's name. Unsigned codes stand there as `signed_codes`.
    """

    def __init__(self, graph: Graph, values: Values, factor: float, perm: tuple[int, ...]) -> None:
        super().__init__(graph, perm)
        self.values, self.factor = values, np.float32(factor)

    def model(self) -> onnx.ModelProto:
        """The model: float samples in, values or probabilities out, and the `logits` of a softmax.

        Raises:
            CompileError: an operation that ONNX does not have.
        """
        for node in self.graph.nodes():
            self.write(node.op, node)
        source = next(n for n in self.graph.nodes() if isinstance(n.op, Input) and n.type.dtype.is_code)
        (result,), (name,) = self.graph.outputs, self.graph.output_names
        if result.type.dtype.is_code:  # of a sigmoid
            unit = self.scale(CODED_PROBABILITY)
            self.add("DequantizeLinear", [self.tensor(result), unit, self.zero(result)], name)
        names = (name, "logits") if isinstance(result.op, StepSoftmax) else (name,)
        return self.finished(source, dict.fromkeys(names, result.shape[-1]))

    # --- pieces ----------------------------------------------------------------------------------

    def tensor(self, node: Node) -> str:
        """The tensor of a value: of parameters what the state makes of them."""
        operation = node.op
        if isinstance(operation, (QuantizeWeights, QuantizeBias)) or node.is_constant:
            return self.constant(node.name, signed_codes(self.values[node.id]))
        return self.graph.unused_name(f"{node.name}_codes") if isinstance(operation, Input) else node.name

    def zero(self, node: Node) -> str:
        """What stands for 0."""
        return self.constant(
            f"zero_{node.type.dtype.value}", signed_codes(np.zeros((), node.type.dtype.numpy))
        )

    def scale(self, value: float) -> str:
        """A scale."""
        return self.constant(f"scale_{float(value).hex()}", np.asarray(value, np.float32))

    def shifted(self, node: Node) -> str:
        """2^shift of what an operation is shifted by, its last operand."""
        shift = int(self.values[node.inputs[-1].id])
        return self.scale(float(arithmetic.power_of_two(np.asarray(min(max(shift, -31), 126)))))

    def codes(self, node: Node, write: Callable[[str], object], high: int | None = None) -> None:
        """Write codes, and the bounds that they keep: signed ones are not -128, none is above `high`."""
        dtype = node.type.dtype
        low, most = code_bounds(dtype)
        if dtype is DType.U8 and high is None:
            write(node.name)
            return
        write(f"{node.name}_wide")
        limits = [
            self.constant(f"bound_{dtype.value}_{b}", signed_codes(np.asarray(b, dtype.numpy)))
            for b in (low, most if high is None else high)
        ]
        self.add("Clip", [f"{node.name}_wide", *limits], node.name)

    def real(self, node: Node, output: str, unit: float = 1) -> str:
        """Codes times a power of two, as real numbers, which hold them exactly."""
        return self.add("DequantizeLinear", [self.tensor(node), self.scale(unit), self.zero(node)], output)

    def words(self, node: Node, output: str) -> str:
        """Codes as int32."""
        if node.type.dtype is not DType.U8:
            return self.add("Cast", [self.tensor(node)], output, to=TensorProto.INT32)
        wide = self.add("Cast", [self.tensor(node)], f"{output}_signed", to=TensorProto.INT32)
        return self.add("Add", [wide, self.constant("first_code", np.asarray(128, np.int32))], output)

    # --- operations ------------------------------------------------------------------------------

    @singledispatchmethod
    def write(self, operation: Op, node: Node) -> None:
        """Write the operators of a node; parameters and their shifts stand in the model as numbers."""
        if not node.is_constant and not isinstance(operation, UNWRITTEN):
            raise unwritable(node, operation)

    @write.register
    def samples(self, _: Input, node: Node) -> None:
        """Quantized by the host's rule, in the device's layout."""
        if not node.type.dtype.is_code:
            return
        given = self.turned(node)
        scale = self.scale(float(self.factor))
        self.add("QuantizeLinear", [given, scale, self.zero(node)], self.tensor(node))

    @write.register
    def convolution(self, operation: StepConv2d, node: Node) -> None:
        """QLinearConv; where the result has a factor of its own, its sums and what they become."""
        x, w, b, _ = node.inputs
        one, scale = self.scale(1), self.shifted(node)
        attributes = convolution_attributes(operation)

        def convolve(given: str, output: str) -> None:
            factors = [given, one, self.zero(x), self.tensor(w), one, self.zero(w)]
            self.add("QLinearConv", [*factors, scale, self.zero(node), self.tensor(b)], output, **attributes)

        def sums(given: str, output: str) -> None:
            self.add("ConvInteger", [given, self.tensor(w), self.zero(x)], output, **attributes)

        if operation.factor == 1:
            self.codes(node, lambda name: self.images(self.tensor(x), name, convolve), operation.high)
            return
        self.images(self.tensor(x), f"{node.name}_product", sums)
        self._biased(node, operation, f"{node.name}_product", self.tensor(b))

    @write.register
    def dense(self, operation: StepDense, node: Node) -> None:
        """QGemm, or as a convolution."""
        x, w, b, _ = node.inputs
        one, scale = self.scale(1), self.shifted(node)
        if operation.factor == 1:
            factors = [self.tensor(x), one, self.zero(x), self.tensor(w), one, self.zero(w)]
            inputs = [*factors, self.tensor(b), scale, self.zero(node)]
            turned = int(operation.turned)
            self.codes(
                node, lambda name: self.add("QGemm", inputs, name, MICROSOFT, transB=turned), operation.high
            )
            return
        product = self._product(node, x, w)
        self._biased(node, operation, product, self.tensor(b))

    def _ended(self, node: Node, operation: Requantized, sums: str) -> None:
        """Exact real sums to codes: times the factor in float32, then halves to even, then the bounds."""
        if operation.factor != 1:
            unit = unit_of(operation.factor, -self.values[node.inputs[-1].id])
            sums = self.add("Mul", [sums, self.scale(float(unit))], f"{node.name}_scaled")
            inputs = [sums, self.scale(1), self.zero(node)]
        else:  # QuantizeLinear divides by 2^shift, which is exact
            inputs = [sums, self.shifted(node), self.zero(node)]
        self.codes(node, lambda name: self.add("QuantizeLinear", inputs, name), operation.high)

    def _biased(self, node: Node, operation: Requantized, product: str, bias: str) -> None:
        sums = self.add("Add", [product, bias], f"{node.name}_sums")
        self._ended(node, operation, self._as_real(sums, node))

    def _as_real(self, sums: str, node: Node) -> str:
        return self.add("Cast", [sums], f"{node.name}_real", to=TensorProto.FLOAT)

    @write.register
    def sums(self, _: DenseSums, node: Node) -> None:
        """Not shifted."""
        x, w, b = node.inputs
        self.add("Add", [self._product(node, x, w), self.tensor(b)], node.name)

    def _product(self, node: Node, x: Node, w: Node) -> str:
        factors = [self.tensor(x), self.tensor(w), self.zero(x)]
        return self.add("MatMulInteger", factors, f"{node.name}_product")

    def _aligned(self, node: Node, count: int) -> list[str]:
        """Each map by its shift, rounded half to even, in real numbers that hold them exactly."""
        terms: list[str] = []
        for index, (operand, by) in enumerate(zip(node.inputs[:count], node.inputs[count:-1], strict=True)):
            unit = float(2.0 ** -int(self.values[by.id]))
            scaled = self.real(operand, f"{node.name}_scaled_{index}", unit)
            terms.append(self.add("Round", [scaled], f"{node.name}_term_{index}"))
        return terms

    @write.register
    def sum_of_maps(self, operation: StepAdd, node: Node) -> None:
        """Of maps under one exponent."""
        total, *others = self._aligned(node, operation.count)
        for index, term in enumerate(others):
            total = self.add("Add", [total, term], f"{node.name}_sum_{index}")
        self._ended(node, operation, total)

    @write.register
    def concat(self, operation: StepConcat, node: Node) -> None:
        """Of maps under one exponent."""
        joined = self.add("Concat", self._aligned(node, operation.count), f"{node.name}_joined", axis=3)
        self._ended(node, operation, joined)

    @write.register
    def normalized(self, operation: Normalize, node: Node) -> None:
        """In real numbers: a product, a sum, steps of 2^-16."""
        x, gain, rest, _ = node.inputs
        rows = (self.constant(f"{node.name}_{row.id}", self.values[row.id]) for row in (gain, rest))
        scaled = self.add("Mul", [self.real(x, f"{node.name}_real"), next(rows)], f"{node.name}_scaled_by")
        moved = self.add("Add", [scaled, next(rows)], f"{node.name}_moved")
        steps = self.add("Mul", [moved, self.scale(1 << FRACTION_BITS)], f"{node.name}_steps")
        whole = self.add("Round", [steps], f"{node.name}_whole")
        limit = arithmetic.WORD_LIMIT
        limits = [self.constant(f"limit_{sign}", np.asarray(sign * limit, np.float32)) for sign in (-1, 1)]
        self._ended(node, operation, self.add("Clip", [whole, *limits], f"{node.name}_sums"))

    @write.register
    def pixel_sums(self, operation: PixelSums, node: Node) -> None:
        """Exact sums of words."""
        wide = self.words(node.inputs[0], f"{node.name}_words")
        axes = self.constant("rows_and_columns", np.array([1, 2], np.int64))
        sums = self.add("ReduceSum", [wide, axes], f"{node.name}_sums")
        self._ended(node, operation, self._as_real(sums, node))

    @write.register
    def max_pool(self, operation: MaxPool, node: Node) -> None:
        """Of the codes themselves."""
        self.maxima(self.tensor(node.inputs[0]), node, operation)

    @write.register
    def padded_codes(self, operation: PadCodes, node: Node) -> None:
        """Zeros around a map."""
        top, left, bottom, right = operation.pads
        x, zero = self.tensor(node.inputs[0]), self.zero(node)
        self.padded(x, node.name, ((0, top, left, 0), (0, bottom, right, 0)), zero)

    @write.register
    def repeated(self, operation: Take, node: Node) -> None:
        """Gather."""
        self.taken(self.tensor(node.inputs[0]), node, operation)

    @write.register
    def shape(self, _: Reshape, node: Node) -> None:
        """The codes as they are."""
        self.reshaped(self.tensor(node.inputs[0]), node)

    @write.register
    def average_pool(self, operation: StepAveragePool, node: Node) -> None:
        """In real numbers; sums of codes are exact."""
        geometry, count = (operation.kernel, operation.strides, operation.pads), operation.count_include_pad
        given, mean = self.real(node.inputs[0], f"{node.name}_real"), f"{node.name}_mean"
        self.window("AveragePool", given, mean, geometry, count_include_pad=int(count))
        self.add("QuantizeLinear", [mean, self.scale(1), self.zero(node)], node.name)

    @write.register
    def table(self, operation: CodeTable, node: Node) -> None:
        """The table in the order of its codes, from -128 on."""
        by_value = signed_codes(np.roll(operation.codes, 128).view(node.type.dtype.numpy))
        wide = self.words(node.inputs[0], f"{node.name}_words")
        first = self.constant("first_code", np.asarray(128, np.int32))
        index = self.add("Add", [wide, first], f"{node.name}_index")
        self.add("Gather", [self.constant(f"{node.name}_table", by_value), index], node.name)

    @write.register
    def code_sums(self, _: CodeSums, node: Node) -> None:
        """Codes as sums."""
        self.words(node.inputs[0], node.name)

    @write.register
    def real_sums(self, operation: RealSums, node: Node) -> None:
        """What sums stand for."""
        self._values(node, operation.unit, self.graph.output_names[0])

    def _values(self, node: Node, factor: float, output: str) -> str:
        """What the sums stand for that a node takes, with their exponent."""
        sums, exponent = node.inputs
        unit = self.scale(float(unit_of(factor, self.values[exponent.id])))
        real = self.add("Cast", [sums.name], f"{output}_real", to=TensorProto.FLOAT)
        return self.add("Mul", [real, unit], output)

    @write.register
    def softmax(self, operation: StepSoftmax, node: Node) -> None:
        """Logits as the exponent says; their softmax is ONNX's own, the device's a table."""
        logits = self._values(node, operation.factor, "logits")
        self.add("Softmax", [logits], self.graph.output_names[0], axis=-1)


def to_integers(
    network: TrainableNetwork, state: Mapping[str, Array], perm: tuple[int, ...]
) -> onnx.ModelProto:
    """What the stream `eval` computes with this state, as operators on integers; the batch is open.

    Every 8-bit tensor is that of the device, and so are the sums before the softmax, whose table is its own.

    Raises:
        CompileError: an operation that ONNX does not have.
    """
    graph = evaluation(rebatched(network, 1)).graph
    given: dict[str, Array] = {n.name: np.zeros(n.shape, n.type.dtype.numpy) for n in graph.inputs}
    values = evaluate(graph, {**given, **{n: v for n, v in state.items() if n in given}})
    return StepWriter(graph, values, float(network.input_c), perm).model()
