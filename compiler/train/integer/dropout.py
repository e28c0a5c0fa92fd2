"""Dropout in a step: masks of random bits that depend on nothing but a key and a number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, Shape, TensorType
from compiler.ops.shapes import Dropout, DropoutGradient
from compiler.train.integer.pooling import Mask
from compiler.train.lowering import Fixed, Lowerer, integer_rule
from isa import arithmetic

KEYS: Final = "keys"
"""The input with a key for every dropout of a step."""
RATE_BITS: Final = 16
KEPT: Final = Mask(0, 2)
"""Passes what lies under a 1."""


@op("t.random_mask", "keys:i32")
class RandomMask(Op):
    """1 where a random number is at least rate * 2^-16, else 0: number i of key `index`, as `vrnd` has it."""

    shape: Shape
    index: int
    rate: int

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Bytes."""
        return TensorType(DType.U8, self.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Modulo 2^32."""
        key = np.asarray(args[0][self.index]).astype(np.int32).view(np.uint32)
        numbers = np.arange(out.elements, dtype=np.uint32)
        kept = arithmetic.mix(numbers ^ key) >= np.uint32(self.rate << RATE_BITS)
        return kept.astype(np.uint8).reshape(self.shape)


def _share(rate: float) -> tuple[int, Fraction]:
    """A rate in steps of 2^-16, and what is kept."""
    steps = min(round(rate * (1 << RATE_BITS)), (1 << RATE_BITS) - 1)
    return steps, 1 - Fraction(steps, 1 << RATE_BITS)


@integer_rule(Dropout)
def lower_dropout(lower: Lowerer, node: Node, operation: Dropout) -> Fixed:
    """What is kept, its factor divided by the share of it; all outside of training."""
    value: Fixed = lower[node.inputs[0]]
    steps, kept = _share(operation.rate)
    if not lower.training or not steps:
        return value
    index = lower.dropouts
    lower.dropouts += 1
    if lower.keys is None:
        lower.keys = lower.graph.input(KEYS, DType.I32, (0,))
    mask = lower.add(RandomMask(node.shape, index, steps), (lower.keys,), f"{node.name}/mask", node)
    lower.made[node.id, "mask"] = mask
    made = lower.add(KEPT, (value.node, mask), node.name, node)
    return Fixed(made, value.exponent, value.c / kept)


@integer_rule(DropoutGradient)
def lower_dropout_gradient(lower: Lowerer, node: Node, operation: DropoutGradient) -> Fixed:
    """By the mask of the way there."""
    error: Fixed = lower[node.inputs[0]]
    mask = lower.made.get((node.inputs[1].id, "mask"))
    if mask is None:
        return error
    _, kept = _share(operation.rate)
    return Fixed(lower.add(KEPT, (error.node, mask), node.name, node), error.exponent, error.c / kept)
