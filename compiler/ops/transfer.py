"""Transfers between devices: `send` gives a value to another device, `receive` is one that comes from there.

The k-th send of a device to another and the k-th receive there are one transfer, in order of execution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, Shape, TensorType
from compiler.ir.work import Work


class Transferring(Op):
    """What both sides have: the other device, and the number of the transfer among all."""

    peer: int
    number: int

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """None of array and vector unit."""
        del types, out
        return Work()


@op("q.send", "x:i8|u8")
class SendTo(Transferring):
    """Give a value to another device; the result is the value itself, and nobody uses it."""

    interface: ClassVar[bool] = True

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """As the value."""
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """The value."""
        del types, out
        return args[0]


@op("q.receive")
class ReceiveFrom(Transferring):
    """A value of this shape that another device gives."""

    shape: Shape

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Of the shape; the codes are as its quantization says."""
        del types
        return TensorType(DType.I8, self.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Known to the other device alone."""
        raise NotImplementedError(f"the value comes from device {self.peer}")
