"""Sub, Mul, Div, Max, Min and Pow of two tensors; Keras Multiply, Subtract, Maximum, Minimum.

Mul is QLinearMul when quantized; the others are literally DequantizeLinear, the operator in float32,
QuantizeLinear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, ElementWise, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import Unary
from compiler.ops.add import Add
from compiler.ops.broadcasting import broadcast, broadcast_operands, laid_along, layer_operands, same_rank
from compiler.ops.concat import Concat
from compiler.ops.depth_to_space import Take
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.shape_arithmetic import on_constants
from compiler.ops.shapes import Reshape
from compiler.ops.sliding_window import Pair, require_codes, scale_of, write_clamped, zero_of
from compiler.rules.exporting import MICROSOFT, OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, is_parameter, known_values, layer, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic

REAL: Final[dict[str, Callable[..., Array]]] = {
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}
MOST_EXPONENTS: Final = 64
"""So many different exponents have a table each."""
MOST_GATHERED: Final = 4096
"""So many indices are gathered by exponent: elements, or indices of the one axis along which they differ."""
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
    """Constant exponents, the elements of each together; or computed ones: exp(e log(x)), of x above 0."""
    x = n.operand(0)
    exponent = laid_along(n, x, n.operand(1))
    if not is_parameter(exponent):
        return _power_of_any(n, x, exponent)
    values = known_values(exponent).astype(np.float32)
    if not np.isfinite(values).all():
        n.fail("an exponent is NaN or infinite", "finite numbers")
    if values.size == 1 and len(values.shape) <= len(x.shape):
        return n.add(Unary("power", (float(values.item()),)), x)
    x, exponent = same_rank(n, [x, n.const(values, "exponents")])
    shape = np.broadcast_shapes(x.shape, exponent.shape)
    distinct: list[float] = np.unique(exponent.constant).tolist()
    longer = [i for i, extent in enumerate(exponent.shape) if extent > 1]
    along = longer[0] if len(longer) == 1 else None
    spread = math.prod(shape) if along is None else shape[along]
    if not 0 < len(distinct) <= MOST_EXPONENTS or spread > MOST_GATHERED:
        return _power_of_any(n, x, exponent)
    if x.shape != shape:
        x = n.before(BinaryFunction("mul"), x, n.const(np.ones(shape, np.float32), "ones"), suffix="spread")
    if along is None:
        x = n.before(Reshape((spread,)), x, suffix="flat")
        exponents = np.broadcast_to(exponent.constant, shape).ravel()
    else:
        exponents = exponent.constant.ravel()
    axis = along or 0
    places = [np.flatnonzero(exponents == one) for one in distinct]
    powers: list[Node] = []
    for i, (one, taken) in enumerate(zip(distinct, places, strict=True)):
        chosen = n.before(Take(axis, tuple(taken.tolist())), x, suffix=f"taken{i}")
        powers.append(n.before(Unary("power", (one,)), chosen, suffix=f"power{i}"))
    joined = n.before(Concat(axis), *powers, suffix="powers")
    back = tuple(np.argsort(np.concatenate(places)).tolist())
    return n.add(Reshape(shape), n.before(Take(axis, back), joined, suffix="in_order"))


def _power_of_any(n: OnnxNode, x: Node, exponent: Node) -> Node:
    """exp(e log(x))."""
    if exponent.type.dtype is not DType.F32:
        n.fail(f"the exponent is {exponent.type.dtype.host_name}", "float32, or a constant")
    logarithm = n.before(Unary("log"), x, suffix="log")
    product = n.before(BinaryFunction("mul"), *same_rank(n, [logarithm, exponent]), suffix="product")
    return n.add(Unary("exp"), product)


@onnx_operator("Mod")
def import_mod(n: OnnxNode) -> Node:
    """The sign of the divisor, with fmod=1 of the dividend; of real numbers, and of constants of any type."""
    by_dividend = bool(n.integer("fmod", 0))
    if (made := on_constants(n, np.fmod if by_dividend else np.mod)) is not None:
        return made
    x, divisor = n.operand(0), n.operand(1)
    if x.type.dtype is not DType.F32 or divisor.type.dtype is not DType.F32:
        n.fail(f"Mod of {x.type.dtype.host_name} and {divisor.type.dtype.host_name}", "float32")
    if divisor.is_constant and divisor.type.elements == 1 and len(divisor.shape) <= len(x.shape):
        name = "remainder" if by_dividend else "modulo"
        return n.add(Unary(name, (float(divisor.constant.item()),)), x)
    x, divisor = same_rank(n, [x, divisor])
    ratio = n.before(BinaryFunction("div"), x, divisor, suffix="ratio")
    whole = n.before(Unary("trunc" if by_dividend else "floor"), ratio, suffix="whole")
    below = n.before(BinaryFunction("mul"), whole, divisor, suffix="below")
    return n.add(BinaryFunction("sub"), x, below)


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
