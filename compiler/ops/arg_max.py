"""Where the greatest or the least value lies: ONNX ArgMax and ArgMin; indices are int32 on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import AlongAxis, Array, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import QTable
from compiler.ops.shapes import Reshape
from compiler.rules.exporting import OnnxWriter, written_as_onnx
from compiler.rules.importing import OnnxNode, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa.support.records import replace

RANK = 4


@op("arg_max", "x:f32|i8|u8")
class ArgMax(AlongAxis):
    """The index of the greatest (or least) value along an axis, which stays with extent 1; of equal ones
    the first, or the last.
    """

    last: bool = False
    least: bool = False

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        shape = types[0].shape
        if not 0 <= self.axis < len(shape) or (self.axis == 0 and len(shape) == RANK):
            raise ShapeError(f"an index along axis {self.axis} of {list(shape)}", "an axis after the batch")
        return TensorType(DType.I64, tuple(1 if i == self.axis else d for i, d in enumerate(shape)))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x = np.flip(args[0], self.axis) if self.last else args[0]
        found = (np.argmin if self.least else np.argmax)(x, axis=self.axis, keepdims=True)
        return x.shape[self.axis] - 1 - found if self.last else found


@onnx_operator("ArgMax", "ArgMin")
def import_arg_max(n: OnnxNode) -> Node:
    """Along one axis but the first of four; the result is an output of the network."""
    x = n.operand(0)
    axis = n.axis(len(x.shape), 0)
    operation = ArgMax(axis, bool(n.integer("select_last_index", 0)), n.op_type == "ArgMin")
    if n.integer("keepdims", 1):
        return n.add(operation, x)
    shape = tuple(d for i, d in enumerate(x.shape) if i != axis)
    return n.add(Reshape(shape), n.before(operation, x, suffix="kept"))


@quantization_rule(ArgMax)
def quantize_arg_max(q: Quantizer, node: Node, operation: ArgMax, inputs: list[Node]) -> Node:
    """Of codes; the least is the greatest of negated codes, which are exact under the mirrored zero point."""
    (x,) = inputs
    if operation.least:
        least, greatest = x.quant.dtype.bounds
        mirrored = replace(x.quant, zero_point=least + greatest - x.quant.zero_point)
        x = q.before(QTable("neg", ()), [x], node, mirrored, "negated")
        operation = replace(operation, least=False)
    return q.add(operation, [x], node, None)


@written_as_onnx(ArgMax)
def write_arg_max(w: OnnxWriter, node: Node, operation: ArgMax) -> None:
    """ArgMax of the real numbers: equal codes are equal numbers."""
    name = w.tensor(node)
    real = w.add("DequantizeLinear", w.quantized(node.inputs[0]), f"{name}_real")
    w.add("ArgMax", [real], name, axis=operation.axis, keepdims=1, select_last_index=int(operation.last))
