"""Make padding before a window part of the window.

%1 = q.pad %0 {before=[0,1,1,0], ...}          %2 = q.conv2d %0, %w, %b {pads=[1,1,1,1]}
%2 = q.conv2d %1, %w, %b {pads=[0,0,0,0]}  ->
"""

from __future__ import annotations

from typing import ClassVar

from compiler.ir.graph import Graph, Node
from compiler.ops.conv2d import QConv2d
from compiler.ops.max_pool import MaxPool
from compiler.ops.slices import QPad
from compiler.ops.sliding_window import Pads, zero_of
from compiler.passes.base import Pass, fuse_two
from isa.support.records import replace


class FoldPads(Pass):
    """Zeros before a convolution, values that never win before a maximum; rows and columns alone."""

    name: ClassVar[str] = "fold-pads"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes():
            operation = node.op
            if not isinstance(operation, (QConv2d, MaxPool)) or not isinstance(node.inputs[0].op, QPad):
                continue
            padded, *rest = node.inputs
            more = _pads(padded, operation)
            if more is None or graph.sole_user(padded) is not node:
                continue
            top, left, bottom, right = (a + b for a, b in zip(operation.pads, more, strict=True))
            wider = replace(operation, pads=(top, left, bottom, right))
            fuse_two(graph, padded, node, wider, (padded.inputs[0], *rest))
        graph.erase_dead()
        return graph


def _pads(padded: Node, operation: QConv2d | MaxPool) -> Pads | None:
    """The padding in the order of a window's pads; None where a window has no such padding."""
    pad = padded.op
    assert isinstance(pad, QPad)
    nothing = zero_of(padded.type) if isinstance(operation, QConv2d) else padded.type.dtype.bounds[0]
    first = 2 if operation.layout == "NCHW" else 1
    others = [i for i in range(len(pad.before)) if i not in (first, first + 1)]
    if pad.mode != "constant" or pad.value != nothing or any(pad.before[i] or pad.after[i] for i in others):
        return None
    return pad.before[first], pad.before[first + 1], pad.after[first], pad.after[first + 1]
