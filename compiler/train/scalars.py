"""Whole numbers of a step: exponents, shifts, maxima. The control engine computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from isa.instructions.control import SCALAR, Scalar

NUMBER: Final = TensorType(DType.I32, ())
"""The type of a whole number."""
FUNCTIONS: Final = {f.name.lower(): f for f in SCALAR}


@op("t.scalar", "x*:i32")
class ScalarFunction(Op):
    """fn(a, b + imm), as `sop` has it; an operand that is alone is a, or b with `right`, and the other 0."""

    function: str
    imm: int = 0
    right: bool = False

    @property
    def scalar(self) -> Scalar:
        """The function of `sop`."""
        return FUNCTIONS[self.function]

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """A number of numbers."""
        if self.function not in FUNCTIONS or len(types) > 2 or any(t.shape for t in types):
            raise ShapeError(f"{self.function} of {', '.join(map(str, types))}", ", ".join(FUNCTIONS))
        return NUMBER

    def sides(self, values: Sequence[int]) -> tuple[int, int]:
        """a and b of one or two values; 0 where there is none."""
        if len(values) > 1:
            return values[0], values[1]
        return (0, values[0]) if self.right else (values[0], 0)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Modulo 2^32."""
        del types, out
        a, b = self.sides([int(v) for v in args])
        return np.asarray(SCALAR[self.scalar](a, int(np.int64(b + self.imm).astype(np.int32))), np.int32)
