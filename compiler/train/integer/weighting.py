"""Weights of samples: errors are multiplied by them, and the gradient knows by what they were divided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.train.lowering import Fixed, Lowerer
from isa import arithmetic

WEIGHTS: Final = "weights"
"""The input with the weights of a batch's samples divided by the greatest, one for each error of a sample."""


@op("t.weighted_errors", "errors:i8", "zero:i32", "weights:f32")
class WeightedErrors(Op):
    """Errors times weights of 0..1: rne(F(F(errors) * weights))."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Codes."""
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """One product, rounded to float32, then half to even."""
        errors, _, weights = args
        return arithmetic.to_integer(arithmetic.f32(errors) * weights, -127, 127)


def weighted(lower: Lowerer, node: Node, errors: Fixed) -> Fixed:
    """The errors of a loss by the weights of the samples, if the step has such."""
    if not lower.weighted:
        return errors
    weights = lower.graph.input(WEIGHTS, DType.F32, node.shape)
    made = lower.add(
        WeightedErrors(), (errors.node, lower.constant(0), weights), f"{node.name}/weighted", node
    )
    return Fixed(made, errors.exponent, errors.c)
