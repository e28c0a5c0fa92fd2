"""Pooling, activations and their errors in a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import ClampGradient
from compiler.ops.max_pool import MaxPool
from compiler.ops.pool_gradient import MaxPoolGradient
from compiler.ops.sliding_window import Pads, Pair
from compiler.train.integer.sums import RELU
from compiler.train.lowering import Fixed, Lowerer, integer_rule
from isa import arithmetic
from isa.instructions.vector_gradient import PoolingGradient
from isa.spec import greatest
from isa.support.records import replace


@op("t.max_pool_errors", "x:i8|u8", "g:i8")
class MaxPoolErrors(Op):
    """A window's error goes to the first of its greatest values, row by row; what meets is summed, shifted.

    With `rectified` a window whose greatest value is 0 or less gives nothing.
    """

    layout: ClassVar[str] = "NHWC"
    kernel: Pair
    strides: Pair
    pads: Pads
    shift: int
    rectified: bool = False

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Errors of the shape of what was pooled."""
        return TensorType(DType.I8, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Half to even, saturated to -127..127."""
        x, g = (a.astype(np.float32) for a in args)
        made = MaxPoolGradient(self.kernel, self.strides, self.pads, self.layout, x.shape)
        sums = made.evaluate((x, g), types, out).astype(np.int64)
        if self.rectified:
            sums = np.where(x > 0, sums, 0)
        return np.clip(arithmetic.shift_right_rounding(sums, self.shift), -127, 127)


@op("t.mask", "g:i8|u8", "y:i8|u8")
class Mask(Op):
    """The code g where low < y < high, else 0."""

    low: int
    high: int

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Errors."""
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Nothing is computed."""
        g, y = args
        return np.where((y.astype(np.int32) > self.low) & (y.astype(np.int32) < self.high), g, 0)


def overlap_bits(kernel: Pair, strides: Pair) -> int:
    """Bits that a sum of errors may grow by where windows overlap."""
    return (-(-kernel[0] // strides[0]) * -(-kernel[1] // strides[1]) - 1).bit_length()


@integer_rule(MaxPool)
def lower_max_pool(lower: Lowerer, node: Node, operation: MaxPool) -> Fixed:
    """Codes as they are."""
    value: Fixed = lower[node.inputs[0]]
    return replace(value, node=lower.add(operation, (value.node,), node.name, node))


@integer_rule(MaxPoolGradient)
def lower_max_pool_gradient(lower: Lowerer, node: Node, operation: MaxPoolGradient) -> Fixed:
    """Shifted where windows overlap."""
    x, g = (lower[i] for i in node.inputs)
    if operation.dilations != (1, 1):
        lower.fail(node, f"'{node.name}' comes from a dilated pooling", "dilation 1")
    require_window(lower, node, operation.kernel)
    bits = overlap_bits(operation.kernel, operation.strides)
    made = MaxPoolErrors(operation.kernel, operation.strides, operation.pads, bits)
    exponent = g.exponent if not bits else lower.scalar("add", lower.number(g.exponent), imm=bits)
    return Fixed(lower.add(made, (x.node, g.node), node.name, node), exponent, g.c)


def require_window(lower: Lowerer, node: Node, kernel: tuple[int, int]) -> None:
    """Refuse windows through which `vpoolb` cannot bring errors back.

    Raises:
        Unsupported: the window is larger.
    """
    most = greatest(PoolingGradient, "kh"), greatest(PoolingGradient, "kw")
    if kernel[0] > most[0] or kernel[1] > most[1]:
        text = f"'{node.name}' comes from a pooling by windows of {kernel[0]} x {kernel[1]}"
        lower.fail(node, text, f"at most {most[0]} x {most[1]}; global pooling of any size")


@integer_rule(ClampGradient)
def lower_clamp_gradient(lower: Lowerer, node: Node, operation: ClampGradient) -> Fixed:
    """Errors pass where a ReLU gives something; a pooling that comes after it sees that itself."""
    error, y = (lower[i] for i in node.inputs)
    pooled = error.node.op
    if (operation.low, operation.high) != RELU:
        highest = getattr(y.node.op, "high", None)
        if highest is None:
            lower.fail(node, f"'{node.name}' comes from a clamp to {operation.low:g}..{operation.high:g}")
        made = lower.add(Mask(0, highest), (error.node, y.node), node.name, node)
        return replace(error, node=made)
    if isinstance(pooled, MaxPoolErrors) and error.node.inputs[0] is y.node:
        made = lower.add(replace(pooled, rectified=True), error.node.inputs, node.name, node)
    else:
        made = lower.add(Mask(0, 256), (error.node, y.node), node.name, node)
    return replace(error, node=made)
