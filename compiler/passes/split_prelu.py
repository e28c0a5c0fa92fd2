"""Write a PRelu as operations that train: its slopes are the kernel of a depthwise convolution.

%2 = nn.prelu %0, %1   ->   %3 = nn.clamp %0 {low = 0}
                            %4 = nn.unary %0 {function = "clamp", parameters = (-inf, 0)}
                            %5 = nn.conv2d %4, %1 {groups = channels}
                            %2 = nn.add %3, %5
"""

from __future__ import annotations

import math
from typing import ClassVar, Final

import numpy as np

from compiler.ir.graph import Graph, Node
from compiler.ops.activation import Clamp, Unary
from compiler.ops.add import Add
from compiler.ops.conv2d import Conv2d
from compiler.ops.prelu import PRelu
from compiler.ops.shapes import Reshape
from compiler.passes.base import Pass
from compiler.rules.importing import NO_BIAS

NEGATIVE: Final = Unary("clamp", (-math.inf, 0.0))
LAYOUTS: Final = {(4, 1): "NCHW", (4, 3): "NHWC", (2, 1): "NHWC"}
"""Of the convolution, by the rank of the value and the axis of its channels."""


class SplitPRelu(Pass):
    """Of images and of rows of features; the slopes keep their name. min(x, 0) becomes the function it is."""

    name: ClassVar[str] = "split-prelu"

    def run(self, graph: Graph) -> Graph:
        for node, operation in graph.of(Clamp):  # that a PReLU was written with
            if (operation.low, operation.high) == NEGATIVE.parameters:
                graph.replace(node, graph.add(NEGATIVE, node.inputs, name=node.name, loc=node.loc))
        for node, operation in graph.of(PRelu):
            layout = LAYOUTS.get((len(node.shape), operation.axis))
            if layout is not None and node.inputs[1].is_constant:
                graph.replace(node, _split(graph, node, layout))
        graph.erase_dead()
        return graph


def _split(graph: Graph, node: Node, layout: str) -> Node:
    x, slope = node.inputs
    channels = slope.constant.size
    kernel = graph.const(slope.constant.reshape(channels, 1, 1, 1), slope.name, slope.loc)
    none = graph.const(np.zeros(channels, np.float32), f"{node.name}/{NO_BIAS}", node.loc)
    positive = graph.add(Clamp(0.0, math.inf), [x], name=f"{node.name}/positive", loc=node.loc)
    negative = graph.add(NEGATIVE, [x], name=f"{node.name}/negative", loc=node.loc)
    image = len(node.shape) > 2
    if not image:
        at = Reshape((node.shape[0], 1, 1, channels))
        negative = graph.add(at, [negative], name=f"{node.name}/image", loc=node.loc)
    times = Conv2d((1, 1), (0, 0, 0, 0), (1, 1), layout, groups=channels)
    scaled = graph.add(times, [negative, kernel, none], name=f"{node.name}/scaled", loc=node.loc)
    if not image:
        scaled = graph.add(Reshape(node.shape), [scaled], name=f"{node.name}/row", loc=node.loc)
    return graph.add(Add(), [positive, scaled], name=node.name, loc=node.loc)
