"""Evaluate what depends on constants alone.

%1 = transpose %0 {perm=[1,0]}       %1 = const
                               ->
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from compiler.ir.graph import Graph
from compiler.passes.base import Pass


class FoldConstants(Pass):
    """Replace a node whose operands are all constant by its value."""

    name: ClassVar[str] = "fold-constants"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes():
            operands = node.inputs
            if not operands or not all(o.is_constant for o in operands):
                continue
            with np.errstate(all="ignore"):
                value = node.op.evaluate(
                    [o.constant for o in operands], [o.type for o in operands], node.type
                )
            folded = graph.const(value.astype(node.type.dtype.numpy), node.name, node.loc, node.type.quant)
            graph.replace(node, folded)
        graph.erase_dead()
        return graph
