"""Bring every operation on images into the device's layout, channels last.

%1 = q.conv2d %0 {layout="NCHW"}        %1 = transpose %0 {perm=[0,2,3,1]}
                                     -> %2 = q.conv2d %1 {layout="NHWC"}
                                        %3 = transpose %2 {perm=[0,3,1,2]}
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from compiler.ir.graph import Graph, Node, SourceView
from compiler.ops.shapes import Transpose
from compiler.ops.spatial import TO_NCHW, TO_NHWC
from compiler.passes.base import Pass


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
    made.views = tuple(through_transpose(v, node, made, TO_NCHW) for v in node.views)
    back = graph.add(Transpose(TO_NCHW), (made,), name=f"{node.name}/nchw", loc=node.loc)
    graph.replace(node, back)


def through_transpose(view: SourceView, old: Node, new: Node, perm: tuple[int, ...]) -> SourceView:
    """The view of a value `old` = transpose(new, perm), as a view of `new`."""
    assert view.held == old.shape, "a view behind a reshape cannot be moved over a transpose"
    return SourceView(view.name, new.shape, tuple(perm[p] for p in view.perm), view.shape)
