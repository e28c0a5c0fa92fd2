"""Give every graph output a layer that computes it.

%1 = q.quantize %0                    %1 = q.quantize %0
%2 = q.dequantize %1               -> %2 = q.table %1 {function="clamp", parameters=[-inf,inf]}
return %2                             %3 = q.dequantize %2
"""

from __future__ import annotations

import math
from typing import ClassVar

from compiler.ir.graph import Graph
from compiler.ops.activation import QTable
from compiler.ops.boundary import Dequantize, Quantize
from compiler.ops.shapes import unreshaped
from compiler.passes.base import Pass


class CopyReturnedInputs(Pass):
    """An input that is returned as it is, or under another shape, is copied."""

    name: ClassVar[str] = "copy-returned-inputs"

    def run(self, graph: Graph) -> Graph:
        for dequantize, operation in graph.of(Dequantize):
            (value,) = dequantize.inputs
            if isinstance(unreshaped(value).op, Quantize):
                copy = graph.add(
                    QTable("clamp", (-math.inf, math.inf)),
                    (value,),
                    name=f"{dequantize.name}/copy",
                    loc=dequantize.loc,
                    quant=value.quant,
                )
                made = graph.add(operation, (copy,), name=dequantize.name, loc=dequantize.loc)
                graph.replace(dequantize, made)
        return graph
