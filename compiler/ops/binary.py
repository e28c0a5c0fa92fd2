"""Sub, Mul, Div, Max, Min and Pow of two tensors; Keras Multiply, Subtract, Maximum, Minimum.

Mul is QLinearMul when quantized; the others are literally DequantizeLinear, the operator in float32,
QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, ElementWise, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import Unary
from compiler.ops.add import Add
from compiler.ops.broadcasting import broadcast, broadcast_operands, layer_operands, same_rank
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.sliding_window import Pair, require_codes, scale_of, write_clamped, zero_of
from compiler.rules.exporting import MICROSOFT, OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, known_values, layer, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic

REAL: Final[dict[str, Callable[..., Array]]] = {
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}
LITERAL: Final = ("sub", "div", "max", "min")
OPERATORS: Final = {"Sub": "sub", "Mul": "mul", "Div": "div", "Max": "max", "Min": "min"}


@op("nn.binary", "a:f32", "b:f32")
class BinaryFunction(Op):
    """a function of two tensors, broadcast to one another."""

    function: str

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        if self.function not in REAL:
            raise ShapeError(f"there is no function '{self.function}'", ", ".join(REAL))
        return TensorType(DType.F32, broadcast(types))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return REAL[self.function](args[0], args[1])


@op("q.mul", "a:i8|u8", "b:i8|u8")
class QMul(ElementWise):
    """QLinearMul, clamp to codes."""

    bounds: Pair = (-128, 127)

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_codes(self.bounds)
        return TensorType(DType.I8, broadcast(types))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        a, b = args
        ratio = self.constants(types, out)[0]
        return arithmetic.multiply(
            a, zero_of(types[0]), b, zero_of(types[1]), ratio, zero_of(out), *self.bounds
        )

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """r = (sa * sb) / sc."""
        a, b, c = (np.float32(scale_of(t)) for t in (*types, out))
        return np.array([(a * b) / c], np.float32)


@op("q.real", "a:i8|u8", "b:i8|u8")
class QReal(ElementWise):
    """DQ, DQ, the function in float32, Q; 0/0 becomes the least code."""

    function: str

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        if self.function not in LITERAL:
            raise ShapeError(f"there is no function '{self.function}'", ", ".join(LITERAL))
        return TensorType(DType.I8, broadcast(types))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        a, b = (arithmetic.dequantize(v, scale_of(t), zero_of(t)) for v, t in zip(args, types, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            v = REAL[self.function](a, b)
        v = np.where(np.isnan(v), np.float32(-np.inf), v)
        return arithmetic.quantize_real(v, scale_of(out), zero_of(out), *out.dtype.bounds)

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """The three scales."""
        return np.array([scale_of(t) for t in (*types, out)], np.float32)


@onnx_operator("Sub", "Mul", "Div")
def import_binary(n: OnnxNode) -> Node:
    """Two operands that broadcast to one another; a value times its own sigmoid is one function."""
    if n.op_type == "Mul" and (x := _swish_operand(n.operand(0), n.operand(1))) is not None:
        return n.add(Unary("silu"), x)
    return n.add(BinaryFunction(OPERATORS[n.op_type]), *broadcast_operands(n))


def _swish_operand(a: Node, b: Node) -> Node | None:
    """x, where the operands are x and sigmoid(x)."""
    for x, other in ((a, b), (b, a)):
        if isinstance(other.op, Unary) and other.op.function == "sigmoid" and other.inputs == (x,):
            return x
    return None


@onnx_operator("Max", "Min", "Sum", "Mean")
def import_variadic(n: OnnxNode) -> Node:
    """Any number of operands, two at a time."""
    operands = same_rank(n, [n.operand(i) for i in range(len(n.operands))])
    if len(operands) == 1 and n.op_type != "Mean":
        return n.add(Unary("identity"), operands[0])
    step = Add() if n.op_type in ("Sum", "Mean") else BinaryFunction(OPERATORS[n.op_type])
    value, *others = operands if n.op_type == "Mean" else operands[:-1]
    for index, other in enumerate(others):
        value = n.before(step, value, other, suffix=f"part{index}")
    if n.op_type != "Mean":
        return n.add(step, value, operands[-1])
    share = np.full((1,) * len(value.shape), 1 / len(operands), np.float32)
    return n.add(BinaryFunction("mul"), value, n.const(share, "share"))


@onnx_operator("Pow")
def import_power(n: OnnxNode) -> Node:
    """A constant exponent, one for all elements."""
    exponent = n.parameter(1, "the exponent")
    values = known_values(exponent)
    if values.size != 1:
        n.fail(f"an exponent of shape {list(values.shape)} is not supported", "one number")
    return n.add(Unary("power", (float(values.item()),)), n.operand(0))


qlinear("QLinearMul", QLinear("Mul", [(0, 1, 2), (3, 4, 5)], (6, 7)), MICROSOFT)


def _layer(name: str, function: str) -> None:
    @layer(name)
    def rule(call: LayerCall) -> Node:
        """NAME()([a, b])."""
        call.done()
        return call.add(BinaryFunction(function), *layer_operands(call))

    del rule


for _name, _function in (("Multiply", "mul"), ("Subtract", "sub"), ("Maximum", "max"), ("Minimum", "min")):
    _layer(_name, _function)


@layer("Average")
def average_layer(call: LayerCall) -> Node:
    """Average()([a, b])."""
    call.done()
    total = call.add(Add(), *layer_operands(call), suffix="/sum")
    return call.add(
        BinaryFunction("mul"), total, call.const(np.full((1,) * len(total.shape), 0.5, np.float32), "half")
    )


@quantization_rule(BinaryFunction)
def quantize_binary(q: Quantizer, node: Node, operation: BinaryFunction, inputs: list[Node]) -> Node:
    """The result has a scale of its own."""
    quant, operands = q.chosen(node), q.operands(node, inputs)
    made = QMul(quant.dtype.bounds) if operation.function == "mul" else QReal(operation.function)
    return q.add(made, operands, node, quant)


@written_as_onnx(QMul)
def write_mul(w: OnnxWriter, node: Node, operation: QMul) -> None:
    """QLinearMul of com.microsoft."""
    write = w.pair("QLinearMul", node, MICROSOFT)
    write_clamped(w, w.tensor(node), operation.bounds, node.type.dtype.numpy, write)


@written_as_onnx(QReal)
def write_real(w: OnnxWriter, node: Node, operation: QReal) -> None:
    """DequantizeLinear of both, the operator, QuantizeLinear."""
    op_type = operation.function.capitalize()
    w.in_reals(node, lambda reals, output: w.add(op_type, reals, output), operands=2)
