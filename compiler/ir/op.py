"""How an operation of the IR is declared.

An operation is a frozen value: its fields are its attributes, its methods its shape rule and
its meaning in numpy. Printer, parser, verifier and evaluator derive from these classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from compiler.ir.types import DType, TensorType
from compiler.ir.work import Work
from isa.support.records import Frozen, replace

Array = NDArray[Any]
Groups = tuple[tuple[int, ...], ...]
"""The axes of an operand in groups of neighbours."""


class ShapeError(Exception):
    """Operands whose types do not go together; the message is a sentence for the user."""

    def __init__(self, message: str, allowed: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message, self.allowed, self.remedy = message, allowed, remedy


class Op(Frozen):
    """The base of all operations."""

    name: ClassVar[str]
    operands: ClassVar[tuple[str, ...]]
    takes: ClassVar[tuple[tuple[DType, ...], ...]]
    """The element types that each operand may have; none means any."""
    optional: ClassVar[int] = 0
    interface: ClassVar[bool] = False
    """Whether the operation is part of the graph's interface: it stays, used or not."""
    variadic: ClassVar[bool] = False
    """Whether the last operand stands for any number of them, at least one."""
    foldable: ClassVar[bool] = True
    """Whether an operation on constants is replaced by its value."""
    moves: ClassVar[bool] = False
    """Whether it only moves, repeats or drops elements of its one operand, whatever they are."""

    def results(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The types of the results on operands of these types, their number and element types checked.

        Raises:
            ShapeError: the operands do not go together.
        """
        least = len(self.operands) - self.optional
        if not least <= len(types) <= (MAX_OPERANDS if self.variadic else len(self.operands)):
            allowed_count = f"{least} or more" if self.variadic else f"{len(self.operands)}"
            raise ShapeError(f"{self.name} has {len(types)} operands", allowed_count)
        last = (self.operands[-1], self.takes[-1]) if self.operands else ("", ())
        kinds = [*zip(self.operands, self.takes, strict=True), *[last] * (len(types) - len(self.operands))]
        for (name, allowed), given in zip(kinds, types, strict=False):
            if allowed and given.dtype not in allowed:
                raise ShapeError(
                    f"operand {name} of {self.name.rpartition('.')[2]} is {given.dtype.host_name}",
                    ", ".join(a.host_name for a in allowed),
                )
        return self.infer_all(types)

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """The rule of the first result; a quantized result gets its Quant from who adds the node.

        Such a result is given as I8, whatever 8-bit type the Quant then says.

        Raises:
            ShapeError: the operands do not go together.
        """
        raise NotImplementedError

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The rule behind `results`: an operation with several overrides it, and `evaluate_all` with it."""
        return (self.infer(types),)

    def commute_transpose(self, perm: Sequence[int]) -> Op | None:
        """The operation f' with f(transpose(x, perm)) = transpose(f'(x), perm); None where there is none."""
        del perm
        return None

    def axis_roles(self, types: Sequence[TensorType], out: TensorType) -> Sequence[object] | None:
        """What is done along every axis: neighbours of one role may become one axis.

        A role None is left alone by the operation; a number is the role of one axis alone. Without an answer
        the operation has no form of fewer dimensions.
        """
        del types, out
        return None

    def with_axes(self, groups: Groups) -> Op:
        """The operation on operands whose axes were merged: old axes, in order, for every new one."""
        del groups
        return self

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """The float32 constants that the device computes with, derived from the scales; none by default."""
        del types, out
        return np.empty(0, np.float32)

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """The least work of the operation on the device; none by default."""
        del types, out
        return Work()

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """The values of the first result."""
        raise NotImplementedError

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """The values of all results, in order."""
        return (self.evaluate(args, types, outs[0]),)


MAX_OPERANDS: Final = 1024


class ElementWise(Op):
    """The base of operations on every element by itself, whatever the order of the axes."""

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        """The operation itself."""
        del perm
        return self

    def axis_roles(self, types: Sequence[TensorType], out: TensorType) -> Sequence[object]:
        """Which operands are repeated along an axis."""
        repeated = [tuple(t.shape[i] != n for t in types) for i, n in enumerate(out.shape)]
        return [r if any(r) else None for r in repeated]

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """Every element once."""
        del types
        return Work(out.elements)


def group_of(axis: int, groups: Groups) -> int:
    """The group that an axis is in."""
    return next(i for i, group in enumerate(groups) if axis in group)


class AlongAxis(Op):
    """The base of operations along one axis, `axis`, whatever the others are."""

    axis: int

    def axis_roles(self, types: Sequence[TensorType], out: TensorType) -> Sequence[object]:
        """The axis, and the others."""
        del types
        return [i if i == self.axis else None for i in range(len(out.shape))]

    def with_axes(self, groups: Groups) -> Op:
        """Along the group that the axis is in, alone."""
        return replace(self, axis=group_of(self.axis, groups))


class StridedCopy(Op):
    """The base of operations that take elements at even distances along every axis: operand x.

    What is taken says everything: shape rule, meaning and tiles derive from it.
    """

    moves: ClassVar[bool] = True

    def taken(self, shape: Sequence[int]) -> Sequence[tuple[int, int, int]]:
        """For every axis of an operand of this shape: first element, number, distance (not 0) to the next.

        Raises:
            ShapeError: the operand has not this rank, or not such an axis.
        """
        raise NotImplementedError

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """As many elements as are taken; none from outside the operand."""
        shape, taken = types[0].shape, self.taken(types[0].shape)
        for extent, (start, count, step) in zip(shape, taken, strict=True):
            last = start + (count - 1) * step
            if count < 1 or step == 0 or not (0 <= start < extent and 0 <= last < extent):
                raise ShapeError(f"{count} elements from {start} by {step} do not lie within {extent}")
        return TensorType(types[0].dtype, tuple(count for _, count, _ in taken), types[0].quant)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """The elements that are taken."""
        del types, out
        grid = [start + np.arange(count) * step for start, count, step in self.taken(args[0].shape)]
        return np.ascontiguousarray(args[0][np.ix_(*grid)])


class Product(Op):
    """The base of products of an activation with constant weights, plus a bias: operands x, w, b."""

    weight_axis: ClassVar[int]
    """Where the output channels of the weights lie."""

    @property
    def channel_axis(self) -> int:
        """Where the channels of the result lie."""
        raise NotImplementedError

    def linear(self) -> Op:
        """The operation without its clamp."""
        raise NotImplementedError

    @property
    def is_linear(self) -> bool:
        """Whether it has no clamp."""
        return self == self.linear()


OPS: Final[dict[str, type[Op]]] = {}
OpT = TypeVar("OpT", bound=Op)


def op(name: str, *operands: str, optional: int = 0) -> Callable[[type[OpT]], type[OpT]]:
    """Declare an operation by its name and its operands, of which the last may be left out.

    An operand is written `name:type`, or `name:type|type`, or `name` where any type will do; the last one
    `name*` if there may be any number of it.
    """
    names, kinds = zip(*(o.partition(":")[::2] for o in operands), strict=True) if operands else ((), ())

    def declare(cls: type[OpT]) -> type[OpT]:
        assert name not in OPS, f"{name} is declared twice"
        assert cls.__doc__, f"{name} has no text"
        cls.name, cls.optional = name, optional
        cls.variadic = any(n.endswith("*") for n in names)
        cls.operands = tuple(n.removesuffix("*") for n in names)
        cls.takes = tuple(tuple(DType(t) for t in kind.split("|") if t) for kind in kinds)
        OPS[name] = cls
        return cls

    return declare
