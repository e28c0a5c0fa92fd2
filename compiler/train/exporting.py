"""Trained networks as ONNX: the integers of the device, and the real numbers behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import CompileError
from compiler.export.qoperator import IR_VERSION, OPSETS
from compiler.ir.evaluate import evaluate
from compiler.ir.graph import Graph, Input, Node, TupleElement
from compiler.ir.op import Op
from compiler.ir.types import DType
from compiler.ops.activation import Clamp
from compiler.ops.add import Add
from compiler.ops.conv2d import Conv2d
from compiler.ops.gemm import Gemm
from compiler.ops.max_pool import MaxPool
from compiler.ops.shapes import Reshape
from compiler.ops.sliding_window import TO_NCHW, TO_NHWC
from compiler.ops.softmax import Softmax
from compiler.rules.exporting import MICROSOFT
from compiler.train.integer.convolution import StepConv2d
from compiler.train.integer.dense import DenseSums, StepDense
from compiler.train.integer.loss import StepSoftmax
from compiler.train.integer.sums import RELU, StepAdd
from compiler.train.integer.weights import QuantizeBias, QuantizeWeights
from compiler.train.lowering import code_bounds
from compiler.train.network import TrainableNetwork, rebatched
from compiler.train.scalars import ScalarFunction
from compiler.train.step import evaluation
from isa import arithmetic
from isa.support.diagnostics import Diagnostic

Array = NDArray[Any]
Values = Mapping[int, Array]
UNWRITTEN: Final = (Input, QuantizeWeights, QuantizeBias, ScalarFunction, TupleElement)
"""What stands in the model as numbers."""
BATCH: Final = "N"
"""The name of the open dimension."""


class ModelWriter:
    """Collects nodes and initializers of a model of one input, its samples, in the layout of its source.

    `perm` says how the host permutes the axes of a batch for the device.
    """

    def __init__(self, graph: Graph, perm: tuple[int, ...]) -> None:
        self.graph, self.perm = graph, perm
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def add(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        """A node; gives back its output."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """An initializer."""
        self.constants[name] = value
        return name

    def turned(self, source: Node) -> str:
        """The samples in the device's layout."""
        if self.perm == tuple(range(len(self.perm))):
            return source.name
        return self.add("Transpose", [source.name], f"{source.name}_turned", perm=list(self.perm))

    def images(self, x: str, output: str, write: Callable[[str, str], object]) -> None:
        """Write what ONNX has in its own layout only."""
        given = self.add("Transpose", [x], f"{output}_in", perm=list(TO_NCHW))
        write(given, f"{output}_nchw")
        self.add("Transpose", [f"{output}_nchw"], output, perm=list(TO_NHWC))

    def window(self, kind: str, x: str, node: Node, operation: MaxPool) -> None:
        """A pooling."""

        def pool(given: str, output: str) -> None:
            self.add(
                kind,
                [given],
                output,
                kernel_shape=list(operation.kernel),
                strides=list(operation.strides),
                pads=list(operation.pads),
                dilations=list(operation.dilations),
            )

        self.images(x, node.name, pool)

    def reshaped(self, x: str, node: Node) -> None:
        """Another shape, the batch as it is."""
        shape = self.constant(f"{node.name}_shape", np.array([0, *node.shape[1:]], np.int64))
        self.add("Reshape", [x, shape], node.name)

    def finished(self, source: Node, outputs: Mapping[str, int]) -> onnx.ModelProto:
        """The model; outputs by name with the number of their classes."""
        host = [0] * len(self.perm)
        for axis, extent in zip(self.perm, source.shape, strict=True):
            host[axis] = extent
        real = TensorProto.FLOAT
        body = helper.make_graph(
            self.nodes,
            self.graph.name,
            [helper.make_tensor_value_info(source.name, real, [BATCH, *host[1:]])],
            [helper.make_tensor_value_info(name, real, [BATCH, n]) for name, n in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        imports = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        return helper.make_model(body, opset_imports=imports, ir_version=IR_VERSION, producer_name="x1")


class RealWriter(ModelWriter):
    """Writes a float network with the weights that it has: the masters of training."""

    def __init__(
        self, network: TrainableNetwork, parameters: Mapping[str, Array], perm: tuple[int, ...]
    ) -> None:
        super().__init__(network.graph, perm)
        self.network = network
        self.weights = {node.id: parameters[name] for name, node in network.parameters.items()}

    def model(self) -> onnx.ModelProto:
        """The model: float samples in, what the network gives out.

        Raises:
            CompileError: an operation that cannot be written.
        """
        for node in self.graph.nodes():
            self._write(node)
        (result,) = self.graph.outputs
        name = self.graph.output_names[0]
        self.add("Identity", [result.name], name) if result.name != name else None
        return self.finished(self.network.source, {name: int(np.prod(result.shape[1:]))})

    def tensor(self, node: Node) -> str:
        """The tensor of a value."""
        if node.id in self.weights:
            return self.constant(node.name, self.weights[node.id])
        if node.is_constant:
            return self.constant(f"{node.name}_{node.id}", node.constant)
        return f"{node.name}_samples" if isinstance(node.op, Input) else node.name

    def _write(self, node: Node) -> None:
        if node.is_constant or node.id in self.weights:
            return
        operands = [self.tensor(i) for i in node.inputs]
        match node.op:
            case Input():
                self.add("Identity", [self.turned(node)], f"{node.name}_samples")
            case Conv2d():
                self._clamped(node, node.op.clamp, lambda output: self._convolution(node, output))
            case Gemm():
                alpha = float(node.op.alpha)
                self._clamped(node, node.op.clamp, lambda name: self.add("Gemm", operands, name, alpha=alpha))
            case Add():
                self._clamped(node, node.op.clamp, lambda name: self.add("Add", operands, name))
            case Clamp():
                bounds = node.op.low, node.op.high
                self._clamped(node, bounds, lambda name: self.add("Identity", operands, name))
            case MaxPool():
                self.window("MaxPool", operands[0], node, node.op)
            case Reshape():
                self.reshaped(operands[0], node)
            case Softmax():
                self.add("Softmax", operands, node.name, axis=-1)
            case other:
                raise _unwritable(node, other)

    def _convolution(self, node: Node, output: str) -> None:
        operation = node.op
        assert isinstance(operation, Conv2d)
        x, w, b = (self.tensor(i) for i in node.inputs)

        def convolve(given: str, result: str) -> None:
            self.add(
                "Conv",
                [given, w, b],
                result,
                strides=list(operation.strides),
                pads=list(operation.pads),
                dilations=list(operation.dilations),
                group=operation.groups,
            )

        self.images(x, output, convolve)

    def _clamped(
        self, node: Node, bounds: tuple[float, float] | None, write: Callable[[str], object]
    ) -> None:
        """Write an operation, and the clamp that it ends in."""
        if bounds is None:
            write(node.name)
            return
        write(f"{node.name}_free")
        if bounds == RELU:
            self.add("Relu", [f"{node.name}_free"], node.name)
            return
        limits = [
            self.constant(f"{node.name}_{i}", np.asarray(v, np.float32)) if np.isfinite(v) else ""
            for i, v in enumerate(bounds)
        ]
        self.add("Clip", [f"{node.name}_free", *limits], node.name)


def _unwritable(node: Node, operation: Op) -> CompileError:
    kind = operation.name.rpartition(".")[2]
    text = f"'{node.name}' ({kind}) has no form in ONNX yet"
    return CompileError(Diagnostic("export.unsupported", text, node.loc))


class StepWriter(ModelWriter):
    """Writes an evaluation with the state that it has as operators on integers.

    Scales are powers of two, as the device shifts: so a QLinearConv multiplies by 2^-shift and nothing else.
    Each node's tensor has the node's name.
    """

    def __init__(self, graph: Graph, values: Values, factor: float, perm: tuple[int, ...]) -> None:
        super().__init__(graph, perm)
        self.values, self.factor = values, np.float32(factor)

    def model(self) -> onnx.ModelProto:
        """The model: float samples in, probabilities and `logits` out.

        Raises:
            CompileError: an operation that ONNX does not have.
        """
        for node in self.graph.nodes():
            self._write(node)
        source = next(n for n in self.graph.nodes() if isinstance(n.op, Input) and n.type.dtype.is_code)
        classes = self.graph.outputs[0].shape[-1]
        return self.finished(source, {self.graph.output_names[0]: classes, "logits": classes})

    # --- pieces ----------------------------------------------------------------------------------

    def tensor(self, node: Node) -> str:
        """The tensor of a value: of parameters what the state makes of them."""
        operation = node.op
        if isinstance(operation, (QuantizeWeights, QuantizeBias)) or node.is_constant:
            return self.constant(node.name, self.values[node.id])
        return f"{node.name}_codes" if isinstance(operation, Input) else node.name

    def zero(self, node: Node) -> str:
        """A zero point 0 of a value's type."""
        return self.constant(f"zero_{node.type.dtype.value}", np.zeros((), node.type.dtype.numpy))

    def scale(self, value: float) -> str:
        """A scale."""
        return self.constant(f"scale_{float(value).hex()}", np.asarray(value, np.float32))

    def shifted(self, node: Node) -> str:
        """2^shift of what an operation is shifted by, its last operand."""
        shift = int(self.values[node.inputs[-1].id])
        return self.scale(float(arithmetic.power_of_two(np.asarray(min(max(shift, -31), 126)))))

    def codes(self, node: Node, write: Callable[[str], object]) -> None:
        """Write codes, and the bounds that signed ones keep."""
        if node.type.dtype is DType.U8:
            write(node.name)
            return
        write(f"{node.name}_wide")
        self.bounded(f"{node.name}_wide", node.name)

    def bounded(self, x: str, output: str) -> None:
        """Signed codes without -128."""
        low, high = (self.constant(f"bound_{b}", np.asarray(b, np.int8)) for b in code_bounds(DType.I8))
        self.add("Clip", [x, low, high], output)

    # --- operations ------------------------------------------------------------------------------

    def _write(self, node: Node) -> None:
        match node.op:
            case Input() if node.type.dtype.is_code:
                self._samples(node)
            case StepConv2d():
                self._convolution(node, node.op)
            case StepDense():
                self._dense(node, node.op)
            case DenseSums():
                self._sums(node)
            case StepAdd(count=count):
                self._sum_of_maps(node, count)
            case MaxPool():
                self.window("MaxPool", self.tensor(node.inputs[0]), node, node.op)
            case Reshape():
                self.reshaped(self.tensor(node.inputs[0]), node)
            case StepSoftmax():
                self._softmax(node, node.op)
            case other:
                if not node.is_constant and not isinstance(other, UNWRITTEN):
                    raise _unwritable(node, other)

    def _samples(self, node: Node) -> None:
        """Quantized by the host's rule, in the device's layout."""
        given = self.turned(node)
        scale = self.scale(float(self.factor))
        wide = node.type.dtype is DType.I8
        output = f"{node.name}_wide" if wide else f"{node.name}_codes"
        self.add("QuantizeLinear", [given, scale, self.zero(node)], output)
        if wide:
            self.bounded(output, f"{node.name}_codes")

    def _convolution(self, node: Node, operation: StepConv2d) -> None:
        """QLinearConv; where it does not give the type of the result, its sums and what they become."""
        x, w, b, _ = node.inputs
        one, scale = self.scale(1), self.shifted(node)
        geometry: dict[str, Any] = {
            "strides": list(operation.strides),
            "pads": list(operation.pads),
            "dilations": list(operation.dilations),
            "group": operation.groups,
        }

        def convolve(given: str, output: str) -> None:
            factors = [given, one, self.zero(x), self.tensor(w), one, self.zero(w)]
            self.add("QLinearConv", [*factors, scale, self.zero(node), self.tensor(b)], output, **geometry)

        def sums(given: str, output: str) -> None:
            self.add("ConvInteger", [given, self.tensor(w)], output, **geometry)

        if x.type.dtype is node.type.dtype:
            self.codes(node, lambda name: self.images(self.tensor(x), name, convolve))
            return
        self.images(self.tensor(x), f"{node.name}_product", sums)
        self._shifted_sums(node, f"{node.name}_product", self.tensor(b))

    def _dense(self, node: Node, operation: StepDense) -> None:
        """QGemm, or as a convolution."""
        x, w, b, _ = node.inputs
        one, scale = self.scale(1), self.shifted(node)
        if x.type.dtype is node.type.dtype:
            factors = [self.tensor(x), one, self.zero(x), self.tensor(w), one, self.zero(w)]
            inputs = [*factors, self.tensor(b), scale, self.zero(node)]
            turned = int(operation.turned)
            self.codes(node, lambda name: self.add("QGemm", inputs, name, MICROSOFT, transB=turned))
            return
        product = self.add("MatMulInteger", [self.tensor(x), self.tensor(w)], f"{node.name}_product")
        self._shifted_sums(node, product, self.tensor(b))

    def _shifted_sums(self, node: Node, product: str, bias: str) -> None:
        """Sums with their bias to codes: QuantizeLinear divides by 2^shift, which is exact."""
        sums = self.add("Add", [product, bias], f"{node.name}_sums")
        real = self.add("Cast", [sums], f"{node.name}_real", to=TensorProto.FLOAT)
        inputs = [real, self.shifted(node), self.zero(node)]
        self.codes(node, lambda name: self.add("QuantizeLinear", inputs, name))

    def _sums(self, node: Node) -> None:
        x, w, b = node.inputs
        product = self.add("MatMulInteger", [self.tensor(x), self.tensor(w)], f"{node.name}_product")
        self.add("Add", [product, self.tensor(b)], node.name)

    def _sum_of_maps(self, node: Node, count: int) -> None:
        """Each map by its shift, rounded half to even, in real numbers that hold them exactly."""
        total = ""
        for index, (operand, by) in enumerate(zip(node.inputs[:count], node.inputs[count:-1], strict=True)):
            unit = self.scale(float(2.0 ** -int(self.values[by.id])))
            real = self.add("Cast", [self.tensor(operand)], f"{node.name}_real_{index}", to=TensorProto.FLOAT)
            scaled = self.add("Mul", [real, unit], f"{node.name}_scaled_{index}")
            term = self.add("Round", [scaled], f"{node.name}_term_{index}")
            total = self.add("Add", [total, term], f"{node.name}_sum_{index}") if total else term
        scale = self.shifted(node)
        self.codes(node, lambda name: self.add("QuantizeLinear", [total, scale, self.zero(node)], name))

    def _softmax(self, node: Node, operation: StepSoftmax) -> None:
        """Logits as the exponent says; their softmax is ONNX's own, the device's a table."""
        exponent = self.values[node.inputs[1].id]
        unit = self.scale(float(np.float32(operation.factor) * arithmetic.power_of_two(exponent)))
        real = self.add("Cast", [node.inputs[0].name], "logits_real", to=TensorProto.FLOAT)
        self.add("Mul", [real, unit], "logits")
        self.add("Softmax", ["logits"], self.graph.output_names[0], axis=-1)


def to_float32(
    network: TrainableNetwork, parameters: Mapping[str, Array], perm: tuple[int, ...]
) -> onnx.ModelProto:
    """The float network with these weights; the batch is open.

    Raises:
        CompileError: an operation that cannot be written.
    """
    return RealWriter(network, parameters, perm).model()


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
