"""Reverse mode: from the loss back to every parameter, by the rules that stand beside the operations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.errors import CompileError, Unsupported
from compiler.ir.graph import Graph, Node
from compiler.ops.add import Add
from compiler.rules.differentiating import GRADIENTS, Differentiator
from isa.support.diagnostics import Diagnostic
from isa.support.records import Frozen


class Parameters(Frozen):
    """The parameters of a network that has been opened for training, by name."""

    nodes: Mapping[str, Node]
    values: Mapping[str, NDArray[Any]]


def open_parameters(graph: Graph, constants: Collection[Node]) -> Parameters:
    """Make constants of a float graph inputs of it: what training changes."""
    nodes: dict[str, Node] = {}
    values: dict[str, NDArray[Any]] = {}
    for constant in constants:
        value = constant.constant
        variable = graph.input(constant.name, constant.type.dtype, constant.shape, constant.loc)
        graph.replace(constant, variable)
        nodes[variable.name], values[variable.name] = variable, value
    return Parameters(nodes, values)


def differentiate(graph: Graph, loss: Node, wanted: Sequence[Node]) -> list[Node]:
    """Add the way back to a graph of stage nn: the derivative of the loss by each wanted value.

    Args:
        graph: it is extended.
        loss: a value of shape ().
        wanted: values that the loss depends on, parameters as a rule.

    Raises:
        CompileError: an operation between them and the loss has no derivative, or nothing depends on one.
    """
    depends = _dependents(graph, wanted)
    d = Differentiator(graph, {n.name for n in graph.nodes()})
    one = graph.const(np.ones((), np.float32), "one")
    errors: dict[int, Node] = {loss.id: one}
    refused: list[Diagnostic] = []
    for node in reversed([n for n in graph.nodes() if n.id in depends]):
        error = errors.get(node.id)
        if error is None or not node.inputs:
            continue
        try:
            found = _errors_of_operands(d, node, error)
        except Unsupported as reason:
            refused.append(reason.diagnostic)
            continue
        for operand, given in zip(node.inputs, found, strict=True):
            if given is not None and operand.id in depends:
                before = errors.get(operand.id)
                errors[operand.id] = (
                    given if before is None else d.add(Add(), (before, given), operand, "sum")
                )
    if refused:
        raise CompileError(refused)
    for node in wanted:
        if node.id not in errors:
            message = f"the loss does not depend on '{node.name}'"
            raise CompileError(Diagnostic("model.untrainable", message, node.loc))
    return [errors[n.id] for n in wanted]


def _errors_of_operands(d: Differentiator, node: Node, error: Node) -> Sequence[Node | None]:
    """By the rule of the node's operation.

    Raises:
        Unsupported: it has none, or refuses the node.
    """
    rule = GRADIENTS.get(type(node.op))
    if rule is None:
        kind = node.op.name.rpartition(".")[2]
        names = sorted({k.name.rpartition(".")[2] for k in GRADIENTS})
        d.fail(node, f"'{node.name}' ({kind}) has no gradient", ", ".join(names))
    return rule(d, node, node.op, error)


def _dependents(graph: Graph, wanted: Sequence[Node]) -> set[int]:
    """The values that depend on a wanted one, these included."""
    found = {n.id for n in wanted}
    for node in graph.nodes():
        if any(i.id in found for i in node.inputs):
            found.add(node.id)
    return found
