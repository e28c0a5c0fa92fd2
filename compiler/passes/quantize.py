"""Make a float graph an integer graph.

%1 = nn.conv2d %x, %w, %b        %q = q.quantize %x
return %1                     -> %1 = q.conv2d %q, %w8, %b32
                                 %2 = q.dequantize %1
                                 return %2
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from compiler.errors import CompileError, Unsupported
from compiler.ir.graph import Graph, Input, Node, SourceView
from compiler.ir.stage import Stage
from compiler.ops.quantize_linear import Quantize, returned
from compiler.ops.real import whole_numbers
from compiler.passes.base import Pass
from compiler.quantize.scheme import Scheme
from compiler.rules.quantizing import Quantizer, quantize_node
from isa.support.diagnostics import Diagnostic
from isa.support.records import field


class QuantizeGraph(Pass):
    """Every operation by its own rule, with the scales that the scheme gives by tensor name."""

    name: ClassVar[str] = "quantize"
    changes_values: ClassVar[bool] = True
    scheme: Scheme = field(default_factory=Scheme)

    def run(self, graph: Graph) -> Graph:
        return to_integers(graph, self.scheme)[0]


def to_integers(graph: Graph, scheme: Scheme) -> tuple[Graph, set[str]]:
    """The integer graph, and the tensors for which a scale was asked.

    Raises:
        CompileError: operations that the device does not have, or tensors without a scale.
    """
    made = Graph(graph.name, Stage.Q, scheme.calibration, scheme.text())
    quantizer = Quantizer(made, scheme)
    values: dict[int, Node] = {}
    refused: list[Diagnostic] = []
    for node in graph.nodes():
        if node.is_constant:
            continue
        if any(not i.is_constant and i.id not in values for i in node.inputs):
            continue  # follows from a node that was refused
        try:
            values[node.id] = _quantized(quantizer, node, values)
        except Unsupported as error:
            refused.append(error.diagnostic)
    if refused:
        raise CompileError(refused)
    outputs = [
        returned(made, n, name, lambda value: values[value.id])
        for n, name in zip(graph.outputs, graph.output_names, strict=True)
    ]
    made.set_outputs(outputs, graph.output_names)
    made.erase_dead()
    return made, quantizer.asked


def _quantized(quantizer: Quantizer, node: Node, values: Mapping[int, Node]) -> Node:
    if isinstance(node.op, Input):
        codes = whole_numbers(node.type.dtype) if node.type.dtype.is_code else None
        given = quantizer.graph.input(node.name, node.type.dtype, node.shape, node.loc, codes)
        if not node.graph.users(node):
            return given  # it is returned, and nothing reads it
        quant = codes or quantizer.chosen(node)
        quantized = quantizer.graph.add(Quantize(), (given,), name=node.name, loc=node.loc, quant=quant)
        quantized.views = (SourceView(node.name, (), node.shape), *node.views)
        return quantized
    inputs = [values[i.id] for i in node.inputs if not i.is_constant]
    return quantize_node(quantizer, node, inputs)
