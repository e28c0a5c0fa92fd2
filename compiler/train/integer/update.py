"""The update of a parameter at the end of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compiler.ir.op import Array, Op, op
from compiler.ir.types import TensorType
from compiler.train.lowering import unit_of
from compiler.train.optimizers.optimizer import Optimizer, apply, optimizer_of
from compiler.train.scalars import NUMBER
from isa import arithmetic


@op("t.update", "sums:i32|i64", "e:i32", "numbers:f32", "state*:f32")
class Update(Op):
    """An optimizer's step for one parameter: the gradient is F(F(sums) * F(factor * 2^e)).

    `numbers` are what the host has computed for the step, in the order in which the optimizer names them. The
    state is the weights and the slots. Results: the new weights, the new slots, and the bits of the greatest
    magnitude among the new weights.
    """

    factor: float
    optimizer: str
    options: tuple[tuple[str, float], ...]
    weighted: bool = False
    """Whether the factor is to be multiplied by the last of the numbers."""

    @property
    def chosen(self) -> Optimizer:
        """The optimizer."""
        return optimizer_of(self.optimizer, dict(self.options))

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Weights, slots, a number."""
        return (*types[3:], NUMBER)

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """In float32, one rounding for each operation."""
        sums, e, given, w, *slots = args
        chosen = self.chosen
        unit = unit_of(self.factor, e) * given[-1] if self.weighted else unit_of(self.factor, e)
        g: NDArray[np.float32] = arithmetic.f32(sums) * unit
        count = len(chosen.step_numbers)
        numbers = dict(zip(chosen.step_numbers, given[:count], strict=True))
        new, kept = apply(chosen, w, g, dict(zip(chosen.slots, slots, strict=True)), numbers)
        greatest = np.abs(new).max().astype(np.float32).view(np.int32)
        return (new, *(kept[name] for name in chosen.slots), greatest)
