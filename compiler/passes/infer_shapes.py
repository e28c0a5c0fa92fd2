"""Infer the type of every node again from its operands.

%1 = nn.clamp %0 : f32[?]        %1 = nn.clamp %0 : f32[1,8,4,4]
                           ->
"""

from __future__ import annotations

from typing import ClassVar

from compiler.ir.graph import Const, Graph, Input, infer, typed
from compiler.passes.base import Pass


class InferShapes(Pass):
    """Set each type to what the operation's rule gives; quantization stays."""

    name: ClassVar[str] = "infer-shapes"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes():
            if not isinstance(node.op, (Const, Input)):
                first, *further = infer(node.op, node.inputs)
                graph.retype(node, typed(first, node.type.quant), tuple(further))
        return graph
