"""Make a float graph an integer graph.

%1 = nn.conv2d %x, %w, %b        %q = q.quantize %x
return %1                     -> %1 = q.conv2d %q, %w8, %b32
                                 %2 = q.dequantize %1
                                 return %2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from compiler.errors import CompileError, Unsupported
from compiler.ir.graph import Graph, Input, Node, SourceView
from compiler.ir.types import Quant
from compiler.ops.boundary import Dequantize, Quantize
from compiler.passes.base import Pass
from compiler.quantize.rules import RULES, Quantizer
from isa.diagnostics import Diagnostic


@dataclass(frozen=True)
class QuantizeGraph(Pass):
    """Every operation by its own rule, with the scales that the scheme gives by tensor name."""

    name: ClassVar[str] = "quantize"
    changes_values: ClassVar[bool] = True
    scheme: Mapping[str, Quant] = field(default_factory=dict[str, Quant])
    provenance: str = ""

    def run(self, graph: Graph) -> Graph:
        made = Graph(graph.name, "q", self.provenance)
        quantizer = Quantizer(made, self.scheme)
        values: dict[int, Node] = {}
        refused: list[Diagnostic] = []
        for node in graph.nodes():
            if node.is_constant:
                continue
            if any(not i.is_constant and i.id not in values for i in node.inputs):
                continue  # follows from a node that was refused
            try:
                values[node.id] = self._quantized(quantizer, node, values)
            except Unsupported as error:
                refused.append(error.diagnostic)
        if refused:
            raise CompileError(refused)
        outputs = [
            made.add(Dequantize(), (values[n.id],), name=name, loc=n.loc)
            for n, name in zip(graph.outputs, graph.output_names, strict=True)
        ]
        made.set_outputs(outputs, graph.output_names)
        made.erase_dead()
        return made

    def _quantized(self, quantizer: Quantizer, node: Node, values: dict[int, Node]) -> Node:
        if isinstance(node.op, Input):
            given = quantizer.graph.input(node.name, node.type.dtype, node.shape, node.loc)
            quantized = quantizer.graph.add(
                Quantize(), (given,), name=node.name, loc=node.loc, quant=quantizer.chosen(node)
            )
            quantized.views = (SourceView(node.name, (), node.shape), *node.views)
            return quantized
        inputs = [values[i.id] for i in node.inputs if not i.is_constant]
        return RULES[type(node.op)](quantizer, node, inputs)
