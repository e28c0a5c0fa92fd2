"""A product and a sum for every channel: what a normalization by known statistics is."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, TensorType


@op("nn.affine", "x:f32", "gain:f32", "offset:f32")
class Affine(Op):
    """x * gain + offset per channel."""

    axis: int

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        x, *rows = types
        require_rows(x, self.axis, *rows)
        return TensorType(DType.F32, x.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, gain, offset = args
        return x * along(gain, self.axis, x.ndim) + along(offset, self.axis, x.ndim)


def require_rows(x: TensorType, axis: int, *rows: TensorType) -> None:
    """Every row must have a number for each channel.

    Raises:
        ShapeError: one has not.
    """
    if not 0 <= axis < len(x.shape) or any(r.shape != (x.shape[axis],) for r in rows):
        given = ", ".join(str(list(r.shape)) for r in rows)
        raise ShapeError(f"{given} for channels {axis} of {list(x.shape)}", "one value per channel")


def along(row: Array, axis: int, rank: int) -> Array:
    """A row of numbers as it is broadcast along an axis."""
    return row.reshape([-1 if i == axis else 1 for i in range(rank)])
