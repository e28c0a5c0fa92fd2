"""Convolutions of a step: forward, errors of inputs, sums for the gradients of weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, Shape, TensorType
from compiler.ops.conv2d import Conv2d, convolved_shape, grouped_product
from compiler.ops.conv2d_gradient import Conv2dInputGradient, Conv2dWeightGradient
from compiler.ops.sliding_window import Pads, Pair, windows
from compiler.train.integer.sums import Requantized, ending_of, requantized, sum_type
from compiler.train.integer.weights import bias_of, weights_of
from compiler.train.lowering import Fixed, Lowerer, code_type, integer_rule
from compiler.train.scalars import NUMBER
from isa import arithmetic
from isa.support.records import Frozen


@op("t.conv2d", "x:i8|u8", "w:i8", "b:i32", "shift:i32")
class StepConv2d(Requantized):
    """Convolution of codes (n, h, w, c) with codes (out, in, kh, kw) plus b, shifted to 8 bits.

    The second result is the greatest sum: of u8 results as it is, at least 0; else its magnitude.
    """

    strides: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilations: Pair = (1, 1)
    groups: int = 1

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Codes and a number."""
        shape = convolved_shape(types[:3], self.strides, self.pads, self.dilations, "NHWC", self.groups)
        return TensorType(code_type(unsigned=self.unsigned), shape), NUMBER

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Sums wrap to int32."""
        x, w, b, shift = args
        taken = windows(x.astype(np.float64), w.shape[2:], self.strides, self.dilations, self.pads, 0)
        sums = arithmetic.wrap32(grouped_product(taken, w.astype(np.float64), self.groups))
        return self.shifted(arithmetic.add_wrapping(sums, b), shift)


@op("t.conv2d_weight_sums", "x:i8|u8", "g:i8")
class Conv2dWeightSums(Op):
    """For every weight (out, in, kh, kw) the sum of inputs times errors, over all outputs; exact."""

    strides: Pair
    pads: Pads
    dilations: Pair
    groups: int
    shape: Shape

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Sums of the shape of the weights."""
        return TensorType(sum_type(math.prod(types[1].shape[:3]), *types), self.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Exact."""
        x, g = (a.astype(np.float64) for a in args)
        made = Conv2dWeightGradient(
            self.strides, self.pads, self.dilations, "NHWC", self.groups, self.shape
        ).evaluate((x, g), types, out)
        return made.astype(out.dtype.numpy)


@op("t.turn_weights", "w:i8")
class TurnWeights(Op):
    """The weights of a convolution that takes errors back: inputs and outputs change places, in each group.

    `rows` and `columns` say which of the kernel stand where; -1 is a row or column of zeros.
    """

    groups: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """(g * in / g, out / g, rows, columns)."""
        out, in_, *_ = types[0].shape
        return TensorType(
            DType.I8, (in_ * self.groups, out // self.groups, len(self.rows), len(self.columns))
        )

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Nothing is computed."""
        outs, in_, kh, kw = types[0].shape
        bordered = np.zeros((outs, in_, kh + 1, kw + 1), np.int8)  # index -1: zeros
        bordered[:, :, :kh, :kw] = args[0]
        taken = bordered[:, :, self.rows][..., self.columns]
        split = taken.reshape(self.groups, outs // self.groups, in_, *out.shape[2:])
        return np.ascontiguousarray(split.transpose(0, 2, 1, 3, 4)).reshape(out.shape)


@op("t.interleave", "x*:i8")
class Interleave(Op):
    """An image from its phases: pixel (y, x) is that of phase (y mod sh, x mod sw); 0 where there is none."""

    shape: Shape
    strides: Pair
    phases: tuple[Pair, ...]
    """Of every operand."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Errors."""
        return TensorType(DType.I8, self.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Nothing is computed."""
        made = np.zeros(self.shape, np.int8)
        for x, (py, px) in zip(args, self.phases, strict=True):
            made[:, py :: self.strides[0], px :: self.strides[1]] = x
        return made


class Taps(Frozen):
    """One dimension of a convolution that takes errors back to one phase of the inputs."""

    kernel: tuple[int, ...]
    """Which taps of the kernel stand where; -1: a zero."""
    dilation: int
    before: int
    after: int

    @staticmethod
    def of(
        phase: int, extent: int, errors: int, taps: int, stride: int, dilation: int, pad: int
    ) -> Taps | None:
        """For inputs phase, phase + stride, ... of so many, and so many errors; None where no tap meets them.

        Input phase + stride*q meets tap k in error q + (phase + pad - k*dilation) / stride.
        """
        met = {
            (phase + pad - k * dilation) // stride: k
            for k in range(taps)
            if (phase + pad - k * dilation) % stride == 0
        }
        if not met:
            return None
        step = dilation // math.gcd(dilation, stride)
        first, last = min(met), max(met)
        count = -(-(extent - phase) // stride)
        while first > 0:  # errors before the first are not skipped, but met by zeros
            first -= step
        while count - 1 + last < errors - 1:
            last += step
        kernel = tuple(met.get(at, -1) for at in range(first, last + 1, step))
        return Taps(kernel, step, -first, count - 1 + last - (errors - 1))


@integer_rule(Conv2d)
def lower_conv(lower: Lowerer, node: Node, operation: Conv2d) -> Fixed:
    """Codes of the sums; unsigned ones where a ReLU follows."""
    x, w, b = node.inputs
    if operation.groups != 1 and not operation.groups == w.shape[0] == x.shape[-1]:
        lower.groups[w.name] = operation.groups
    value: Fixed = lower[x]
    codes, exponent = weights_of(lower, w)
    e = lower.plus(value.exponent, exponent)
    made = StepConv2d(
        strides=operation.strides,
        pads=operation.pads,
        dilations=operation.dilations,
        groups=operation.groups,
    )
    operands = (value.node, codes, bias_of(lower, b, e, value.c))
    ending = ending_of(lower, node, operation.clamp)
    return requantized(lower, node, made, operands, (e, value.c), f"{node.name}/y", ending)


@integer_rule(Conv2dInputGradient)
def lower_input_gradient(lower: Lowerer, node: Node, operation: Conv2dInputGradient) -> Fixed:
    """A convolution of the errors with the weights turned around."""
    g, w = node.inputs
    value: Fixed = lower[g]
    codes, exponent = weights_of(lower, w)
    e = lower.plus(value.exponent, exponent)
    shift = lower.shift(node.name)
    maps: dict[Pair, Node] = {}
    seen: list[Node] = []
    for phase in np.ndindex(*operation.strides):
        rows, columns = (
            Taps.of(
                phase[i],
                operation.shape[i + 1],
                g.shape[i + 1],
                w.shape[i + 2],
                operation.strides[i],
                operation.dilations[i],
                operation.pads[i],
            )
            for i in (0, 1)
        )
        if (
            rows is None
            or columns is None
            or min(phase[0] - operation.shape[1], phase[1] - operation.shape[2]) >= 0
        ):
            continue
        turned = _turned(lower, w, codes, TurnWeights(operation.groups, rows.kernel, columns.kernel))
        zeros = lower.graph.const(np.zeros(turned.shape[0], np.int32), "nothing")
        pads = (rows.before, columns.before, rows.after, columns.after)
        made = StepConv2d(pads=pads, dilations=(rows.dilation, columns.dilation), groups=operation.groups)
        name = node.name if operation.strides == (1, 1) else f"{node.name}/{phase[0]}_{phase[1]}"
        maps[phase] = lower.add(made, (value.node, turned, zeros, shift), name, node)
        seen.append(lower.graph.element(maps[phase], 1, f"{name}/seen"))
    lower.observed(node.name, functools.reduce(lambda a, b: lower.scalar("max", a, b), seen), unsigned=False)
    result = (
        maps[0, 0]
        if operation.strides == (1, 1)
        else lower.add(
            Interleave(operation.shape, operation.strides, tuple(maps)), tuple(maps.values()), node.name, node
        )
    )
    return Fixed(result, lower.plus(e, shift), value.c)


def _turned(lower: Lowerer, w: Node, codes: Node, turn: TurnWeights) -> Node:
    """The codes of a parameter turned around, once for all that need them so."""
    if (w.id, turn) not in lower.made:
        places = "_".join(map(str, (*turn.rows, "x", *turn.columns)))
        lower.made[w.id, turn] = lower.add(turn, (codes,), f"{w.name}/turned_{places}", w)
    return lower.made[w.id, turn]


@integer_rule(Conv2dWeightGradient)
def lower_weight_gradient(lower: Lowerer, node: Node, operation: Conv2dWeightGradient) -> Fixed:
    """Sums over the batch."""
    x, g = (lower[i] for i in node.inputs)
    made = Conv2dWeightSums(
        operation.strides, operation.pads, operation.dilations, operation.groups, operation.shape
    )
    sums = lower.add(made, (x.node, g.node), node.name, node)
    return Fixed(sums, lower.plus(x.exponent, g.exponent), x.c * g.c)
