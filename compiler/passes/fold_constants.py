"""Evaluate what depends on constants alone.

%1 = transpose %0 {perm=[1,0]}       %1 = const
                               ->
"""

from __future__ import annotations

from typing import ClassVar

from compiler.ir.evaluate import folded
from compiler.ir.graph import Graph
from compiler.passes.base import Pass


class FoldConstants(Pass):
    """Replace a node whose operands are all constant by its value."""

    name: ClassVar[str] = "fold-constants"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes():
            constant = folded(node)
            if constant is not None:
                graph.replace(node, constant)
        graph.erase_dead()
        return graph
