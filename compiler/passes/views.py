"""Keeping track of the tensors of the source model while values are turned, flattened and merged.

A value that is about to disappear leaves its views to the value that it was made from.
"""

from __future__ import annotations

from compiler.ir.graph import Graph, Input, Node, SourceView
from compiler.ops.shapes import Reshape, Transpose


def through_transpose(view: SourceView, old: Node, new: Node, perm: tuple[int, ...]) -> SourceView | None:
    """The view of `old` = transpose(new, perm), as a view of `new`; None where there is none."""
    if view.perm == tuple(range(len(view.perm))):
        view = SourceView(view.name, old.shape, tuple(range(len(old.shape))), view.shape)
    if view.held != old.shape:
        return None  # transposed, reshaped, transposed again: more than a view can say
    return SourceView(view.name, new.shape, tuple(perm[p] for p in view.perm), view.shape)


def turned_views(old: Node, new: Node, perm: tuple[int, ...]) -> tuple[SourceView, ...]:
    """All views of `old` = transpose(new, perm) that `new` can hold."""
    found = (through_transpose(v, old, new, perm) for v in old.views)
    return tuple(v for v in found if v is not None)


def erase_dead_keeping_views(graph: Graph) -> None:
    """Remove what no output needs; transposes and reshapes leave their views to their operands."""
    for node in reversed(graph.nodes()):
        if graph.users(node) or node in graph.outputs or isinstance(node.op, Input):
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
