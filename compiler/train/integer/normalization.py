"""Batch normalization in a step: exact sums of codes, statistics and coefficients in float32, codes again.

Statistics are in units of the codes: a value is q * lsb, lsb = 2^e * c. A normalized value is near 1,
whatever that was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ops.batch_norm import BatchNorm, BatchNormErrors, BatchNormScaleGradient
from compiler.ops.shapes import Reshape
from compiler.train.integer.sums import Requantized, ending_of, requantized, sum_type
from compiler.train.lowering import Fixed, Lowerer, code_type, integer_rule, unit_of
from compiler.train.scalars import NUMBER
from isa import arithmetic
from isa.support.records import Frozen

F: Final = np.float32
FRACTION_BITS: Final = 16
"""Normalized values count in steps of 2^-16."""
MEAN_BITS: Final = 16
"""Means of groups are summed in steps of 2^-16."""
VARIANCE_BITS: Final = 8
"""Their variances in steps of 2^-8."""
SAFE_GROUPS: Final = 128
"""Groups whose means, in those steps, an int32 can sum."""
GRADIENT_BITS: Final = 8
"""Gradients of scales are summed in steps of 2^-8 of an error's unit."""
SAFE_PIXELS: Final = 66_052
"""Pixels whose gradients, in those steps, an int32 can sum."""
Rows = NDArray[np.float32]


Groups = tuple[int, ...]
"""Sizes of groups of samples that follow one another."""


def samples_of(groups: Groups) -> Iterator[tuple[int, slice]]:
    """The number of every group, and its samples."""
    first = 0
    for index, count in enumerate(groups):
        yield index, slice(first, first + count)
        first += count


def counts_of(groups: Groups, pixels: int) -> Rows:
    """Elements of a channel in every group: a column of float32."""
    return np.array([[count * pixels] for count in groups], F)


def rows_of(groups: Groups, x: TensorType, dtype: DType = DType.F32) -> TensorType:
    """A number for every group and channel.

    Raises:
        ShapeError: the groups are not the samples.
    """
    if len(x.shape) != 4 or sum(groups) != x.shape[0]:
        raise ShapeError(f"groups of {list(groups)} of {list(x.shape)}", "images, each in a group")
    return TensorType(dtype, (len(groups), x.shape[-1]))


@op("t.group_sums", "x*:i8|u8")
class GroupSums(Op):
    """For every group and channel the sum of codes, or of the products of two maps; exact."""

    groups: Groups

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Sums."""
        if len(types) > 2 or types[0].shape != types[-1].shape:
            raise ShapeError(f"sums of {', '.join(map(str, types))}", "one map, or two of one shape")
        products = max(self.groups) * types[0].shape[1] * types[0].shape[2]
        return rows_of(self.groups, types[0], sum_type(products, *types))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Exact."""
        products = args[0].astype(np.int64) * (args[1].astype(np.int64) if len(args) > 1 else 1)
        sums = [products[taken].sum(axis=(0, 1, 2)) for _, taken in samples_of(self.groups)]
        return np.stack(sums).astype(out.dtype.numpy)


@op("t.group_statistics", "sums:i32|i64", "squares:i32|i64")
class GroupStatistics(Op):
    """Means F(sums)/M and variances max(F(squares)/M - mean*mean, 0), M the elements of a channel."""

    groups: Groups
    pixels: int

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Means and variances."""
        rows = TensorType(DType.F32, types[0].shape)
        return rows, rows

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Every operation is rounded to float32."""
        sums, squares = (arithmetic.f32(a) / counts_of(self.groups, self.pixels) for a in args)
        return sums, np.maximum(squares - sums * sums, F(0))


@op("t.running_statistics", "mean:f32", "variance:f32", "e:i32")
class RunningStatistics(Op):
    """Running means and variances in units of codes: mean/lsb, variance/(lsb*lsb), lsb = F(F(c) * 2^e)."""

    factor: float

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """One group."""
        rows = TensorType(DType.F32, (1, *types[0].shape))
        return rows, rows

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Every operation is rounded to float32."""
        mean, variance, e = args
        lsb = unit_of(self.factor, e)
        return (mean / lsb)[None], (variance / (lsb * lsb))[None]


@op("t.normalization", "mean:f32", "variance:f32", "scale:f32", "offset:f32", "e:i32")
class Normalization(Op):
    """What values are multiplied by, and what is added then; and 1/deviation.

    root = 1/sqrt(variance + epsilon/(lsb*lsb)), gain = scale*root, rest = offset - mean*gain.
    """

    factor: float
    epsilon: float

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Gains, rests, roots."""
        return (types[0],) * 3

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Every operation is rounded to float32."""
        mean, variance, scale, offset, e = args
        lsb = unit_of(self.factor, e)
        root = F(1) / np.sqrt(variance + F(self.epsilon) / (lsb * lsb))
        gain = scale * root
        return gain, offset - mean * gain, root


@op("t.normalize", "x:i8|u8", "gain:f32", "rest:f32", "shift:i32")
class Normalize(Requantized):
    """Codes times gains plus rests of their group, in steps of 2^-16, then shifted; the greatest step."""

    groups: Groups = ()

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Codes and a number."""
        rows_of(self.groups, types[0])
        return TensorType(code_type(unsigned=self.unsigned), types[0].shape), NUMBER

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Every operation is rounded to float32; steps are clamped to -2^30..2^30."""
        x, gain, rest, shift = args
        return self.shifted(fraction(self.groups, [(x, gain)], rest), shift)


@op("t.normalize_errors", "g:i8", "x:i8|u8", "gain:f32", "slope:f32", "rest:f32", "shift:i32")
class NormalizeErrors(Requantized):
    """F(g)*gain + (F(x)*slope + rest) in steps of 2^-16, then shifted; and the greatest step."""

    groups: Groups = ()

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Codes and a number."""
        rows_of(self.groups, types[0])
        return TensorType(DType.I8, types[0].shape), NUMBER

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Every operation is rounded to float32; steps are clamped to -2^30..2^30."""
        g, x, gain, slope, rest, shift = args
        return self.shifted(fraction(self.groups, [(g, gain), (x, slope)], rest), shift)


@op("t.normalization_errors", "errors:i32|i64", "products:i32|i64", "mean:f32", "gain:f32", "root:f32")
class NormalizationErrors(Op):
    """How errors depend on the values that were normalized, and the gradient of the scales.

    Of the sums of errors g and of products g*x of every group: s = (F(products) - mean*F(errors))*root, slope
    = 0 - gain*root*(s/M), rest = (0 - gain*(F(errors)/M)) - slope*mean, and the sum over groups of
    rne(s * 2^bits).
    """

    groups: Groups
    pixels: int
    bits: int

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Slopes, rests, words."""
        return types[2], types[2], TensorType(DType.I32, types[2].shape[1:])

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Every operation is rounded to float32."""
        errors, products, mean, gain, root = args
        wide, count = arithmetic.f32(errors), counts_of(self.groups, self.pixels)
        s = (arithmetic.f32(products) - mean * wide) * root
        slope = F(0) - gain * root * (s / count)
        rest = (F(0) - gain * (wide / count)) - slope * mean
        words = arithmetic.to_word(s * F(2.0**self.bits)).sum(axis=0, dtype=np.int64)
        return slope, rest, arithmetic.wrap32(words)


@op("t.moving_average", "mean:f32", "variance:f32", "e:i32", "old*:f32")
class MovingAverage(Op):
    """Running means and variances after a step: old*keep + new*part.

    Means and variances of groups are summed as words, so that the order of groups does not matter. `old` is
    the running mean and variance, then perhaps keep and part, which else are `momentum` and 1 - `momentum`.
    """

    factor: float
    momentum: float

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Mean and variance."""
        return types[3], types[4]

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Every operation is rounded to float32."""
        mean, variance, e, old_mean, old_variance, *given = args
        keep, part = given[0] if given else (F(self.momentum), F(1 - self.momentum))
        lsb = unit_of(self.factor, e)
        (m, m_unit), (v, v_unit) = (
            (_sum_of_words(rows, bits), unit)
            for rows, (bits, unit) in zip((mean, variance), steps_of(len(mean)), strict=True)
        )
        new_mean = m * m_unit * lsb
        new_variance = v * v_unit * lsb * lsb
        return old_mean * keep + new_mean * part, old_variance * keep + new_variance * part


def steps_of(groups: int) -> tuple[tuple[int, np.float32], ...]:
    """Of means and variances of groups: bits of their words, and what a word of the sum stands for."""
    less = max(0, math.ceil(math.log2(groups / SAFE_GROUPS)))
    return tuple((bits - less, F(2.0 ** (less - bits) / groups)) for bits in (MEAN_BITS, VARIANCE_BITS))


def gradient_bits(pixels: int) -> int:
    """Bits of the words that the gradients of scales are summed in, over so many pixels."""
    return GRADIENT_BITS - max(0, math.ceil(math.log2(pixels / SAFE_PIXELS)))


def _sum_of_words(rows: Array, bits: int) -> Array:
    words = arithmetic.to_word(rows * F(2.0**bits)).sum(axis=0, dtype=np.int64)
    return arithmetic.f32(arithmetic.wrap32(words))


def fraction(groups: Groups, terms: Sequence[tuple[Array, Array]], rest: Array) -> Array:
    """The first map times its rows, plus (the next times its rows, plus the rest), in steps of 2^-16."""
    made: list[Array] = []
    for index, taken in samples_of(groups):
        total: Any = rest[index]
        for codes, rows in reversed(terms):
            total = arithmetic.f32(codes[taken]) * rows[index] + total
        made.append(arithmetic.to_word(total * F(1 << FRACTION_BITS)))
    return np.concatenate(made)


# --- from stage nn -------------------------------------------------------------------------------


class WayThere(Frozen):
    """What the way back of a normalization needs of the way there: what came in, and its rows."""

    x: Fixed
    mean: Node
    gain: Node
    root: Node


def _images(lower: Lowerer, value: Fixed) -> Node:
    """Codes as images: those of a matrix have one pixel."""
    shape = value.node.shape
    if len(shape) == 4:
        return value.node
    key = value.node.id, "images"
    if key not in lower.made:
        operation = Reshape((shape[0], 1, 1, shape[-1]))
        lower.made[key] = lower.add(operation, (value.node,), f"{value.node.name}/images", value.node)
    return lower.made[key]


def _row(lower: Lowerer, parameter: Node) -> Node:
    """A parameter in float32, or the constant that stands for one."""
    if parameter.is_constant:
        return lower.graph.const(parameter.constant, parameter.name)
    return lower.state(parameter.name, parameter.type)


@integer_rule(BatchNorm)
def lower_batch_norm(lower: Lowerer, node: Node, operation: BatchNorm) -> Fixed:
    """By the statistics of groups, which then move the running ones; or by the running ones."""
    x, scale, offset, mean, variance = node.inputs
    value: Fixed = lower[x]
    codes, factor, e = _images(lower, value), float(value.c), lower.number(value.exponent)
    old = _row(lower, mean), _row(lower, variance)
    groups = operation.groups or (codes.shape[0],)
    if operation.groups:
        sums = [
            lower.add(GroupSums(groups), maps, f"{node.name}/{what}", node)
            for what, maps in (("totals", (codes,)), ("squares", (codes, codes)))
        ]
        pixels = codes.shape[1] * codes.shape[2]
        means = lower.add(GroupStatistics(groups, pixels), sums, f"{node.name}/statistics", node)
    else:
        means = lower.add(RunningStatistics(factor), (*old, e), f"{node.name}/statistics", node)
    variances = lower.graph.element(means, 1, f"{node.name}/variances")
    if operation.groups:
        _move(lower, node, MovingAverage(factor, operation.momentum), (means, variances, e, *old))
    rows = means, variances, _row(lower, scale), _row(lower, offset), e
    gain = lower.add(Normalization(factor, operation.epsilon), rows, f"{node.name}/gain", node)
    rest, root = (lower.graph.element(gain, i, f"{node.name}/{n}") for i, n in ((1, "rest"), (2, "root")))
    lower.normalized[x.id, mean.id] = WayThere(value, means, gain, root)
    made = Normalize(groups=groups)
    unit = lower.constant(-FRACTION_BITS), Fraction(1)
    ending = ending_of(lower, node, operation.clamp)
    result = requantized(lower, node, made, (codes, gain, rest), unit, f"{node.name}/y", ending)
    return _as(lower, node, result)


def _as(lower: Lowerer, node: Node, result: Fixed) -> Fixed:
    """A result in the shape of its node again."""
    if result.node.shape == node.shape:
        return result
    flat = lower.add(Reshape(node.shape), (result.node,), f"{node.name}/flat", node)
    return Fixed(flat, result.exponent, result.c)


def _move(lower: Lowerer, node: Node, operation: MovingAverage, operands: tuple[Node, ...]) -> None:
    """Let the running statistics move, in training and where they are being measured."""
    if not lower.training and lower.moving is None:
        return
    given = () if lower.moving is None else (lower.moving,)
    made = lower.add(operation, (*operands, *given), f"{node.name}/moving", node)
    _, _, _, mean, variance = node.inputs
    lower.leave(mean.name, made)
    lower.leave(variance.name, lower.graph.element(made, 1, f"{node.name}/moving_variance"))


def _sums_of_errors(lower: Lowerer, node: Node, groups: tuple[int, ...]) -> Node:
    """Slopes, rests and the gradient of the scales, once for all that need them."""
    g, normalized = lower[node.inputs[0]], _way_there(lower, node)
    key = node.inputs[0].id, normalized.gain.id, "errors"
    if key not in lower.made:
        errors, codes = _images(lower, g), _images(lower, normalized.x)
        name, pixels = node.name.rpartition("/")[0], codes.shape[1] * codes.shape[2]
        sums = lower.add(GroupSums(groups), (errors,), f"{name}/error_totals", node)
        products = lower.add(GroupSums(groups), (errors, codes), f"{name}/products", node)
        made = NormalizationErrors(groups, pixels, gradient_bits(codes.shape[0] * pixels))
        operands = sums, products, normalized.mean, normalized.gain, normalized.root
        lower.made[key] = lower.add(made, operands, f"{name}/slope", node)
    return lower.made[key]


def _way_there(lower: Lowerer, node: Node) -> WayThere:
    """What the normalization has left whose errors or gradient a node is."""
    _, x, *_, mean, _ = node.inputs
    return lower.normalized[x.id, mean.id]


@integer_rule(BatchNormErrors)
def lower_errors(lower: Lowerer, node: Node, operation: BatchNormErrors) -> Fixed:
    """Times the gain; statistics of groups depend on every value."""
    errors, normalized = lower[node.inputs[0]], _way_there(lower, node)
    codes, value = _images(lower, errors), normalized.x
    below = lower.scalar(
        "sub", lower.number(errors.exponent), lower.number(value.exponent), imm=FRACTION_BITS
    )
    unit = below, errors.c / value.c
    if operation.groups:
        slope = _sums_of_errors(lower, node, operation.groups)
        rest = lower.graph.element(slope, 1, f"{node.name}/rest")
        made, values = NormalizeErrors(groups=operation.groups), _images(lower, value)
        operands = codes, values, normalized.gain, slope, rest
        return _as(lower, node, requantized(lower, node, made, operands, unit, node.name))
    nothing = lower.graph.const(np.zeros(normalized.gain.shape, F), f"{node.name}/nothing")
    made = Normalize(groups=(codes.shape[0],))
    return _as(
        lower, node, requantized(lower, node, made, (codes, normalized.gain, nothing), unit, node.name)
    )


@integer_rule(BatchNormScaleGradient)
def lower_scale_gradient(lower: Lowerer, node: Node, operation: BatchNormScaleGradient) -> Fixed:
    """Words that are summed over groups."""
    errors: Fixed = lower[node.inputs[0]]
    slope = _sums_of_errors(lower, node, operation.groups)
    made = slope.op
    assert isinstance(made, NormalizationErrors)
    words = lower.graph.element(slope, 2, node.name)
    return Fixed(words, lower.scalar("sub", lower.number(errors.exponent), imm=made.bits), errors.c)
