"""Give every graph output a layer that computes it.

%1 = q.quantize %0                    %1 = q.quantize %0
%2 = q.dequantize %1               -> %2 = q.table %1 {function="identity"}
return %2                             %3 = q.dequantize %2
"""

from __future__ import annotations

from typing import ClassVar

from compiler.ir.graph import Graph
from compiler.ops.activation import QTable
from compiler.ops.quantize_linear import Dequantize, Quantize, Returned
from compiler.ops.shapes import unreshaped
from compiler.passes.base import Pass


class CopyReturnedInputs(Pass):
    """An input that is returned as it is, or under another shape, is copied."""

    name: ClassVar[str] = "copy-returned-inputs"

    def run(self, graph: Graph) -> Graph:
        for edge in graph.nodes():
            if not isinstance(edge.op, (Dequantize, Returned)):
                continue
            (value,) = edge.inputs
            if isinstance(unreshaped(value).op, Quantize):
                table, name = QTable("identity", ()), f"{edge.name}/copy"
                copy = graph.add(table, (value,), name=name, loc=edge.loc, quant=value.quant)
                graph.replace(edge, graph.add(edge.op, (copy,), name=edge.name, loc=edge.loc))
        return graph
