"""Activations and other functions of one value; a 256-entry table when quantized.

A clamp that follows a convolution, a matrix product or an addition becomes part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, ElementWise, Op, ShapeError, op
from compiler.ir.types import DType, Quant, TensorType
from compiler.ops.functions import BY_KERAS, BY_ONNX, FUNCTIONS, write_function
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.softmax import Softmax
from compiler.quantize.methods import constant_parameters
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.exporting import MICROSOFT, OnnxWriter, write_clip, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic

REAL_BOUNDS: Final = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
TABLES: Final = 512
"""Tables kept, 256 bytes each: every schedule that is tried asks for those of the network again."""
TIE: Final = 2.0**-13
"""Steps: what float32 approximations, some units in the last place off, can make of 256 steps, and more."""
ABSOLUTE: Final = 2.0**-23
"""What ONNX Runtime's exp, tanh and erf may be off around 1, however small the result."""
ACTIVATIONS: Final = ("linear", *REAL_BOUNDS, "softmax", *BY_KERAS)


def every_real(quant: Quant) -> Array:
    """The real number of every code, indexed by the raw byte."""
    every = np.arange(256, dtype=np.uint8).view(quant.dtype.numpy)
    return arithmetic.dequantize(every, quant.scale, quant.zero_point)


def require_function(name: str, parameters: Sequence[float]) -> None:
    """A function that is known, with as many parameters as it has.

    Raises:
        ShapeError: it is not, or has others.
    """
    if name not in FUNCTIONS:
        raise ShapeError(f"there is no function '{name}'", ", ".join(FUNCTIONS))
    wanted = FUNCTIONS[name].parameters
    if len(parameters) != len(wanted):
        raise ShapeError(f"'{name}' has {len(parameters)} parameters", ", ".join(wanted) or "none")
    if name == "clamp":
        _require_bounds(parameters)


def _require_bounds(bounds: Sequence[float]) -> None:
    if len(bounds) != 2 or not bounds[0] <= bounds[1]:
        raise ShapeError(f"the bounds {list(bounds)} are not allowed", "low <= high")


@op("nn.clamp", "x:f32")
class Clamp(ElementWise):
    """min(max(x, low), high): Relu is low = 0, high = infinity."""

    low: float
    high: float

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        _require_bounds((self.low, self.high))
        return TensorType(DType.F32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return np.minimum(np.maximum(args[0], np.float32(self.low)), np.float32(self.high))


@op("nn.clamp_gradient", "g:f32", "y:f32")
class ClampGradient(Op):
    """Errors pass where a clamp's result y lies between its bounds; at a bound nothing changes."""

    low: float
    high: float

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        g, y = args
        return np.where((np.float32(self.low) < y) & (y < np.float32(self.high)), g, np.float32(0))


def through_clamp(d: Differentiator, node: Node, clamp: tuple[float, float] | None, error: Node) -> Node:
    """The error before a clamp that a node ends with, if it does."""
    return error if clamp is None else d.add(ClampGradient(*clamp), (error, node), node, "unclamped")


@gradient_rule(Clamp)
def clamp_gradient(d: Differentiator, node: Node, operation: Clamp, error: Node) -> Errors:
    """The error where the value lies between the bounds."""
    return (through_clamp(d, node, (operation.low, operation.high), error),)


@op("nn.unary", "x:f32")
class Unary(ElementWise):
    """A function of every element."""

    function: str
    parameters: tuple[float, ...] = ()

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_function(self.function, self.parameters)
        return TensorType(DType.F32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return FUNCTIONS[self.function].real(args[0], self.parameters)


@op("nn.unary_gradient", "g:f32", "x:f32")
class UnaryGradient(Op):
    """Errors times the derivative of a function at its operand; where it has a kink, that from below."""

    function: str
    parameters: tuple[float, ...] = ()

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_function(self.function, self.parameters)
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        g, x = args
        return g * derivative(self.function, self.parameters, x).astype(np.float32)


@gradient_rule(Unary)
def unary_gradient(d: Differentiator, node: Node, operation: Unary, error: Node) -> Errors:
    """By the derivative."""
    made = UnaryGradient(operation.function, operation.parameters)
    return (d.add(made, (error, node.inputs[0]), node),)


def derivative(function: str, parameters: Sequence[float], x: Array) -> Array:
    """The derivative from below in float64, by a difference."""
    step = 2.0**-20
    wide = x.astype(np.float64)
    return (FUNCTIONS[function].in_float64(wide, parameters)
            - FUNCTIONS[function].in_float64(wide - step, parameters)) / step  # fmt: skip


@op("clamp_codes", "x:i8|u8")
class ClampCodes(ElementWise):
    """min(max(x, low), high) of the codes themselves."""

    bounds: tuple[int, int]

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        _require_bounds(self.bounds)
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return np.clip(args[0], *self.bounds)


@op("q.table", "x:i8|u8")
class QTable(ElementWise):
    """A function of one 8-bit value, as a table of 256 codes: literally DQ, function, Q; NaN is the least."""

    function: str
    parameters: tuple[float, ...]

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_function(self.function, self.parameters)
        return TensorType(types[0].dtype, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        assert types[0].quant is not None
        assert out.quant is not None
        return self.codes(types[0].quant, out.quant)[args[0].view(np.uint8)].view(out.dtype.numpy)

    def codes(self, x: Quant, y: Quant) -> Array:
        """The table as raw bytes, indexed by the raw input byte; not to be written."""
        return _codes(self, x, y)

    def is_near_a_tie(self, x: Quant, y: Quant) -> bool:
        """Whether an entry lies so near the middle of two codes that an approximation may give the other one.

        Of functions alone that are no float32 steps: others ONNX Runtime computes as they are here.
        """
        function = FUNCTIONS[self.function]
        if function.steps is not None:
            return False
        steps = _reals(self, x).astype(np.float64) / y.scale
        low, high = y.dtype.bounds[0] - y.zero_point, y.dtype.bounds[1] - y.zero_point
        inside = steps[(steps > low - 1) & (steps < high + 1)]
        near = TIE + ABSOLUTE / y.scale
        return bool((np.abs(inside - np.floor(inside) - 0.5) < near).any())


@lru_cache(maxsize=TABLES)
def _reals(operation: QTable, x: Quant) -> Array:
    """The function of every value of x, correctly rounded; not to be written."""
    real = FUNCTIONS[operation.function].rounded(every_real(x), operation.parameters)
    real.flags.writeable = False
    return real


@lru_cache(maxsize=TABLES)
def _codes(operation: QTable, x: Quant, y: Quant) -> Array:
    real = _reals(operation, x)
    least = arithmetic.f32(y.dtype.bounds[0] - y.zero_point) * np.float32(y.scale)
    codes = arithmetic.quantize(np.where(np.isnan(real), least, real), y.scale, y.zero_point, *y.dtype.bounds)
    table = codes.astype(y.dtype.numpy).view(np.uint8)
    table.flags.writeable = False
    return table


def requantizing_table(x: Quant, y: Quant) -> Array:
    """The table that takes codes to those of another scale, zero point or type: DQ, Q."""
    return QTable("identity", ()).codes(x, y)


@onnx_operator("Relu")
def import_relu(n: OnnxNode) -> Node:
    """max(x, 0)."""
    if n.operand(0).type.dtype.is_code:
        return _clamped_codes(n, 0, 255)
    return n.add(Clamp(0.0, math.inf), n.operand(0))


def _clamped_codes(n: OnnxNode, low: float, high: float) -> Node:
    """A clamp of the codes themselves, as quantized models have it."""
    x = n.operand(0)
    least, greatest = x.type.dtype.bounds
    bounds = (int(min(max(low, least), greatest)), int(min(max(high, least), greatest)))
    return n.add(ClampCodes(bounds), x, quant=x.type.quant)


@onnx_operator("Clip")
def import_clip(n: OnnxNode) -> Node:
    """min(max(x, min), max) with constant bounds; attributes before opset 11, operands since."""
    bounds = [n.attributes.get("min", -math.inf), n.attributes.get("max", math.inf)]
    if n.opset >= 11:
        for i in (0, 1):
            if n.maybe(i + 1) is not None:
                values = n.constant(i + 1, f"the {'upper' if i else 'lower'} bound")
                if values.size != 1:
                    n.fail(f"a bound has the shape {list(values.shape)}", "a scalar")
                bounds[i] = values.item()
    if math.isnan(bounds[0]) or math.isnan(bounds[1]):
        n.fail("a bound is NaN", "finite or infinite bounds")
    low, high = float(bounds[0]), float(bounds[1])
    if n.operand(0).type.dtype.is_code:
        return _clamped_codes(n, min(low, high), high)
    return n.add(Clamp(min(low, high), high), n.operand(0))  # where they cross, the upper one wins


@onnx_operator(*BY_ONNX)
def import_function(n: OnnxNode) -> Node:
    """A function of every element; its parameters are attributes."""
    name = BY_ONNX[n.op_type]
    values = tuple(float(np.float32(n.real(p, given))) for p, given in FUNCTIONS[name].parameters.items())
    if name == "celu" and values[0] == 0:
        n.fail("alpha=0 is not allowed", "another number")
    return n.add(Unary(name, values), n.operand(0))


@onnx_operator("Gelu")
def import_gelu(n: OnnxNode) -> Node:
    """Exact, or approximated by tanh."""
    mode = n.text("approximate", "none")
    if mode not in ("none", "tanh"):
        n.fail(f"approximate={mode} is not known", "none, tanh")
    return n.add(Unary("gelu" if mode == "none" else "gelu_tanh"), n.operand(0))


@onnx_operator("Gelu", "FastGelu", "QuickGelu", domains=(MICROSOFT,))
def import_microsoft_gelu(n: OnnxNode) -> Node:
    """Exact, approximated by tanh, or x * sigmoid(alpha * x); without a bias."""
    if n.maybe(1) is not None:
        n.fail("a bias is not supported", "one operand")
    if n.op_type == "QuickGelu":
        return n.add(Unary("swish", (float(np.float32(n.real("alpha", 1.702))),)), n.operand(0))
    return n.add(Unary("gelu" if n.op_type == "Gelu" else "gelu_tanh"), n.operand(0))


qlinear("QLinearSigmoid", QLinear("Sigmoid", [(0, 1, 2)], (3, 4)), MICROSOFT)
qlinear("QLinearLeakyRelu", QLinear("LeakyRelu", [(0, 1, 2)], (3, 4)), MICROSOFT)


@layer("ReLU", "max_value")
def relu_layer(call: LayerCall) -> Node:
    """ReLU(max_value=None)."""
    high = call.take("max_value", math.inf, (int, float), "a number")
    if not high >= 0:
        call.fail(f"ReLU: max_value={high} is not allowed", "at least 0")
    call.done()
    return call.add(Clamp(0.0, float(high)), call.value())


@layer("ELU", "alpha")
def elu_layer(call: LayerCall) -> Node:
    """ELU(alpha=1.0)."""
    alpha = call.take("alpha", 1.0, (int, float), "a number")
    call.done()
    return call.add(Unary("elu", (float(np.float32(alpha)),)), call.value())


@layer("LeakyReLU", "negative_slope")
def leaky_relu_layer(call: LayerCall) -> Node:
    """LeakyReLU(negative_slope=0.3)."""
    slope = call.take("negative_slope", 0.3, (int, float), "a number")
    call.done()
    return call.add(Unary("leaky_relu", (float(np.float32(slope)),)), call.value())


@layer("Activation", "activation")
def activation_layer(call: LayerCall) -> Node:
    """Activation(name): relu, relu6, softmax, linear, or a function of Keras such as sigmoid, silu, gelu."""
    kind = call.choice("activation", None, ACTIVATIONS)
    call.done()
    if kind is None or len(call.operands) != 1:
        call.fail("Activation takes a name and one value", ", ".join(ACTIVATIONS))
    return activated(call, kind, call.operands[0])


def activated(call: LayerCall, kind: str | None, x: Node) -> Node:
    """The value after an activation."""
    if kind in REAL_BOUNDS:
        return call.add(Clamp(*REAL_BOUNDS[kind]), x)
    if kind == "softmax":
        return call.add(Softmax(len(x.shape) - 1), x)
    if kind in BY_KERAS:
        return call.add(Unary(*BY_KERAS[kind]), x)
    return x


def apply_activation(call: LayerCall, kind: str | None, operation: Op, operands: Sequence[Node]) -> Node:
    """A layer's operation, then its activation; the layer's name is the last one's."""
    if kind in (None, "linear"):
        return call.add(operation, *operands)
    return activated(call, kind, call.add(operation, *operands, suffix="/pre"))


@quantization_rule(Clamp)
def quantize_clamp(q: Quantizer, node: Node, operation: Clamp, inputs: list[Node]) -> Node:
    """A clamp that could not become part of its producer."""
    quant = q.chosen(node, inputs[0].type.quant)
    return q.add(QTable("clamp", (operation.low, operation.high)), inputs, node, quant)


@quantization_rule(Unary)
def quantize_unary(q: Quantizer, node: Node, operation: Unary, inputs: list[Node]) -> Node:
    """A table; where nothing says how the result is quantized, by the range that it has on all 256 codes."""
    (x,) = inputs
    with np.errstate(all="ignore"):
        found = FUNCTIONS[operation.function].real(every_real(x.quant), operation.parameters)
    reach = constant_parameters(found) if np.isfinite(found).all() else None
    return q.add(QTable(operation.function, operation.parameters), inputs, node, q.chosen(node, reach))


@written_as_onnx(ClampCodes)
def write_clamp_codes(w: OnnxWriter, node: Node, operation: ClampCodes) -> None:
    """Clip on integers."""
    x = w.tensor(node.inputs[0])
    write_clip(w, x, w.tensor(node), operation.bounds, node.type.dtype.numpy)


@written_as_onnx(QTable)
def write_table(w: OnnxWriter, node: Node, operation: QTable) -> None:
    """DequantizeLinear, the function in float32, QuantizeLinear."""

    def compute(reals: Sequence[str], output: str) -> str:
        if operation.function == "identity":
            return reals[0]
        return write_function(w, reals[0], output, operation.function, operation.parameters)

    w.in_reals(node, compute)
