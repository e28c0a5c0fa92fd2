"""Softmax over the last axis: ONNX Softmax, Keras Softmax; QLinearSoftmax when quantized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import AlongAxis, Array, Op, ShapeError, op
from compiler.ir.types import DType, Quant, TensorType
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.shapes import Reshape
from compiler.rules.exporting import MICROSOFT, OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic

OUTPUT: Final = Quant((1 / 256,), -128)
"""Probabilities from 0 to 255/256, the scale that ONNX Runtime's quantizer fixes."""
QLINEAR_SOFTMAX_OPSET: Final = 13
FLT_MAX: Final = 3.4028234663852886e38


def _require_axis(axis: int, x: TensorType) -> None:
    if not 0 <= axis < len(x.shape):
        raise ShapeError(f"softmax over axis {axis} of {list(x.shape)}", f"0 to {len(x.shape) - 1}")


@op("nn.softmax", "x:f32")
class Softmax(Op):
    """exp(x - max) / sum over one axis."""

    axis: int

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        _require_axis(self.axis, types[0])
        return TensorType(DType.F32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        e = np.exp(args[0] - args[0].max(axis=self.axis, keepdims=True))
        return e / e.sum(axis=self.axis, keepdims=True)


@op("q.softmax", "x:i8|u8")
class QSoftmax(AlongAxis):
    """QLinearSoftmax of opset 13 over one axis."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        _require_axis(self.axis, types[0])
        return TensorType(DType.I8, types[0].shape)

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        return QSoftmax(perm[self.axis])

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        assert types[0].quant is not None
        assert out.quant is not None
        codes = np.moveaxis(args[0], self.axis, -1).astype(np.int32) - types[0].dtype.bounds[0]
        table = exponentials(types[0].quant.scale, codes.shape[-1])
        zero, bounds = out.quant.zero_point, out.dtype.bounds
        y = arithmetic.softmax(codes, table, divisor(out.quant.scale), zero, *bounds)
        return np.moveaxis(y, -1, self.axis)

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """The table of exponentials, then p0 of record Q."""
        assert types[0].quant is not None
        assert out.quant is not None
        table = exponentials(types[0].quant.scale, types[0].shape[self.axis])
        return np.append(table, np.float32(divisor(out.quant.scale)))


@lru_cache(maxsize=256)
def exponentials(scale: float, length: int) -> Array:
    """float32[256]: T[k] = exp((k - 255 + bs) * sx), sums of `length` staying finite.

    bs = max(0, ln(FLT_MAX / length) - 5) / sx, where quotient and logarithm are float32 and the rest
    is float64. The exponential is rounded correctly to float64, then to float32.
    """
    logarithm = np.float32(_log(float(np.float32(FLT_MAX) / np.float32(length))))
    headroom = max(0.0, float(logarithm) - 5) / scale
    arguments = [(k - 255 + headroom) * scale for k in range(256)]
    return np.array([_exp(a) for a in arguments], np.float64).astype(np.float32)


def divisor(scale: float) -> float:
    """p0 = floor(1 / sy), in float32."""
    return float(np.floor(np.float32(1) / np.float32(scale)))


def _exp(value: float) -> float:
    with localcontext() as context:
        context.prec = 60
        return float(Decimal(value).exp())


def _log(value: float) -> float:
    with localcontext() as context:
        context.prec = 60
        return float(Decimal(value).ln())


@onnx_operator("Softmax")
def import_softmax(n: OnnxNode) -> Node:
    """Over one axis; before opset 13 the dimensions from `axis` on are one."""
    x = n.operand(0)
    rank = len(x.shape)
    axis = n.axis(rank, -1 if n.opset >= QLINEAR_SOFTMAX_OPSET else 1)
    length = math.prod(x.shape[axis:])
    if n.opset >= QLINEAR_SOFTMAX_OPSET or length == x.shape[axis]:
        return n.add(Softmax(axis), x)
    rows = n.before(Reshape((x.type.elements // length, length)), x, suffix="rows")
    return n.add(Reshape(x.shape), n.before(Softmax(1), rows, suffix="softmax"))


qlinear("QLinearSoftmax", QLinear("Softmax", [(0, 1, 2)], (3, 4)), MICROSOFT)


@layer("Softmax")
def softmax_layer(call: LayerCall) -> Node:
    """Softmax()."""
    call.done()
    return call.add(Softmax(len(call.value().shape) - 1), call.value())


@quantization_rule(Softmax)
def quantize_softmax(q: Quantizer, node: Node, operation: Softmax, inputs: list[Node]) -> Node:
    """The result's scale is fixed."""
    return q.add(QSoftmax(operation.axis), inputs, node, q.fixed(node, OUTPUT))


@written_as_onnx(QSoftmax)
def write_softmax(w: OnnxWriter, node: Node, operation: QSoftmax) -> None:
    """QLinearSoftmax of com.microsoft."""
    inputs = [*w.quantized(node.inputs[0]), w.scale(node), w.zero_point(node)]
    w.add(
        "QLinearSoftmax",
        inputs,
        w.tensor(node),
        domain=MICROSOFT,
        axis=operation.axis,
        opset=QLINEAR_SOFTMAX_OPSET,
    )
