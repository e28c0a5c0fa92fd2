"""Remove operations that give their operand back.

%1 = nn.identity %0                  %2 = nn.clamp %0
%2 = nn.clamp %1               ->
"""

from __future__ import annotations

from typing import ClassVar

from compiler.ir.graph import Graph, SourceView
from compiler.ops.shapes import Dropout, Identity, Reshape, Transpose
from compiler.passes.base import Pass


class EliminateIdentity(Pass):
    """Identity, a reshape to the same shape, a transpose that permutes nothing."""

    name: ClassVar[str] = "eliminate-identity"
    dropout: bool = True
    """Whether dropouts go too: training keeps them."""

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes():
            idle = (
                (isinstance(node.op, Identity) and (self.dropout or not isinstance(node.op, Dropout)))
                or (isinstance(node.op, Reshape) and node.shape == node.inputs[0].shape)
                or (isinstance(node.op, Transpose) and node.op.perm == tuple(range(len(node.shape))))
            )
            if idle:
                own = () if node.views else (SourceView(node.name, (), node.shape),)
                node.inputs[0].views += (*own, *node.views)  # the same value under the same shape
                graph.replace(node, node.inputs[0])
        return graph
