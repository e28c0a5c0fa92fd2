"""Let the host permute graph inputs and outputs, as it converts them anyway.

%1 = q.quantize %x                        %1 = transpose %x {perm=[0,2,3,1]}
%2 = transpose %1 {perm=[0,2,3,1]}     -> %2 = q.quantize %1
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from compiler.ir.graph import Graph, Input, Node
from compiler.ops.quantize_linear import Dequantize, Quantize, Returned
from compiler.ops.shapes import Transpose
from compiler.passes.base import Pass
from compiler.passes.views import erase_dead_keeping_views, turned_views


class PermuteOnHost(Pass):
    """Where every user of an input wants the same order, and where only an output is turned."""

    name: ClassVar[str] = "permute-on-host"

    def run(self, graph: Graph) -> Graph:
        for quantize, _ in graph.of(Quantize):
            users = graph.users(quantize)
            same = users and all(isinstance(u.op, Transpose) and u.op == users[0].op for u in users)
            if same and isinstance(quantize.inputs[0].op, Input) and quantize not in graph.outputs:
                _turn_input(graph, quantize, users)
        for edge in graph.nodes():
            if graph.alive(edge) and isinstance(edge.op, (Dequantize, Returned)):
                (turned,) = edge.inputs
                if isinstance(turned.op, Transpose) and graph.sole_user(turned) is edge:
                    _turn_output(graph, edge, turned)
        erase_dead_keeping_views(graph)
        return graph


def _turn_input(graph: Graph, quantize: Node, users: list[Node]) -> None:
    operation = users[0].op
    assert isinstance(operation, Transpose)
    back = tuple(int(p) for p in np.argsort(operation.perm))
    turned = graph.add(operation, quantize.inputs, name=f"{quantize.name}/turned", loc=quantize.loc)
    made = graph.add(Quantize(), (turned,), name=quantize.name, loc=quantize.loc, quant=quantize.type.quant)
    made.views = turned_views(quantize, made, back)
    for user in users:
        made.views += user.views
        graph.replace(user, made)
    graph.erase(quantize)


def _turn_output(graph: Graph, edge: Node, turned: Node) -> None:
    assert isinstance(turned.op, Transpose)
    (x,) = turned.inputs
    given = graph.add(edge.op, (x,), name=f"{edge.name}/turned", loc=edge.loc)
    last = graph.add(turned.op, (given,), name=edge.name, loc=edge.loc)
    graph.replace(edge, last)
