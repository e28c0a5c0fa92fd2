"""Sums of a step: how they become 8-bit codes, sums of values, sums of errors over a batch."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ops.add import Add
from compiler.ops.shapes import Reshape
from compiler.train.lowering import Fixed, Lowerer, code_bounds, code_type, integer_rule
from compiler.train.scalars import NUMBER
from isa import arithmetic

MOST_APART: Final = 16
"""Bits by which the operand of the greatest exponent is shifted left at most, to meet the others."""
RELU: Final = (0.0, float("inf"))


def shifted(sums: Array, shift: int, dtype: DType) -> tuple[Array, Array]:
    """Codes of int32 sums, rounded half to even and saturated, and the greatest sum."""
    codes = arithmetic.requantize_shifted(sums, 0, 1.0, shift, *code_bounds(dtype))
    wide = sums.astype(np.int64)
    greatest = np.maximum(wide, 0).max() if dtype is DType.U8 else np.abs(wide).max()
    return codes, np.asarray(min(int(greatest), arithmetic.INT32_MAX), np.int32)


def is_rectified(lower: Lowerer, node: Node, clamp: tuple[float, float] | None) -> bool:
    """Whether a ReLU follows sums: its codes have no sign."""
    if clamp not in (None, RELU):
        lower.fail(node, f"'{node.name}' ends in a clamp to {clamp[0]:g}..{clamp[1]:g}", "0..inf")
    return clamp is not None


def requantized(
    lower: Lowerer,
    node: Node,
    operation: Op,
    operands: Sequence[Node],
    exponent: Node | None,
    c: Fraction,
    key: str,
) -> Fixed:
    """The result of an operation that ends in a shift, which it takes as its last operand."""
    shift = lower.shift(key)
    made = lower.add(operation, (*operands, shift), key, node)
    lower.observed(key, lower.graph.element(made, 1, f"{key}/seen"), unsigned=made.type.dtype is DType.U8)
    return Fixed(made, lower.plus(exponent, shift), c)


@op("t.add", "x*:i8|u8|i32")
class StepAdd(Op):
    """The sum of codes, each shifted to the exponent of the sum, then shifted to 8 bits.

    The operands are `count` maps of codes, as many numbers by which they are shifted right, and the shift of
    the sum. The second result is the greatest sum.
    """

    count: int
    unsigned: bool = False

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
        return shifted(arithmetic.wrap32(total), int(args[-1]), outs[0].dtype)


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


def common_exponent(lower: Lowerer, node: Node, terms: Sequence[Fixed]) -> tuple[Node, list[Node]]:
    """The exponent of values together, and by how much each is shifted right for it."""
    if any(t.c != terms[0].c for t in terms):
        lower.fail(node, f"'{node.name}' joins values of different factors")
    exponents = [lower.number(t.exponent) for t in terms]
    least, greatest = exponents[0], exponents[0]
    for e in exponents[1:]:
        least, greatest = lower.scalar("min", least, e), lower.scalar("max", greatest, e)
    common = lower.scalar("max", least, lower.scalar("sub", greatest, imm=MOST_APART))
    return common, [lower.scalar("sub", common, e) for e in exponents]


@integer_rule(Add)
def lower_add(lower: Lowerer, node: Node, operation: Add) -> Fixed | None:
    """Values under one exponent: the least, or MOST_APART below the greatest."""
    user = node.graph.sole_user(node)
    if user is not None and isinstance(user.op, Add) and operation.clamp is None and user.shape == node.shape:
        return None  # part of a larger sum
    terms = [lower[operand] for operand in summands(lower, node)]
    if any(t.node.shape != node.shape for t in terms):
        lower.fail(node, f"'{node.name}' repeats an operand", "operands of one shape")
    common, by = common_exponent(lower, node, terms)
    unsigned = is_rectified(lower, node, operation.clamp)
    made = StepAdd(len(terms), unsigned)
    return requantized(lower, node, made, (*(t.node for t in terms), *by), common, terms[0].c, node.name)


@integer_rule(Reshape)
def lower_reshape(lower: Lowerer, node: Node, operation: Reshape) -> Fixed:
    """The codes as they are; sums of channels have their shape already."""
    value: Fixed = lower[node.inputs[0]]
    if value.node.shape == node.shape:
        return value
    return Fixed(lower.add(operation, (value.node,), node.name, node), value.exponent, value.c)
