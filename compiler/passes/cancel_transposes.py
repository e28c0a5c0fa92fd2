"""Remove transposes: two in a row, around element-wise operations, before a matrix product.

%1 = transpose %0 {perm=[0,3,1,2]}        %2 = q.table %0
%2 = q.table %1                        ->
%3 = transpose %2 {perm=[0,2,3,1]}
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Graph, Node
from compiler.ops.gemm import Gemm, QGemm
from compiler.ops.shapes import Reshape, Transpose
from compiler.ops.sliding_window import TO_NHWC
from compiler.passes.base import Pass
from compiler.passes.to_device_layout import is_on_device
from compiler.passes.views import erase_dead_keeping_views, turned_views


class CancelTransposes(Pass):
    """Push transposes toward the outputs until nothing changes."""

    name: ClassVar[str] = "cancel-transposes"

    def run(self, graph: Graph) -> Graph:
        pending = deque(graph.nodes())
        while pending:
            node = pending.popleft()
            if graph.alive(node) and (graph.users(node) or node in graph.outputs):
                made = _rewrite(graph, node)
                if made is not None:
                    pending += [made, *graph.users(made)]
        erase_dead_keeping_views(graph)
        return graph


def _rewrite(graph: Graph, node: Node) -> Node | None:
    """Apply the first rule that fits; gives what stands in the node's place, to be looked at again."""
    match node.op:
        case Transpose():
            return _merge(graph, node) or _free(graph, node)
        case QGemm() | Gemm():
            return _permute_weights(graph, node)
        case _:
            return _push(graph, node)


def _merge(graph: Graph, node: Node) -> Node | None:
    """transpose(transpose(x)) is one transpose, or x."""
    (inner,) = node.inputs
    if not isinstance(inner.op, Transpose) or not isinstance(node.op, Transpose):
        return None
    (x,) = inner.inputs
    perm = tuple(inner.op.perm[p] for p in node.op.perm)
    if perm == tuple(range(len(perm))):
        x.views += node.views
        graph.replace(node, x)
        return x
    merged = graph.add(Transpose(perm), (x,), name=node.name, loc=node.loc)
    merged.views = node.views
    graph.replace(node, merged)
    return merged


def _free(graph: Graph, node: Node) -> Node | None:
    """A transpose that only moves dimensions of extent 1 is a reshape."""
    (x,) = node.inputs
    assert isinstance(node.op, Transpose)
    moved = [p for p in node.op.perm if x.shape[p] != 1]
    if moved != sorted(moved):
        return None
    made = graph.add(Reshape(node.shape), (x,), name=node.name, loc=node.loc)
    made.views = node.views
    graph.replace(node, made)
    return made


def _push(graph: Graph, node: Node) -> Node | None:
    """op(transpose(a), transpose(b)) becomes transpose(op'(a, b)) where most operands are turned alike.

    An operand that is turned to the device's layout for another user is at hand as it is wanted, and counts
    too: in one direction alone, so that nothing is turned to and fro.
    """
    turned = [i.op.perm for i in node.inputs if isinstance(i.op, Transpose)]
    if not turned:
        return None
    perm = max(turned, key=turned.count)
    back = tuple(int(p) for p in np.argsort(perm))
    computed = sum(not i.is_constant for i in node.inputs)
    at_hand = turned.count(perm)
    if back == TO_NHWC:
        at_hand += sum(_turned_user(graph, i, back) is not None for i in node.inputs)
    operation = node.op.commute_transpose(perm)
    if (
        operation is None
        or not is_on_device(operation, len(perm))
        or 2 * at_hand <= computed
        or any(len(i.shape) != len(perm) for i in node.inputs)
    ):
        return None
    operands = [_turned_back(graph, i, perm, back) for i in node.inputs]
    made = graph.add(operation, operands, name=node.name, loc=node.loc, quant=node.type.quant)
    made.views = turned_views(node, made, perm)
    below = graph.add(Transpose(perm), (made,), name=f"{node.name}/turned", loc=node.loc)
    graph.replace(node, below)
    return below


def _turned_back(graph: Graph, operand: Node, perm: tuple[int, ...], back: tuple[int, ...]) -> Node:
    """The value of which an operand is the transpose by `perm`."""
    if isinstance(operand.op, Transpose) and operand.op.perm == perm:
        return operand.inputs[0]
    if operand.is_constant:
        values = np.ascontiguousarray(operand.constant.transpose(back))
        return graph.const(values, operand.name, operand.loc, operand.type.quant)
    if (known := _turned_user(graph, operand, back)) is not None:
        return known
    return graph.add(Transpose(back), (operand,), name=f"{operand.name}/turned", loc=operand.loc)


def _turned_user(graph: Graph, operand: Node, perm: tuple[int, ...]) -> Node | None:
    """The transpose of a computed value by `perm` that some other user has, if there is one."""
    if operand.is_constant:
        return None
    return next((u for u in graph.users(operand) if u.op == Transpose(perm) and graph.users(u)), None)


def _permute_weights(graph: Graph, node: Node) -> Node | None:
    """gemm(flatten(transpose(x))) reads x as it lies, with the rows of its weights reordered."""
    flat, weights, bias = node.inputs
    if not isinstance(flat.op, Reshape):
        return None
    (turned,) = flat.inputs
    if not isinstance(turned.op, Transpose) or turned.op.perm[0] != 0 or turned.shape[0] != flat.shape[0]:
        return None
    (x,) = turned.inputs
    order = np.arange(flat.shape[1]).reshape(turned.shape[1:])
    inner = np.argsort(turned.op.perm[1:])
    rows = order.transpose(inner).reshape(-1)
    permuted = graph.const(
        np.ascontiguousarray(weights.constant[rows]), weights.name, weights.loc, weights.type.quant
    )
    dense = graph.add(Reshape(flat.shape), (x,), name=flat.name, loc=flat.loc)
    made = graph.add(node.op, (dense, permuted, bias), name=node.name, loc=node.loc, quant=node.type.quant)
    made.views = node.views
    graph.replace(node, made)
    return made
