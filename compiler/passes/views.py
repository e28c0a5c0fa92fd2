"""Keeping track of the tensors of the source model while values are turned, flattened and merged.

A value that is about to disappear leaves its views to the value that it was made from.
"""

from __future__ import annotations

from compiler.ir.graph import Graph, Node, SourceView
from compiler.ops.shapes import Reshape, Transpose
from isa.program import joined
from isa.support.records import replace


def turned_views(old: Node, new: Node, perm: tuple[int, ...]) -> tuple[SourceView, ...]:
    """The views of `old` = transpose(new, perm), as views of `new`."""
    return tuple(replace(v, steps=joined(((new.shape, perm), *v.steps))) for v in old.views)


def erase_dead_keeping_views(graph: Graph) -> None:
    """Remove what no output needs; transposes and reshapes leave their views to their operands."""
    for node in reversed(graph.nodes()):
        if graph.users(node) or node in graph.outputs or node.op.interface:
            continue
        match node.op:
            case Transpose(perm=perm):
                (x,) = node.inputs
                x.views += turned_views(node, x, perm)
            case Reshape():
                (x,) = node.inputs
                x.views += node.views  # the same elements in the same order
            case _:
                pass
        graph.erase(node)
