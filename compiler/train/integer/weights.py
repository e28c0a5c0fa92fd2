"""Weights of a step: quantized by an exponent of the step before, biases in the unit of the sums."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.train.lowering import Lowerer, unit_of
from isa import arithmetic

FLOAT_EXPONENT: Final = 23
"""Bits of a float32 after its exponent."""
WEIGHT_BITS: Final = 133
"""Exponent of 64 as float32 has it: a greatest weight of 2^k has codes of 64 to 127."""
LEAST_EXPONENT: Final = -26


@op("t.quantize_weights", "w:f32", "e:i32")
class QuantizeWeights(Op):
    """clamp(rne(F(w * 2^-e)), -127, 127)."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Codes of the shape of w."""
        return TensorType(DType.I8, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """The product is rounded to float32."""
        return arithmetic.quantize_by_exponent(args[0], int(args[1]), -127, 127)


@op("t.quantize_bias", "b:f32", "e:i32")
class QuantizeBias(Op):
    """clamp(rne(F(b * F(inverse * 2^e))), -2^30, 2^30)."""

    inverse: float

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Words of the shape of b."""
        return TensorType(DType.I32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Two products, each rounded to float32."""
        return arithmetic.to_word(args[0] * unit_of(self.inverse, args[1]))


def weights_of(lower: Lowerer, w: Node) -> tuple[Node, Node]:
    """The codes of a parameter of products in this step, and their exponent."""
    exponent = lower.state(f"{w.name}/exponent")
    if (w.id, "codes") not in lower.made:
        master = lower.state(w.name, w.type)
        lower.made[w.id, "codes"] = lower.add(QuantizeWeights(), (master, exponent), f"{w.name}/codes", w)
    return lower.made[w.id, "codes"], exponent


def bias_of(lower: Lowerer, b: Node, exponent: Node | None, c: Fraction) -> Node:
    """A bias as words that are added to sums of an exponent and a factor."""
    if b.is_constant:
        assert not b.constant.any(), f"{b.name} is a constant"
        return lower.graph.const(np.zeros(b.shape, np.int32), b.name)
    inverse = float(np.float32(float(1 / c)))
    below = lower.scalar("sub", lower.number(exponent), right=True)
    return lower.add(QuantizeBias(inverse), (lower.state(b.name, b.type), below), f"{b.name}/words", b)


def next_exponent(lower: Lowerer, name: str, greatest: Node) -> None:
    """Exponents of a parameter after a step that leaves weights of up to `greatest`, as float32 bits.

    The next step uses what this one's beginning has decided: so weights can be quantized before all of them
    are known.
    """
    bits = lower.scalar("sub", lower.scalar("shr", greatest, imm=FLOAT_EXPONENT), imm=WEIGHT_BITS)
    lower.leave(f"{name}/exponent", lower.state(f"{name}/next_exponent"))
    lower.leave(f"{name}/next_exponent", lower.scalar("max", bits, imm=LEAST_EXPONENT))


def first_exponent(w: Array) -> int:
    """The exponent of weights that no step has changed."""
    greatest = int(np.abs(w).max().astype(np.float32).view(np.int32))
    return max((greatest >> FLOAT_EXPONENT) - WEIGHT_BITS, LEAST_EXPONENT)
