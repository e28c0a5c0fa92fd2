"""What the parts of an operation's result are made of; a rule stands beside its operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from compiler.ir.graph import Node
from compiler.ir.op import Op
from isa.program import Box, whole_box
from isa.support.records import Frozen


class Part(Frozen):
    """An operation that makes a box of a result, and the box that it reads of every operand.

    None where it does not read the operand: then it has one fewer.
    """

    operation: Op
    reads: tuple[Box | None, ...]

    def operands(self, node: Node) -> list[tuple[Node, Box]]:
        """The operands of a node that the part reads, and of each the box."""
        return [(x, box) for x, box in zip(node.inputs, self.reads, strict=True) if box is not None]


OpT = TypeVar("OpT", bound=Op)
PartRule = Callable[[Node, OpT, Box], Part | None]
"""(node, its operation, a box of its result) to what makes it; None where nothing makes just that."""
PARTS: Final[dict[type[Op], PartRule[Any]]] = {}


def part_rule(*kinds: type[OpT]) -> Callable[[PartRule[OpT]], PartRule[OpT]]:
    """Register how a part of an operation's result is made."""

    def declare(rule: PartRule[OpT]) -> PartRule[OpT]:
        for kind in kinds:
            assert kind not in PARTS
            PARTS[kind] = rule
        return rule

    return declare


def part_of(node: Node, box: Box) -> Part | None:
    """What makes a box of a node's result by itself, or None; all of it can always be made."""
    if box == whole_box(node.shape):
        return Part(node.op, tuple(whole_box(i.shape) for i in node.inputs))
    rule = next((PARTS[kind] for kind in type(node.op).__mro__ if kind in PARTS), None)
    return None if rule is None else rule(node, node.op, box)
