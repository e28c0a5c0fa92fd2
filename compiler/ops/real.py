"""Codes of 0 to 255, or of -128 to 127, that are numbers: pictures whose bytes a network casts to float."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, Quant, TensorType
from compiler.ops.activation import QTable
from compiler.rules.quantizing import Quantizer, quantization_rule


@op("nn.real", "x:i8|u8")
class Real(Op):
    """An integer as a real number."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.F32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return args[0].astype(np.float32)


def whole_numbers(dtype: DType) -> Quant:
    """The quantization of codes that are numbers."""
    return Quant((1.0,), 0, None, dtype)


@quantization_rule(Real)
def quantize_real(q: Quantizer, node: Node, operation: Real, inputs: list[Node]) -> Node:
    """int8 codes with the zero point -128 for uint8, so that every operand of every operation is int8."""
    del operation
    (codes,) = inputs
    low, _ = DType.I8.bounds
    quant = Quant((1.0,), low if codes.type.dtype is DType.U8 else 0)
    return q.add(QTable("identity", ()), inputs, node, quant)
