"""The reference meaning of a graph: every node in numpy, one after another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Graph, Input, Node, TupleElement
from compiler.ir.op import ShapeError

Sample = Mapping[str, NDArray[Any]]
"""Inputs of a network, by name."""
Correction = Callable[[Node, NDArray[Any]], NDArray[Any]]
"""(node, its value) to another value of that shape and type."""


def evaluate(graph: Graph, inputs: Sample) -> dict[int, NDArray[Any]]:
    """The value of every node, by its number; inputs are given by name."""
    return {node.id: value for node, value in walk(graph, inputs)}


def walk(
    graph: Graph, inputs: Sample, seen_as: Correction | None = None
) -> Iterator[tuple[Node, NDArray[Any]]]:
    """Every node with its value, in order; a value is forgotten after its last user.

    `seen_as` says what the users of a value compute with in its place.
    """
    nodes = graph.nodes()
    last = {operand.id: node.id for node in nodes for operand in node.inputs}
    values: dict[int, tuple[NDArray[Any], ...]] = {}
    for node in nodes:
        with np.errstate(all="ignore"):
            values[node.id] = _values(node, inputs, values)
        yield node, values[node.id][0]
        if seen_as is not None:
            first, *further = values[node.id]
            values[node.id] = (seen_as(node, first), *further)
        for done in {i.id for i in node.inputs if last[i.id] == node.id}:
            del values[done]
        if node.id not in last:
            del values[node.id]


def folded(node: Node) -> Node | None:
    """The constant that a node on constants alone is, added to its graph; None for other nodes.

    Raises:
        ShapeError: it has no value for operands without elements.
    """
    operands = node.inputs
    if not operands or node.further or not node.op.foldable or not all(o.is_constant for o in operands):
        return None
    values, types = [o.constant for o in operands], [o.type for o in operands]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN
            value = node.op.evaluate(values, types, node.type)
    except ValueError:
        if all(v.size for v in values):
            raise
        raise ShapeError(f"{node.op.name} of no elements has no value", "at least one element") from None
    return node.graph.const(value.astype(node.type.dtype.numpy), node.name, node.loc, node.type.quant)


def outputs(graph: Graph, inputs: Sample) -> dict[str, NDArray[Any]]:
    """The graph outputs by name."""
    wanted = {node.id for node in graph.outputs}
    values = {node.id: value for node, value in walk(graph, inputs) if node.id in wanted}
    return {name: values[node.id] for name, node in zip(graph.output_names, graph.outputs, strict=True)}


def source_tensors(graph: Graph, values: Mapping[int, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every tensor of the source model that the nodes hold, in the source's shape and layout."""
    return {view.name: view.of(values[node.id]) for node in graph.nodes() for view in node.views}


def _values(
    node: Node, inputs: Sample, values: Mapping[int, tuple[NDArray[Any], ...]]
) -> tuple[NDArray[Any], ...]:
    """The values of a node's results, in order."""
    if node.value is not None:
        return (node.value,)
    operands = node.inputs
    match node.op:
        case Input():
            return (inputs[node.name],)
        case TupleElement(index):
            return (values[operands[0].id][index],)
        case operation:
            args = [values[i.id][0] for i in operands]
            results = operation.evaluate_all(args, [i.type for i in operands], node.types)
    for value, kind in zip(results, node.types, strict=True):
        assert value.shape == kind.shape, f"{node.op.name} gave {value.shape}, not {kind.shape}"
    return tuple(v.astype(t.dtype.numpy, copy=False) for v, t in zip(results, node.types, strict=True))
