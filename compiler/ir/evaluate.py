"""The reference meaning of a graph: every node in numpy, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Graph, Input, Node


def evaluate(graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> dict[int, NDArray[Any]]:
    """The value of every node, by its number; inputs are given by name."""
    values: dict[int, NDArray[Any]] = {}
    with np.errstate(all="ignore"):
        for node in graph.nodes():
            values[node.id] = _value(node, inputs, values)
    return values


def folded(node: Node) -> Node | None:
    """The constant that a node on constants alone is, added to its graph; None for other nodes."""
    operands = node.inputs
    if not operands or not all(o.is_constant for o in operands):
        return None
    with np.errstate(all="ignore"):
        value = node.op.evaluate([o.constant for o in operands], [o.type for o in operands], node.type)
    return node.graph.const(value.astype(node.type.dtype.numpy), node.name, node.loc, node.type.quant)


def outputs(graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The graph outputs by name."""
    values = evaluate(graph, inputs)
    return {name: values[node.id] for name, node in zip(graph.output_names, graph.outputs, strict=True)}


def source_tensors(graph: Graph, values: Mapping[int, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every tensor of the source model that the nodes hold, in the source's shape and layout."""
    return {view.name: view.of(values[node.id]) for node in graph.nodes() for view in node.views}


def _value(
    node: Node,
    inputs: Mapping[str, NDArray[Any]],
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
