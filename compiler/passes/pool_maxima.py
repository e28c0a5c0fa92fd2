"""Write the maximum of an image as poolings, which have gradients.

%1 = nn.reduce %0 {function = "max", axes = (1, 2)}   ->   %1 = max_pool %0 {kernel = strides = (h, w)}
"""

from __future__ import annotations

from typing import ClassVar, Final

from compiler.ir.graph import Graph, Node
from compiler.ops.max_pool import MaxPool
from compiler.ops.reduce import Reduce
from compiler.ops.sliding_window import Pair
from compiler.passes.base import Pass

IMAGE_RANK: Final = 4
LONGEST: Final = 16
"""Of a window's sides; a larger image is pooled more than once."""


class PoolMaxima(Pass):
    """Maxima over axes 1 and 2 of four become poolings."""

    name: ClassVar[str] = "pool-maxima"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes():
            if node.op == Reduce("max", (1, 2)) and len(node.shape) == IMAGE_RANK:
                graph.replace(node, _pooled(graph, node.inputs[0], node))
        return graph


def _pooled(graph: Graph, x: Node, node: Node) -> Node:
    """The maximum of x, under the name of a node."""
    extents = x.shape[1], x.shape[2]
    if max(extents) > LONGEST:
        x = graph.add(_part(extents), [x], name=f"{node.name}/{extents[0]}_x_{extents[1]}", loc=node.loc)
        return _pooled(graph, x, node)
    return graph.add(MaxPool(extents, extents, (0, 0, 0, 0), "NHWC"), [x], name=node.name, loc=node.loc)


def _part(extents: Pair) -> MaxPool:
    """A pooling by windows of equal size, as few as there can be; what they lack at the end is padded."""
    parts = [-(-extent // LONGEST) for extent in extents]
    rows, columns = (-(-extent // n) for extent, n in zip(extents, parts, strict=True))
    below, beside = parts[0] * rows - extents[0], parts[1] * columns - extents[1]
    return MaxPool((rows, columns), (rows, columns), (0, 0, below, beside), "NHWC")
