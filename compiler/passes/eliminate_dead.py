"""Remove what no graph output needs.

%1 = nn.clamp %0        (nothing)
return %0            ->
"""

from __future__ import annotations

from typing import ClassVar

from compiler.ir.graph import Graph
from compiler.passes.base import Pass
from compiler.passes.views import erase_dead_keeping_views


class EliminateDead(Pass):
    """Graph inputs stay, used or not."""

    name: ClassVar[str] = "eliminate-dead"

    def run(self, graph: Graph) -> Graph:
        erase_dead_keeping_views(graph)
        return graph
