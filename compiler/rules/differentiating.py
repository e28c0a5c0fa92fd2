"""What the gradient rules of the operations see; a rule stands beside its operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeVar

from compiler.errors import Unsupported
from compiler.ir.graph import Graph, Node
from compiler.ir.op import Op
from isa.support.diagnostics import Diagnostic
from isa.support.records import Struct, field


class Differentiator(Struct):
    """The graph to which the way back is added.

    The error of a value is the derivative of the loss by it, of the value's shape.
    """

    graph: Graph
    names: set[str] = field(default_factory=set[str])
    """Names that are taken."""

    @staticmethod
    def fail(node: Node, message: str, allowed: str = "") -> NoReturn:
        """Refuse a node."""
        raise Unsupported(Diagnostic("model.untrainable", message, node.loc, allowed))

    def add(self, operation: Op, inputs: Sequence[Node], of: Node, suffix: str = "error") -> Node:
        """An operation on the way back through a node."""
        name, number = f"{of.name}/{suffix}", 1
        while name in self.names:
            number += 1
            name = f"{of.name}/{suffix}_{number}"
        self.names.add(name)
        return self.graph.add(operation, inputs, name=name, loc=of.loc)


OpT = TypeVar("OpT", bound=Op)
Errors = Sequence[Node | None]
"""The errors of a node's operands, in order; None where nothing depends on one."""
GradientRule = Callable[[Differentiator, Node, OpT, Node], Errors]
"""(differentiator, node, its operation, the error of its value)."""
GRADIENTS: Final[dict[type[Op], GradientRule[Any]]] = {}


def gradient_rule(*kinds: type[OpT]) -> Callable[[GradientRule[OpT]], GradientRule[OpT]]:
    """Register how the error of an operation's value becomes those of its operands."""

    def declare(rule: GradientRule[OpT]) -> GradientRule[OpT]:
        for kind in kinds:
            assert kind not in GRADIENTS
            GRADIENTS[kind] = rule
        return rule

    return declare
