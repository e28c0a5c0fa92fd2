"""Maps of a step that are averaged, joined, padded or partly dropped, and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, Shape, TensorType
from compiler.ops.average_pool import AveragePool
from compiler.ops.concat import Concat
from compiler.ops.depth_to_space import Take
from compiler.ops.pool_gradient import AveragePoolGradient
from compiler.ops.reduce import Reduce, Spread
from compiler.ops.slices import Pad, Slice
from compiler.ops.sliding_window import Pads, Pair, pooled_shape, windows
from compiler.train.integer.pooling import overlap_bits, require_window
from compiler.train.integer.sums import ChannelSums, Requantized, common_exponent, of_one_factor, requantized
from compiler.train.lowering import Fixed, Lowerer, code_type, integer_rule
from compiler.train.scalars import NUMBER
from isa import arithmetic
from isa.support.records import replace


@op("t.pixel_sums", "x:i8|u8", "shift:i32")
class PixelSums(Requantized):
    """The sum of a map's pixels (n, 1, 1, c), shifted to 8 bits; and the greatest sum."""

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Codes and a number."""
        n, _, _, c = types[0].shape
        return TensorType(code_type(unsigned=self.unsigned), (n, 1, 1, c)), NUMBER

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Exact, then half to even."""
        sums = args[0].astype(np.int64).sum(axis=(1, 2), keepdims=True)
        return self.shifted(arithmetic.wrap32(sums), args[1])


@op("t.spread", "x:i8|u8")
class SpreadCodes(Op):
    """The one pixel of a map at every place of a shape."""

    shape: Shape

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """The same codes."""
        n, h, w, c = types[0].shape
        if (h, w) != (1, 1) or (n, c) != (self.shape[0], self.shape[3]):
            raise ShapeError(f"{list(types[0].shape)} over {list(self.shape)}", "one pixel")
        return TensorType(types[0].dtype, self.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Nothing is computed."""
        return np.broadcast_to(args[0], self.shape).copy()


@op("t.average_pool", "x:i8|u8")
class StepAveragePool(Op):
    """The mean of every window over its valid taps, in float32 as `vpool` has it, half to even."""

    layout: ClassVar[str] = "NHWC"
    kernel: Pair
    strides: Pair
    pads: Pads
    count_include_pad: bool

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Codes of the type of x."""
        shape = pooled_shape(types[0].shape, "NHWC", self.kernel, self.strides, self.pads)
        return TensorType(types[0].dtype, shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Sums are exact; one division."""
        x = args[0].astype(np.int64)
        geometry = (self.kernel, self.strides, (1, 1), self.pads, 0)
        sums = windows(x, *geometry).sum(axis=(-2, -1))
        counts = windows(np.ones_like(x), *geometry).sum(axis=(-2, -1))
        if self.count_include_pad:
            counts = np.full_like(counts, self.kernel[0] * self.kernel[1])
        return arithmetic.to_integer(arithmetic.f32(sums) / arithmetic.f32(counts), *out.dtype.bounds)


@op("t.border_errors", "g:i8", "zero:i32")
class BorderErrors(Op):
    """Errors of windows that count fewer taps at borders: clamp(rne(g * F(taps / valid taps)), -127, 127)."""

    kernel: Pair
    strides: Pair
    pads: Pads
    shape: Shape

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Errors."""
        return types[0]

    def valid(self, axis: int, outputs: int) -> list[int]:
        """The valid taps of every window along rows or columns."""
        extent, pad = self.shape[axis + 1], self.pads[axis]
        firsts = [i * self.strides[axis] - pad for i in range(outputs)]
        return [min(f + self.kernel[axis], extent) - max(f, 0) for f in firsts]

    def factor(self, rows: int, columns: int) -> np.float32:
        """What errors of a window of so many valid taps are multiplied by."""
        return np.float32(self.kernel[0] * self.kernel[1] / (rows * columns))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """In float32, half to even."""
        rows, columns = (self.valid(axis, args[0].shape[axis + 1]) for axis in (0, 1))
        factors = np.array([[self.factor(r, c) for c in columns] for r in rows], np.float32)
        return arithmetic.to_integer(arithmetic.f32(args[0]) * factors[:, :, None], -127, 127)


@op("t.average_pool_errors", "g:i8")
class AveragePoolErrors(Op):
    """A window's error goes to every valid tap; what meets is summed and shifted."""

    kernel: Pair
    strides: Pair
    pads: Pads
    shift: int
    shape: Shape

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Errors of the shape of what was pooled."""
        return TensorType(DType.I8, self.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Half to even, saturated to -127..127."""
        g = args[0].astype(np.float32) * np.float32(self.kernel[0] * self.kernel[1])
        made = AveragePoolGradient(
            self.kernel, self.strides, self.pads, "NHWC", self.shape, count_include_pad=True
        ).evaluate((g,), types, out)
        return np.clip(arithmetic.shift_right_rounding(np.rint(made).astype(np.int64), self.shift), -127, 127)


@op("t.concat", "x*:i8|u8|i32")
class StepConcat(Requantized):
    """Maps one after another along the channels, each shifted to a common exponent, then to 8 bits.

    The operands are `count` maps, as many numbers by which they are shifted right, and the shift of all. The
    second result is the greatest value before that.
    """

    count: int = 2

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Codes and a number."""
        maps = types[: self.count]
        if len(types) != 2 * self.count + 1 or len({t.shape[:-1] for t in maps}) != 1:
            raise ShapeError(f"maps of {', '.join(map(str, types))}", "equal extents but for the channels")
        shape = (*maps[0].shape[:-1], sum(t.shape[-1] for t in maps))
        return TensorType(code_type(unsigned=self.unsigned), shape), NUMBER

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Every shift rounds half to even."""
        parts = [
            arithmetic.shift_right_rounding(codes, int(by))
            for codes, by in zip(args[: self.count], args[self.count : -1], strict=True)
        ]
        return self.shifted(arithmetic.wrap32(np.concatenate(parts, axis=-1)), args[-1])


@op("t.pad", "x:i8|u8")
class PadCodes(Op):
    """Zeros before and after rows and columns."""

    pads: Pads

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """The same codes, and zeros."""
        n, h, w, c = types[0].shape
        top, left, bottom, right = self.pads
        return TensorType(types[0].dtype, (n, h + top + bottom, w + left + right, c))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Nothing is computed."""
        top, left, bottom, right = self.pads
        return np.pad(args[0], ((0, 0), (top, bottom), (left, right), (0, 0)))


@integer_rule(Reduce)
def lower_reduce(lower: Lowerer, node: Node, operation: Reduce) -> Fixed:
    """The mean of all pixels; sums of errors over everything but channels, of a bias."""
    (x,) = node.inputs
    value: Fixed = lower[x]
    last = len(x.shape) - 1
    if operation.function == "sum" and operation.axes == tuple(range(last)):
        sums = lower.add(ChannelSums(), (value.node,), node.name, node)
        return Fixed(sums, value.exponent, value.c)
    if operation.function == "mean" and last == 3 and operation.axes == (1, 2):
        c = value.c / (x.shape[1] * x.shape[2])
        made = PixelSums(unsigned=value.node.type.dtype is DType.U8)
        return requantized(lower, node, made, (value.node,), (value.exponent, c), node.name)
    return lower.fail(node, f"'{node.name}' is a {operation.function} over axes {list(operation.axes)}")


@integer_rule(Spread)
def lower_spread(lower: Lowerer, node: Node, operation: Spread) -> Fixed:
    """A factor of the whole is one of c; a mean has given its error in equal parts."""
    value: Fixed = lower[node.inputs[0]]
    before, after = value.node.shape, node.shape
    count = node.type.elements // node.inputs[0].type.elements
    share = Fraction(1, count) if operation.factor == 1 / count else Fraction(operation.factor)
    if before == after:
        return replace(value, c=value.c * share)
    if len(after) != 4 or before[1:3] != (1, 1):
        lower.fail(node, f"'{node.name}' repeats a value of the shape {list(before)}")
    made = lower.add(SpreadCodes(after), (value.node,), node.name, node)
    return Fixed(made, value.exponent, value.c * share)


@integer_rule(AveragePool)
def lower_average_pool(lower: Lowerer, node: Node, operation: AveragePool) -> Fixed:
    """Exponent and factor as they are."""
    value: Fixed = lower[node.inputs[0]]
    made = StepAveragePool(operation.kernel, operation.strides, operation.pads, operation.count_include_pad)
    return replace(value, node=lower.add(made, (value.node,), node.name, node))


@integer_rule(AveragePoolGradient)
def lower_average_pool_gradient(lower: Lowerer, node: Node, operation: AveragePoolGradient) -> Fixed:
    """The factor is divided by the taps of a window; windows of fewer taps give each of them more."""
    g: Fixed = lower[node.inputs[0]]
    if any(operation.pads) and not operation.count_include_pad:
        more = BorderErrors(operation.kernel, operation.strides, operation.pads, operation.shape)
        g = replace(g, node=lower.add(more, (g.node, lower.constant(0)), f"{node.name}/more", node))
    require_window(lower, node, operation.kernel)
    bits = overlap_bits(operation.kernel, operation.strides)
    made = AveragePoolErrors(operation.kernel, operation.strides, operation.pads, bits, operation.shape)
    exponent = g.exponent if not bits else lower.scalar("add", lower.number(g.exponent), imm=bits)
    c = g.c / (operation.kernel[0] * operation.kernel[1])
    return Fixed(lower.add(made, (g.node,), node.name, node), exponent, c)


@integer_rule(Concat)
def lower_concat(lower: Lowerer, node: Node, operation: Concat) -> Fixed:
    """Values under one exponent, side by side."""
    terms = of_one_factor(lower, node, [lower.value_of(node, operand) for operand in node.inputs])
    if operation.axis != len(node.shape) - 1:
        lower.fail(node, f"'{node.name}' joins along axis {operation.axis}", "the channels")
    common, by = common_exponent(lower, terms)
    unsigned = all(t.node.type.dtype is DType.U8 for t in terms)
    made = StepConcat(count=len(terms), unsigned=unsigned)
    operands = (*(t.node for t in terms), *by)
    return requantized(lower, node, made, operands, (common, terms[0].c), node.name)


@integer_rule(Pad)
def lower_pad(lower: Lowerer, node: Node, operation: Pad) -> Fixed:
    """Zeros around images."""
    value: Fixed = lower[node.inputs[0]]
    before, after = operation.before, operation.after
    around = len(before) == 4 and not any((before[0], before[3], after[0], after[3]))
    if operation.mode != "constant" or operation.value or not around:
        lower.fail(node, f"'{node.name}' pads otherwise than rows and columns by zeros")
    made = PadCodes((before[1], before[2], after[1], after[2]))
    return replace(value, node=lower.add(made, (value.node,), node.name, node))


@integer_rule(Take)
def lower_take(lower: Lowerer, node: Node, operation: Take) -> Fixed:
    """Codes as they are, some of them again; the batch stays whole."""
    value: Fixed = lower[node.inputs[0]]
    if operation.axis == 0:
        lower.fail(node, f"'{node.name}' takes some samples of a batch")
    return replace(value, node=lower.add(operation, (value.node,), node.name, node))


@integer_rule(Slice)
def lower_slice(lower: Lowerer, node: Node, operation: Slice) -> Fixed:
    """Codes as they are; the batch stays whole."""
    value: Fixed = lower[node.inputs[0]]
    shape = value.node.shape
    if (operation.starts[0], operation.counts[0], operation.steps[0]) != (0, shape[0], 1):
        lower.fail(node, f"'{node.name}' takes some samples of a batch")
    return replace(value, node=lower.add(operation, (value.node,), node.name, node))
