"""The float network of a training, as ONNX: operator by operator, with the weights of the masters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatchmethod
from typing import Any

import numpy as np
import onnx

from compiler.ir.graph import Input, Node
from compiler.ir.op import Op
from compiler.ops.activation import Clamp, Unary
from compiler.ops.add import Add
from compiler.ops.average_pool import AveragePool
from compiler.ops.batch_norm import BatchNorm
from compiler.ops.concat import Concat
from compiler.ops.conv2d import Conv2d
from compiler.ops.depth_to_space import Take
from compiler.ops.functions import write_function
from compiler.ops.gemm import Gemm
from compiler.ops.max_pool import MaxPool
from compiler.ops.reduce import Reduce
from compiler.ops.shapes import Dropout, Reshape
from compiler.ops.slices import Pad
from compiler.ops.softmax import Softmax
from compiler.rules.exporting import OnnxWriter
from compiler.train.exporting.writer import Array, ModelWriter, convolution_attributes, unwritable
from compiler.train.integer.sums import RELU
from compiler.train.network import TrainableNetwork


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
            if not node.is_constant and node.id not in self.weights:
                self.write(node.op, node)
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

    def operands(self, node: Node) -> list[str]:
        """The tensors of a node's operands."""
        return [self.tensor(operand) for operand in node.inputs]

    @singledispatchmethod
    def write(self, operation: Op, node: Node) -> None:
        """Write the operators of a node; weights are initializers."""
        raise unwritable(node, operation)

    @write.register
    def samples(self, _: Input, node: Node) -> None:
        """In the layout of the device."""
        self.add("Identity", [self.turned(node)], f"{node.name}_samples")

    @write.register
    def convolution(self, operation: Conv2d, node: Node) -> None:
        """Conv, and its clamp."""
        x, *parameters = self.operands(node)
        attributes = convolution_attributes(operation)

        def convolve(given: str, result: str) -> None:
            self.add("Conv", [given, *parameters], result, **attributes)

        self._clamped(node, operation.clamp, lambda output: self.images(x, output, convolve))

    @write.register
    def dense(self, operation: Gemm, node: Node) -> None:
        """Gemm, and its clamp."""
        operands, alpha = self.operands(node), float(operation.alpha)
        self._clamped(node, operation.clamp, lambda output: self.add("Gemm", operands, output, alpha=alpha))

    @write.register
    def sum_of_maps(self, operation: Add, node: Node) -> None:
        """Add, and its clamp."""
        operands = self.operands(node)
        self._clamped(node, operation.clamp, lambda output: self.add("Add", operands, output))

    @write.register
    def clamp(self, operation: Clamp, node: Node) -> None:
        """A clamp alone."""
        operands, bounds = self.operands(node), (operation.low, operation.high)
        self._clamped(node, bounds, lambda output: self.add("Identity", operands, output))

    @write.register
    def max_pool(self, operation: MaxPool, node: Node) -> None:
        """MaxPool."""
        self.maxima(self.operands(node)[0], node, operation)

    @write.register
    def average_pool(self, operation: AveragePool, node: Node) -> None:
        """AveragePool."""
        geometry, count = (operation.kernel, operation.strides, operation.pads), operation.count_include_pad
        given = self.operands(node)[0]
        self.window("AveragePool", given, node.name, geometry, count_include_pad=int(count))

    @write.register
    def reduce(self, operation: Reduce, node: Node) -> None:
        """ReduceMean."""
        if operation.function != "mean":
            raise unwritable(node, operation)
        self.add("ReduceMean", self.operands(node), node.name, axes=list(operation.axes))

    @write.register
    def concat(self, operation: Concat, node: Node) -> None:
        """Concat."""
        self.add("Concat", self.operands(node), node.name, axis=operation.axis)

    @write.register
    def pad(self, operation: Pad, node: Node) -> None:
        """Pad."""
        if operation.mode != "constant":
            raise unwritable(node, operation)
        value = self.constant(f"{node.name}_value", np.asarray(operation.value, np.float32))
        self.padded(self.operands(node)[0], node.name, (operation.before, operation.after), value)

    @write.register
    def function(self, operation: Unary, node: Node) -> None:
        """As its own rule writes it; what that needs besides is called after the node."""
        writer = OnnxWriter({})
        write_function(writer, self.operands(node)[0], node.name, operation.function, operation.parameters)
        own = {name: self.constant(f"{node.name}_{name}", v) for name, v in writer.initializers.items()}
        for kind, domain, inputs, (output,), attributes in writer.nodes:
            self.add(kind, [own.get(name, name) for name in inputs], output, domain, **attributes)

    @write.register
    def repeated(self, operation: Take, node: Node) -> None:
        """Gather."""
        self.taken(self.operands(node)[0], node, operation)

    @write.register
    def shape(self, _: Reshape, node: Node) -> None:
        """Reshape."""
        self.reshaped(self.operands(node)[0], node)

    @write.register
    def normalized(self, operation: BatchNorm, node: Node) -> None:
        """BatchNormalization, and its clamp."""
        x, *rows = self.operands(node)
        attributes: dict[str, Any] = {"epsilon": operation.epsilon, "momentum": operation.momentum}

        def normalize(given: str, result: str) -> None:
            self.add("BatchNormalization", [given, *rows], result, **attributes)

        def write(output: str) -> None:
            if len(node.shape) == 4:
                self.images(x, output, normalize)
            else:
                normalize(x, output)

        self._clamped(node, operation.clamp, write)

    @write.register
    def dropout(self, _: Dropout, node: Node) -> None:
        """Nothing is dropped."""
        self.add("Identity", self.operands(node), node.name)

    @write.register
    def softmax(self, _: Softmax, node: Node) -> None:
        """Softmax over the last axis."""
        self.add("Softmax", self.operands(node), node.name, axis=-1)

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


def to_float32(
    network: TrainableNetwork, parameters: Mapping[str, Array], perm: tuple[int, ...]
) -> onnx.ModelProto:
    """The float network with these weights; the batch is open.

    Raises:
        CompileError: an operation that cannot be written.
    """
    return RealWriter(network, parameters, perm).model()
