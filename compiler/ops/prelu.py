"""Per-channel functions: ONNX PRelu, Keras PReLU; and batch normalization that could not be folded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import AlongAxis, Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.ir.work import Work
from compiler.ops.activation import Clamp, Unary
from compiler.ops.add import Add
from compiler.ops.affine import Affine, along, require_rows
from compiler.ops.binary import BinaryFunction
from compiler.ops.broadcasting import same_rank
from compiler.ops.shapes import Reshape
from compiler.ops.sliding_window import scale_of, zero_of
from compiler.rules.exporting import OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, is_parameter, layer, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic


@op("nn.prelu", "x:f32", "slope:f32")
class PRelu(Op):
    """x where it is not negative, else x times the slope of its channel."""

    axis: int

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_rows(types[0], self.axis, types[1])
        return TensorType(DType.F32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, slope = args
        return np.where(x < 0, x * along(slope, self.axis, x.ndim), x)


@op("q.prelu", "x:i8|u8", "slope:f32")
class QPRelu(AlongAxis):
    """DQ, PRelu with float32 slopes, Q."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_rows(types[0], self.axis, types[1])
        return TensorType(DType.I8, types[0].shape)

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        return QPRelu(perm[self.axis])

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        v = arithmetic.dequantize(args[0], scale_of(types[0]), zero_of(types[0]))
        v = np.where(v < 0, v * along(args[1], self.axis, v.ndim), v)
        return arithmetic.quantize_real(v, scale_of(out), zero_of(out), *out.dtype.bounds)

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """Every element once."""
        del types
        return Work(out.elements)

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """The scales of input and output."""
        return np.array([scale_of(types[0]), scale_of(out)], np.float32)


@op("q.affine", "x:i8|u8", "gain:f32", "offset:f32")
class QAffine(AlongAxis):
    """DQ, x * gain + offset of its channel in two roundings, Q."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_rows(types[0], self.axis, *types[1:])
        return TensorType(DType.I8, types[0].shape)

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        return QAffine(perm[self.axis])

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, gain, offset = args
        v = arithmetic.dequantize(x, scale_of(types[0]), zero_of(types[0]))
        v = arithmetic.affine(v, along(gain, self.axis, v.ndim), along(offset, self.axis, v.ndim))
        return arithmetic.quantize_real(v, scale_of(out), zero_of(out), *out.dtype.bounds)

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """Every element once."""
        del types
        return Work(out.elements)

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """The scales of input and output."""
        return np.array([scale_of(types[0]), scale_of(out)], np.float32)


@onnx_operator("PRelu")
def import_prelu(n: OnnxNode) -> Node:
    """A slope for all, or one per channel, constant; any others as max(x, 0) + slope * min(x, 0)."""
    x = n.operand(0)
    if not is_parameter(n.operand(1)):
        return _of_parts(n, x, n.operand(1))
    slope = n.constant(1, "the slope")
    if slope.size == 1:
        return n.add(Unary("leaky_relu", (float(slope.item()),)), x)
    rank = len(x.shape)
    if n.opset < 7:
        shape = [x.shape[1] if i == 1 else 1 for i in range(rank)] if slope.ndim == 1 else list(slope.shape)
    else:
        shape = [1] * (rank - slope.ndim) + list(slope.shape)
    longer = [i for i, extent in enumerate(shape) if extent > 1]
    if len(shape) != rank or len(longer) != 1 or shape[longer[0]] != x.shape[longer[0]]:
        return _of_parts(n, x, n.const(slope.reshape(shape), "slopes"))
    return n.add(PRelu(longer[0]), x, n.const(slope.ravel().astype(np.float32), "slope"))


def _of_parts(n: OnnxNode, x: Node, slope: Node) -> Node:
    positive = n.before(Clamp(0.0, math.inf), x, suffix="positive")
    negative = n.before(Clamp(-math.inf, 0.0), x, suffix="negative")
    scaled = n.before(BinaryFunction("mul"), *same_rank(n, [negative, slope]), suffix="scaled")
    return n.add(Add(), *same_rank(n, [positive, scaled]))


@layer("PReLU")
def prelu_layer(call: LayerCall) -> Node:
    """PReLU(shared_axes=(1, 2)): a slope `alpha` per channel, shared over the image; with () per element."""
    x = call.value()
    shape, last = x.shape[1:], len(x.shape) - 1
    image = tuple(range(1, last))
    shared = call.take("shared_axes", image, (tuple,), f"{image} or ()")
    call.done()
    if shared not in (image, ()):
        call.fail(f"PReLU: shared_axes={shared} is not allowed", f"{image} or ()")
    if shared:
        shape = (1,) * len(image) + (shape[-1],)
    slope = np.ascontiguousarray(call.weights("alpha", shape)).reshape(-1)
    if shared or not image:
        return call.add(PRelu(last), x, call.const(slope, "alpha"))
    row = call.add(Reshape((x.shape[0], slope.size)), x, suffix="/row")
    made = call.add(PRelu(1), row, call.const(slope, "alpha"), suffix="/of_elements")
    return call.add(Reshape(x.shape), made)


@quantization_rule(PRelu)
def quantize_prelu(q: Quantizer, node: Node, operation: PRelu, inputs: list[Node]) -> Node:
    """Slopes stay float32."""
    slope = q.const(node.inputs[1].constant, node.inputs[1])
    return q.add(QPRelu(operation.axis), [inputs[0], slope], node, q.chosen(node))


@quantization_rule(Affine)
def quantize_affine(q: Quantizer, node: Node, operation: Affine, inputs: list[Node]) -> Node:
    """Gain and offset stay float32."""
    rows = [q.const(i.constant, i) for i in node.inputs[1:]]
    return q.add(QAffine(operation.axis), [inputs[0], *rows], node, q.chosen(node))


@written_as_onnx(QPRelu)
def write_prelu(w: OnnxWriter, node: Node, operation: QPRelu) -> None:
    """DequantizeLinear, PRelu, QuantizeLinear."""
    x, slope = node.inputs
    row = w.initializer(along(slope.constant, operation.axis, len(x.shape)), f"{w.tensor(node)}_slope")
    w.in_reals(node, lambda reals, output: w.add("PRelu", [*reals, row], output))


@written_as_onnx(QAffine)
def write_affine(w: OnnxWriter, node: Node, operation: QAffine) -> None:
    """DequantizeLinear, Mul, Add, QuantizeLinear."""
    x, *rows = node.inputs
    name = w.tensor(node)
    spread = [along(r.constant, operation.axis, len(x.shape)) for r in rows]
    gain, offset = (
        w.initializer(s, f"{name}_{what}") for s, what in zip(spread, ("gain", "offset"), strict=True)
    )

    def compute(reals: Sequence[str], output: str) -> str:
        return w.add("Add", [w.add("Mul", [*reals, gain], f"{name}_scaled"), offset], output)

    w.in_reals(node, compute)
