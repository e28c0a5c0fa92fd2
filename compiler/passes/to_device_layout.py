"""Bring every operation on images into the device's layout, channels last.

%1 = q.conv2d %0 {layout="NCHW"}        %1 = transpose %0 {perm=[0,2,3,1]}
                                     -> %2 = q.conv2d %1 {layout="NHWC"}
                                        %3 = transpose %2 {perm=[0,3,1,2]}
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np

from compiler.ir.graph import Graph, Node
from compiler.ir.op import Op
from compiler.ir.stage import Stage
from compiler.ops.batch_norm import BatchNorm
from compiler.ops.prelu import QAffine, QPRelu
from compiler.ops.reduce import QReduce
from compiler.ops.shapes import Transpose
from compiler.ops.sliding_window import TO_NHWC
from compiler.ops.softmax import QSoftmax
from compiler.passes.base import Pass
from compiler.passes.views import turned_views
from isa.support.records import replace

CHANNEL_WISE: Final = (QSoftmax, QPRelu, QAffine, BatchNorm)
"""Operations along an axis, which on the device is the last."""


def is_on_device(operation: Op, rank: int) -> bool:
    """Whether the device has an operation as it is: its axes are where instructions have them."""
    match operation:
        case QSoftmax(axis=axis) | QPRelu(axis=axis) | QAffine(axis=axis) | BatchNorm(axis=axis):
            return axis == rank - 1
        case QReduce():
            return operation.is_on_device(rank)
        case _:
            return True


class ToDeviceLayout(Pass):
    """Transposes are put around; later passes remove them again."""

    name: ClassVar[str] = "to-device-layout"
    stage: Stage = Stage.DEVICE
    """Of the graph then; training keeps real numbers."""

    def run(self, graph: Graph) -> Graph:
        turned: dict[tuple[int, tuple[int, ...]], Node] = {}
        for node in graph.nodes():
            operation: Any = node.op
            if getattr(operation, "layout", "NHWC") != "NHWC":
                _convert(graph, node, replace(operation, layout="NHWC"), TO_NHWC, turned)
            elif isinstance(operation, CHANNEL_WISE) and not is_on_device(operation, len(node.shape)):
                others = [i for i in range(len(node.shape)) if i != operation.axis]
                last = len(others)
                _convert(graph, node, replace(operation, axis=last), (*others, operation.axis), turned)
            elif isinstance(operation, QReduce) and not is_on_device(operation, len(node.shape)):
                kept = [i for i in range(len(node.shape)) if i not in operation.axes]
                axes = tuple(range(len(kept), len(node.shape)))
                _convert(graph, node, replace(operation, axes=axes), (*kept, *operation.axes), turned)
        graph.stage = self.stage
        return graph


def _convert(
    graph: Graph,
    node: Node,
    operation: Any,
    order: tuple[int, ...],
    turned: dict[tuple[int, tuple[int, ...]], Node],
) -> None:
    """Compute a node on a transposed value, which all that read the value share."""
    x, *rest = node.inputs
    named = str if graph.stage.is_integer else graph.unused_name
    inverse = tuple(int(p) for p in np.argsort(order))
    key = x.id, order
    if key not in turned:
        turned[key] = graph.add(Transpose(order), (x,), name=named(f"{x.name}/device"), loc=node.loc)
    made = graph.add(operation, (turned[key], *rest), name=node.name, loc=node.loc, quant=node.type.quant)
    made.views = turned_views(node, made, inverse)
    back = graph.add(Transpose(inverse), (made,), name=named(f"{node.name}/source"), loc=node.loc)
    graph.replace(node, back)
