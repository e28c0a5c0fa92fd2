"""Sums of a step: how they become 8-bit codes, sums of values, sums of errors over a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import Clamp, Unary, UnaryGradient
from compiler.ops.add import Add
from compiler.ops.conv2d import Conv2d
from compiler.ops.shapes import Reshape, unreshaped
from compiler.train.losses.binary_crossentropy import BinaryCrossentropy, BinaryCrossentropyGradient
from compiler.train.lowering import Fixed, Lowerer, code_bounds, code_type, integer_rule
from compiler.train.scalars import NUMBER
from isa import arithmetic
from isa.support.records import Frozen, replace

MOST_APART: Final = 16
"""Bits by which the operand of the greatest exponent is shifted left at most, to meet the others."""
SLOPES_APART: Final = 4
"""The same of what a PReLU sums: slopes that begin at 0 would fill the greatest sums with shifted zeros."""
RELU: Final = (0.0, float("inf"))
MOST_CLAMPED: Final = 7.96875
"""Of a clamp from 0 on: 255 codes of 2^-5."""
CLAMP_EXPONENT: Final = -5
UNITLESS: Final = frozenset({0.0, -math.inf, math.inf})
"""Bounds that are the same in every unit."""
NARROW: Final = ("tanh",)


class Ending(Frozen):
    """How sums become 8-bit codes: without sign, up to a code, at a fixed exponent if one is given."""

    unsigned: bool = False
    high: int | None = None
    exponent: int | None = None


class Requantized(Op):
    """The base of operations whose sums are shifted to 8 bits, the shift their last operand.

    A sum is multiplied by `factor` besides, and a code is at most `high`.
    """

    unsigned: bool = False
    factor: float = 1.0
    high: int | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest code."""
        low, high = code_bounds(code_type(unsigned=self.unsigned))
        return low, high if self.high is None else self.high

    def shifted(self, sums: Array, shift: Array) -> tuple[Array, Array]:
        """Codes of int32 sums, rounded half to even and saturated, and the greatest sum."""
        codes = arithmetic.requantize_shifted(sums, 0, self.factor, int(shift), *self.bounds)
        return codes, greatest_of(sums, unsigned=self.unsigned)


def sum_type(products: int, *codes: TensorType) -> DType:
    """The type of exact sums of so many products: int32 where they cannot be beyond it."""
    return DType.I32 if products <= most_products(*codes) else DType.I64


def most_products(*codes: TensorType) -> int:
    """How many products of codes, or codes times 1, an int32 can sum."""
    return arithmetic.INT32_MAX // math.prod(max(map(abs, kind.dtype.bounds)) for kind in codes)


def greatest_of(sums: Array, *, unsigned: bool) -> Array:
    """The greatest sum: as it is, at least 0, where codes have no sign; else its magnitude."""
    wide = sums.astype(np.int64)
    greatest = np.maximum(wide, 0).max() if unsigned else np.abs(wide).max()
    return np.asarray(min(int(greatest), arithmetic.INT32_MAX), np.int32)


def ending_of(lower: Lowerer, node: Node, clamp: tuple[float, float] | None) -> Ending:
    """What follows the sums of a node: a clamp, or a function that wants its operand at an exponent."""
    if clamp == RELU:
        return Ending(unsigned=True)
    if clamp is not None and clamp[0] == 0 and clamp[1] <= MOST_CLAMPED:
        exponent = CLAMP_EXPONENT
        return Ending(unsigned=True, high=round(clamp[1] * 2**-exponent), exponent=exponent)
    if clamp is not None:
        lower.fail(node, f"'{node.name}' ends in a clamp to {clamp[0]:g}..{clamp[1]:g}", "0..inf, 0..6")
    wanted = {domain_of(user, node) for user in node.graph.users(node)}
    return Ending(exponent=wanted.pop() if len(wanted) == 1 and node not in node.graph.outputs else None)


def domain_of(user: Node, operand: Node) -> int | None:
    """The exponent that a user wants of its operand: a function, or its derivative of what went into it.

    The errors that a derivative is multiplied with have whatever exponent they have.
    """
    operation = user.op
    if isinstance(operation, BinaryCrossentropyGradient):
        return domain_exponent(BinaryCrossentropy.end)
    if not isinstance(operation, Unary | UnaryGradient) or has_no_unit(operation):
        return None
    if isinstance(operation, UnaryGradient) and operand is not user.inputs[1]:
        return None
    return domain_exponent(operation.function)


def has_no_unit(operation: Unary | UnaryGradient) -> bool:
    """Whether a function does not care about the unit of its operand: f(u x) = u f(x), u positive."""
    if operation.function == "clamp":
        return UNITLESS.issuperset(operation.parameters)
    return operation.function in ("abs", "leaky_relu", "neg")


def domain_exponent(function: str) -> int:
    """The exponent of a function's operand: codes of -4..4 where that is all that matters, else of -8..8."""
    return -5 if function in NARROW else -4


def requantized(
    lower: Lowerer,
    node: Node,
    operation: Requantized,
    operands: Sequence[Node],
    value: tuple[Node | None, Fraction],
    key: str,
    ending: Ending | None = None,
) -> Fixed:
    """The result of an operation that ends in a shift, from sums of an exponent and a factor.

    Without an `ending` at a fixed exponent the steps before say how much is shifted.
    """
    exponent, c = value
    if ending is not None:
        operation = replace(operation, unsigned=ending.unsigned, high=ending.high)
    if ending is not None and ending.exponent is not None:
        shift = lower.scalar("sub", lower.constant(ending.exponent), lower.number(exponent))
        operation = replace(operation, factor=float(np.float32(c)))
        made = lower.add(operation, (*operands, shift), key, node)
        return Fixed(made, lower.constant(ending.exponent), Fraction(1))
    shift = lower.shift(key)
    made = lower.add(operation, (*operands, shift), key, node)
    lower.observed(key, lower.graph.element(made, 1, f"{key}/seen"), unsigned=made.type.dtype is DType.U8)
    return Fixed(made, lower.plus(exponent, shift), c)


@op("t.add", "x*:i8|u8|i32")
class StepAdd(Requantized):
    """The sum of codes, each shifted to the exponent of the sum, then shifted to 8 bits.

    The operands are `count` maps of codes, as many numbers by which they are shifted right, and the shift of
    the sum. The second result is the greatest sum.
    """

    count: int = 2

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Codes of the common shape, and a number."""
        if len(types) != 2 * self.count + 1 or len({t.shape for t in types[: self.count]}) != 1:
            raise ShapeError(f"a sum of {', '.join(map(str, types))}", "maps of one shape, and their shifts")
        return TensorType(code_type(unsigned=self.unsigned), types[0].shape), NUMBER

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Every shift rounds half to even."""
        total = np.zeros(types[0].shape, np.int64)
        for codes, by in zip(args[: self.count], args[self.count : -1], strict=True):
            total += arithmetic.shift_right_rounding(codes, int(by))
        return self.shifted(arithmetic.wrap32(total), args[-1])


@op("t.channel_sums", "g:i8")
class ChannelSums(Op):
    """The sum of errors over all but the last axis; int32."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """A word for each channel."""
        return TensorType(DType.I32, types[0].shape[-1:])

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Exact."""
        return arithmetic.wrap32(args[0].astype(np.int64).reshape(-1, args[0].shape[-1]).sum(axis=0))


def summands(lower: Lowerer, node: Node) -> list[Node]:
    """The operands of a sum of sums: what no one else needs is taken apart."""
    found: list[Node] = []
    for operand in node.inputs:
        inner = isinstance(operand.op, Add) and operand.op.clamp is None and node.shape == operand.shape
        alone = inner and operand.graph.sole_user(operand) is node
        found += summands(lower, operand) if alone else [operand]
    return found


def of_one_factor(lower: Lowerer, node: Node, terms: Sequence[Fixed]) -> list[Fixed]:
    """Values brought to the factor of the first: by their exponents, then times a number above 1/2."""
    found: list[Fixed] = []
    for index, term in enumerate(terms):
        ratio, bits = term.c / terms[0].c, 0
        while ratio > 1:
            ratio, bits = ratio / 2, bits + 1
        while ratio <= Fraction(1, 2):
            ratio, bits = ratio * 2, bits - 1
        value, exponent = term.node, term.exponent
        if bits:
            exponent = lower.scalar("add", lower.number(exponent), imm=bits)
        if ratio != 1:
            zero = lower.constant(0)
            unsigned = value.type.dtype is DType.U8
            made = StepAdd(count=1, unsigned=unsigned, factor=float(np.float32(float(ratio))))
            value = lower.add(made, (value, zero, zero), f"{node.name}/operand_{index}", node)
        found.append(Fixed(value, exponent, terms[0].c))
    return found


def common_exponent(
    lower: Lowerer, terms: Sequence[Fixed], apart: int = MOST_APART
) -> tuple[Node, list[Node]]:
    """The exponent of values together, and by how much each is shifted right for it."""
    exponents = [lower.number(t.exponent) for t in terms]
    least, greatest = exponents[0], exponents[0]
    for e in exponents[1:]:
        least, greatest = lower.scalar("min", least, e), lower.scalar("max", greatest, e)
    common = lower.scalar("max", least, lower.scalar("sub", greatest, imm=apart))
    return common, [lower.scalar("sub", common, e) for e in exponents]


def is_sloped(node: Node) -> bool:
    """Whether a value is what lies below 0, times the slopes of a PReLU; or its errors, times them."""
    operation = node.op
    if isinstance(operation, UnaryGradient):
        return operation.function == "clamp"
    if not isinstance(operation, Conv2d):
        return False
    source = unreshaped(node.inputs[0]).op
    return isinstance(source, Unary) and source.function == "clamp" and operation.groups == node.shape[-1]


@integer_rule(Add)
def lower_add(lower: Lowerer, node: Node, operation: Add) -> Fixed | None:
    """Values under one exponent: the least, or some places below the greatest."""
    user = node.graph.sole_user(node)
    if user is not None and isinstance(user.op, Add) and operation.clamp is None and user.shape == node.shape:
        return None  # part of a larger sum
    given = summands(lower, node)
    terms = of_one_factor(lower, node, [lower.value_of(node, operand) for operand in given])
    if any(t.node.shape != node.shape for t in terms):
        lower.fail(node, f"'{node.name}' repeats an operand", "operands of one shape")
    apart = SLOPES_APART if any(is_sloped(unreshaped(operand)) for operand in given) else MOST_APART
    common, by = common_exponent(lower, terms, apart)
    made = StepAdd(count=len(terms))
    operands = (*(t.node for t in terms), *by)
    ending = ending_of(lower, node, operation.clamp)
    return requantized(lower, node, made, operands, (common, terms[0].c), node.name, ending)


@integer_rule(Clamp)
def lower_clamp(lower: Lowerer, node: Node, operation: Clamp) -> Fixed:
    """A clamp that stands alone; codes without a sign are what a ReLU gives of them."""
    value = lower.value_of(node, node.inputs[0])
    bounds = operation.low, operation.high
    if bounds == RELU and value.node.type.dtype is DType.U8:
        return value
    operands, unit = (value.node, lower.constant(0)), (value.exponent, value.c)
    ending = ending_of(lower, node, bounds)
    return requantized(lower, node, StepAdd(count=1), operands, unit, node.name, ending)


@integer_rule(Reshape)
def lower_reshape(lower: Lowerer, node: Node, operation: Reshape) -> Fixed:
    """The codes as they are; sums of channels have their shape already."""
    value: Fixed = lower[node.inputs[0]]
    if value.node.shape == node.shape:
        return value
    return Fixed(lower.add(operation, (value.node,), node.name, node), value.exponent, value.c)
