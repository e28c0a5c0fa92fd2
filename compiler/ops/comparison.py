"""Comparisons and choices, computed: ONNX Greater and its like, And, Or, Not, Where.

Truth is 1 and falsehood 0, as real numbers. Constants are worked out as the model is read.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.types import DType
from compiler.ops.activation import Unary
from compiler.ops.add import Add
from compiler.ops.binary import BinaryFunction
from compiler.ops.broadcasting import laid_along, same_rank
from compiler.ops.shape_arithmetic import constant_comparison
from compiler.rules.importing import OnnxNode, known_values, onnx_operator

RELATIONS: Final = {
    "Greater": "above",
    "GreaterOrEqual": "at_least",
    "Less": "below",
    "LessOrEqual": "at_most",
    "Equal": "equals",
}
MIRRORED: Final = {
    "above": "below",
    "at_least": "at_most",
    "below": "above",
    "at_most": "at_least",
    "equals": "equals",
}
"""c < x is x > c."""


@onnx_operator(*RELATIONS)
def import_relation(n: OnnxNode) -> Node:
    """Of real numbers, with one constant number, or by the sign of the difference; of constants at once."""
    if (made := constant_comparison(n)) is not None:
        return made
    a, b = _reals(n, 2)
    b = laid_along(n, a, b)
    relation = RELATIONS[n.op_type]
    for x, limit, name in ((a, b, relation), (b, a, MIRRORED[relation])):
        if limit.is_constant and limit.type.elements == 1 and len(limit.shape) <= len(x.shape):
            return n.add(Unary(name, (float(known_values(limit).item()),)), x)
    difference = n.before(BinaryFunction("sub"), *same_rank(n, [a, b]), suffix="difference")
    return n.add(Unary(relation, (0.0,)), difference)


@onnx_operator("And", "Or", "Xor", "Not")
def import_logic(n: OnnxNode) -> Node:
    """Of computed truth values; of constants at once."""
    if (made := constant_comparison(n)) is not None:
        return made
    if n.op_type == "Not":
        return n.add(Unary("equals", (0.0,)), *_reals(n, 1))
    a, b = _reals(n, 2)
    operands = same_rank(n, [a, laid_along(n, a, b)])
    if n.op_type == "Xor":
        return n.add(Unary("abs"), n.before(BinaryFunction("sub"), *operands, suffix="difference"))
    return n.add(BinaryFunction("mul" if n.op_type == "And" else "max"), *operands)


@onnx_operator("Where")
def import_where(n: OnnxNode) -> Node:
    """The one operand where a computed condition holds, else the other; of constants at once."""
    if (made := constant_comparison(n)) is not None:
        return made
    condition, a, b = _reals(n, 3)
    otherwise = n.before(Unary("equals", (0.0,)), condition, suffix="otherwise")
    parts: list[Node] = []
    for part, mask, suffix in ((a, condition, "first"), (b, otherwise, "second")):
        if part.is_constant and not known_values(part).any():
            continue
        operands = same_rank(n, [part, mask])
        if part.is_constant and mask.is_constant:  # what is not chosen may be infinite
            kept = np.where(operands[1].constant != 0, operands[0].constant, np.float32(0))
            parts.append(n.const(kept, suffix))
            continue
        parts.append(n.before(BinaryFunction("mul"), *operands, suffix=suffix))
    if len(parts) == 2:
        return n.add(Add(), *same_rank(n, parts))
    if not parts:
        n.fail("both operands are 0", "a choice")
    shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    zero = n.const(np.zeros(shape, np.float32), "zero")
    return n.add(Add(), *same_rank(n, [parts[0], zero]))


def _reals(n: OnnxNode, count: int) -> list[Node]:
    """The operands as real numbers; constants of other types are made real."""
    found: list[Node] = []
    for i in range(count):
        x = n.operand(i)
        if x.is_constant and x.type.dtype is not DType.F32:
            x = n.graph.const(x.constant.astype(np.float32), x.name, x.loc)
        if x.type.dtype is not DType.F32:
            n.fail(f"operand {i} is {x.type.dtype.host_name}", "float32, or a truth value")
        found.append(x)
    return found
