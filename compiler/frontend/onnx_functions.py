"""What an ONNX model computes with: names that nodes read, functions of its own put in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

import networkx as nx
import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, inliner

from compiler.errors import CompileError
from isa.support.diagnostics import Diagnostic
from isa.support.locations import FileLoc

MAX_NODES: Final = 200_000
"""Nodes of a model after its functions are inlined: a few that call one another twice make millions."""
MAX_DEPTH: Final = 64
"""Functions that call one another, and graphs within graphs."""
Key = tuple[str, str, str]


class Cycle(Exception):
    """Nodes that read one another's results, in a ring."""

    def __init__(self, nodes: list[NodeProto]) -> None:
        super().__init__()
        self.nodes = nodes


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def names_read(node: NodeProto) -> Iterator[str]:
    """The names that a node reads, itself or in its graphs."""
    yield from node.input
    for graph in subgraphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from names_read(inner)


def in_order(given: Iterable[NodeProto]) -> list[NodeProto]:
    """The nodes, producers first, otherwise as they stand.

    Raises:
        Cycle: there is no such order.
    """
    nodes = list(given)
    producer = {o: i for i, node in enumerate(nodes) for o in node.output if o}
    net: Any = cast("Any", nx).DiGraph()
    net.add_nodes_from(range(len(nodes)))
    reads = ((name, i) for i, node in enumerate(nodes) for name in names_read(node))
    net.add_edges_from((producer[name], i) for name, i in reads if name in producer)
    try:
        return [nodes[i] for i in cast("list[int]", list(nx.lexicographical_topological_sort(net, key=int)))]
    except nx.NetworkXUnfeasible:
        edges: list[tuple[int, int]] = cast("Any", nx).find_cycle(net)
        raise Cycle([nodes[a] for a, _ in edges]) from None


def names_defined(graph: GraphProto) -> set[str]:
    """The names of all tensors of a graph and of the graphs within it."""
    found = {value.name for value in graph.input}
    found |= {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        found.update(node.output)
        for inner in subgraphs(node):
            found |= names_defined(inner)
    return found


def inlined(proto: ModelProto, file: FileLoc) -> ModelProto:
    """The model with the bodies of its own functions in place of their calls.

    Raises:
        CompileError: functions that call themselves, or make too large a model.
    """
    if not proto.functions:
        return proto
    functions = {_key(f.domain, f.name, f.overload): f for f in proto.functions}
    sizes: dict[Key, int] = {}
    if len(functions) != len(proto.functions):
        raise _refusal("two functions have the same name", file)
    if _size(proto.graph.node, functions, sizes, (), file) > MAX_NODES:
        raise _refusal(f"the model has more than {MAX_NODES} nodes", file)
    try:
        return inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError, TypeError) as error:
        raise _refusal(f"its functions cannot be inlined: {str(error).splitlines()[0]}", file) from None


def _key(domain: str, name: str, overload: str) -> Key:
    return "" if domain == "ai.onnx" else domain, name, overload


def _size(
    nodes: Iterable[NodeProto],
    functions: dict[Key, FunctionProto],
    sizes: dict[Key, int],
    callers: tuple[Key, ...],
    file: FileLoc,
) -> int:
    """How many nodes these are once functions are inlined."""
    if len(callers) > MAX_DEPTH:
        raise _refusal(f"more than {MAX_DEPTH} functions and graphs within one another", file)
    total = 0
    for node in nodes:
        key = _key(node.domain, node.op_type, node.overload)
        total += 1 + sum(_size(g.node, functions, sizes, (*callers, key), file) for g in subgraphs(node))
        if key not in functions:
            continue
        if key in callers:
            raise _refusal(f"the function '{node.op_type}' calls itself", file)
        if key not in sizes:
            sizes[key] = _size(functions[key].node, functions, sizes, (*callers, key), file)
        total += sizes[key]
    return min(total, MAX_NODES + 1)


def _refusal(message: str, file: FileLoc) -> CompileError:
    return CompileError(Diagnostic("model.function", message, file))
