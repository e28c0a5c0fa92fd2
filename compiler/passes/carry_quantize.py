"""Carry a Quantize back through what only moves elements, to the operation that computes them.

%1 = nn.conv2d %0, %w, %b           %1 = nn.conv2d %0, %w, %b
%2 = reshape %1 {shape=[1, 8]}      %4 = q.quantize %1
%3 = q.quantize %2                  %3 = reshape %4 {shape=[1, 8]}
"""

from __future__ import annotations

from typing import ClassVar

from compiler.ir.graph import Graph, Node
from compiler.ops.quantize_linear import Dequantize, Quantize
from compiler.passes.base import Pass
from compiler.rules.importing import is_parameter


class CarryQuantize(Pass):
    """The codes are moved then; codes that come from a Dequantize and are only moved stay as they are."""

    name: ClassVar[str] = "carry-quantize"

    def run(self, graph: Graph) -> Graph:
        for node, _ in graph.of(Quantize):
            movements = _movements(node.inputs[0])
            if not movements:
                continue
            codes = graph.add(
                Quantize(),
                movements[-1].inputs,
                name=f"{node.name}/carried",
                loc=node.loc,
                quant=node.type.quant,
            )
            for moved in reversed(movements):
                codes = graph.add(moved.op, (codes,), name=f"{moved.name}/codes", loc=moved.loc)
            codes.name, codes.views = node.name, node.views
            graph.replace(node, codes)
        graph.erase_dead()
        return graph


def _movements(node: Node) -> list[Node]:
    """The nodes that move what is computed or given, the last first; none where it is codes already."""
    found: list[Node] = []
    while node.op.moves:
        found.append(node)
        (node,) = node.inputs
    return [] if isinstance(node.op, Dequantize) or is_parameter(node) else found
