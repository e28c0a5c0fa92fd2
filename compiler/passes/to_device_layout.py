"""Bring every operation on images into the device's layout, channels last.

%1 = q.conv2d %0 {layout="NCHW"}        %1 = transpose %0 {perm=[0,2,3,1]}
                                     -> %2 = q.conv2d %1 {layout="NHWC"}
                                        %3 = transpose %2 {perm=[0,3,1,2]}
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from compiler.ir.graph import Graph, Node
from compiler.ops.shapes import Transpose
from compiler.ops.spatial import TO_NCHW, TO_NHWC
from compiler.passes.base import Pass
from compiler.passes.views import turned_views


class ToDeviceLayout(Pass):
    """Transposes are put around; later passes remove them again."""

    name: ClassVar[str] = "to-device-layout"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes():
            operation: Any = node.op
            if getattr(operation, "layout", "NHWC") != "NHWC":
                _convert(graph, node, replace(operation, layout="NHWC"))
        graph.stage = "device"
        return graph


def _convert(graph: Graph, node: Node, operation: Any) -> None:
    x, *rest = node.inputs
    turned = graph.add(Transpose(TO_NHWC), (x,), name=f"{x.name}/nhwc", loc=node.loc)
    made = graph.add(operation, (turned, *rest), name=node.name, loc=node.loc, quant=node.type.quant)
    made.views = turned_views(node, made, TO_NCHW)
    back = graph.add(Transpose(TO_NCHW), (made,), name=f"{node.name}/nchw", loc=node.loc)
    graph.replace(node, back)
