"""Functions of one value in a step, and their derivatives: tables of codes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import Unary, UnaryGradient, derivative
from compiler.ops.functions import FUNCTIONS
from compiler.train.integer.sums import Ending, StepAdd, domain_exponent, has_no_unit, requantized
from compiler.train.lowering import Fixed, Lowerer, code_bounds, code_type, integer_rule
from isa import arithmetic

DERIVATIVE_EXPONENT: Final = -6
"""Of derivatives: up to 1.98, more than those of swish and GELU."""
BOUNDED: Final = {"sigmoid": (True, -8), "tanh": (False, -7), "hard_sigmoid": (True, -8)}
"""Of functions whose results lie between -1 and 1: whether they have no sign, and their exponent."""


@op("t.table", "x:i8")
class CodeTable(Op):
    """clamp(rne(f(x * 2^exponent) * 2^-to)), f a function, or with `slope` its derivative."""

    function: str
    parameters: tuple[float, ...]
    exponent: int
    to: int
    unsigned: bool = False
    slope: bool = False

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Codes."""
        return TensorType(code_type(unsigned=self.unsigned), types[0].shape)

    @property
    def codes(self) -> Array:
        """The table as raw bytes, indexed by the raw byte of the operand."""
        x = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64) * 2.0**self.exponent
        if self.slope:
            value = derivative(self.function, self.parameters, x)
        else:
            value = FUNCTIONS[self.function].in_float64(x, self.parameters)
        dtype = code_type(unsigned=self.unsigned)
        codes = np.clip(np.rint(value * 2.0**-self.to), *code_bounds(dtype))
        return codes.astype(dtype.numpy).view(np.uint8)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """By the table."""
        return self.codes[args[0].view(np.uint8)].view(out.dtype.numpy)


@op("t.times", "g:i8", "slope:i8")
class Times(Op):
    """Errors times derivatives: clamp(rne(g * slope * 2^-6), -127, 127)."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Errors."""
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Exact, then half to even."""
        return arithmetic.multiply(args[0], 0, args[1], 0, 2.0**DERIVATIVE_EXPONENT, 0, -127, 127)


@integer_rule(Unary)
def lower_unary(lower: Lowerer, node: Node, operation: Unary) -> Fixed:
    """A table; where the unit matters, of codes at a fixed exponent and of factor 1."""
    value = operand_of(lower, node.inputs[0], operation)
    if has_no_unit(operation):
        table = CodeTable(operation.function, operation.parameters, 0, 0)
        made = lower.add(table, (value.node,), node.name, node)
        return Fixed(made, value.exponent, value.c)
    exponent = domain_exponent(operation.function)
    unsigned, to = BOUNDED.get(operation.function, (False, -4))
    table = CodeTable(operation.function, operation.parameters, exponent, to, unsigned)
    return Fixed(lower.add(table, (value.node,), node.name, node), lower.constant(to), Fraction(1))


@integer_rule(UnaryGradient)
def lower_unary_gradient(lower: Lowerer, node: Node, operation: UnaryGradient) -> Fixed:
    """Errors times the derivative of the codes that went in."""
    error: Fixed = lower[node.inputs[0]]
    value = operand_of(lower, node.inputs[1], operation)
    exponent = 0 if has_no_unit(operation) else domain_exponent(operation.function)
    table = CodeTable(operation.function, operation.parameters, exponent, DERIVATIVE_EXPONENT, slope=True)
    slope = lower.add(table, (value.node,), f"{node.name}/slope", node)
    made = lower.add(Times(), (error.node, slope), node.name, node)
    return Fixed(made, error.exponent, error.c)


def operand_of(lower: Lowerer, x: Node, operation: Unary | UnaryGradient) -> Fixed:
    """Signed codes of an operand, at the exponent that the function wants, if it wants one."""
    value: Fixed = lower[x]
    function = operation.function
    wanted = None if has_no_unit(operation) else domain_exponent(function)
    fits = wanted is None or (value.c == 1 and value.exponent is lower.constant(wanted))
    if fits and value.node.type.dtype is DType.I8:
        return value
    key = x.id, function
    if key not in lower.rescaled:
        ending = Ending(exponent=wanted)
        operands = (value.node, lower.constant(0))
        name = f"{x.name}/rescaled_{function}"
        lower.rescaled[key] = requantized(
            lower, x, StepAdd(count=1), operands, (value.exponent, value.c), name, ending
        )
    return lower.rescaled[key]
