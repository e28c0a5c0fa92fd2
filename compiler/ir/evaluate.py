"""The reference meaning of a graph: every node in numpy, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Graph, Input, Node

Sample = Mapping[str, NDArray[Any]]
"""Inputs of a network, by name."""


def evaluate(graph: Graph, inputs: Sample) -> dict[int, NDArray[Any]]:
    """The value of every node, by its number; inputs are given by name."""
    return {node.id: value for node, value in walk(graph, inputs)}


def walk(graph: Graph, inputs: Sample) -> Iterator[tuple[Node, NDArray[Any]]]:
    """Every node with its value, in order; a value is forgotten after its last user."""
    nodes = graph.nodes()
    last = {operand.id: node.id for node in nodes for operand in node.inputs}
    values: dict[int, NDArray[Any]] = {}
    for node in nodes:
        with np.errstate(all="ignore"):
            values[node.id] = _value(node, inputs, values)
        yield node, values[node.id]
        for done in {i.id for i in node.inputs if last[i.id] == node.id}:
            del values[done]
        if node.id not in last:
            del values[node.id]


def folded(node: Node) -> Node | None:
    """The constant that a node on constants alone is, added to its graph; None for other nodes."""
    operands = node.inputs
    if not operands or not node.op.foldable or not all(o.is_constant for o in operands):
        return None
    with np.errstate(all="ignore"):
        value = node.op.evaluate([o.constant for o in operands], [o.type for o in operands], node.type)
    return node.graph.const(value.astype(node.type.dtype.numpy), node.name, node.loc, node.type.quant)


def outputs(graph: Graph, inputs: Sample) -> dict[str, NDArray[Any]]:
    """The graph outputs by name."""
    wanted = {node.id for node in graph.outputs}
    values = {node.id: value for node, value in walk(graph, inputs) if node.id in wanted}
    return {name: values[node.id] for name, node in zip(graph.output_names, graph.outputs, strict=True)}


def source_tensors(graph: Graph, values: Mapping[int, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every tensor of the source model that the nodes hold, in the source's shape and layout."""
    return {view.name: view.of(values[node.id]) for node in graph.nodes() for view in node.views}


def _value(
    node: Node,
    inputs: Sample,
    values: Mapping[int, NDArray[Any]],
) -> NDArray[Any]:
    if node.value is not None:
        return node.value
    if isinstance(node.op, Input):
        return inputs[node.name]
    operands = node.inputs
    result = node.op.evaluate([values[i.id] for i in operands], [i.type for i in operands], node.type)
    assert result.shape == node.shape, f"{node.op.name} gave {result.shape}, not {node.shape}"
    return result.astype(node.type.dtype.numpy, copy=False)
