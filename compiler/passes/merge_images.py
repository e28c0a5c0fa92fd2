"""Let the images of a batch share instructions: what goes pixel by pixel sees them as one image.

%1 = q.conv2d %0 {kernel 1 x 1} : i8[64,2,1,5]        %2 = reshape %0 : i8[1,1,128,5]
                                                   -> %3 = q.conv2d %2 : i8[1,1,128,5]
                                                      %1 = reshape %3 : i8[64,2,1,5]
"""

from __future__ import annotations

import math
from typing import ClassVar, Final

from compiler.ir.graph import Graph, Node
from compiler.ir.op import AlongAxis, ElementWise
from compiler.ir.types import Shape, largest_divisor
from compiler.ops.arg_max import ArgMax
from compiler.ops.conv2d import QConv2d
from compiler.ops.depth_to_space import Take
from compiler.ops.shapes import Reshape
from compiler.passes.base import Pass

CHANNELS: Final = 3
MOST_COLUMNS: Final = 256
"""Pixels of a row that every instruction takes."""


class MergeImages(Pass):
    """Convolutions of one tap, operations on elements and along the channels; in the device's layout."""

    name: ClassVar[str] = "merge-images"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes():
            if len(node.shape) != CHANNELS + 1 or node.shape[0] == 1 or not _is_pixelwise(node):
                continue
            shape = _as_one_image(node.shape)
            operands = [_merged(graph, x, shape) for x in node.inputs]
            made = graph.add(node.op, operands, name=node.name, loc=node.loc, quant=node.type.quant)
            made.views = node.views
            graph.replace(
                node, graph.add(Reshape(node.shape), (made,), name=f"{node.name}/images", loc=node.loc)
            )
        graph.erase_dead()
        return graph


def _is_pixelwise(node: Node) -> bool:
    """Whether every pixel of the result comes from the same pixel of every operand."""
    operation = node.op
    computed = [x for x in node.inputs if not x.is_constant]
    if any(x.shape[:CHANNELS] != node.shape[:CHANNELS] for x in computed) or not computed:
        return False
    match operation:
        case QConv2d():
            tap = operation.strides == (1, 1) and not any(operation.pads)
            return tap and node.inputs[1].shape[2:] == (1, 1)
        case ElementWise():
            return all(math.prod(x.shape[:CHANNELS]) == 1 for x in node.inputs if x.is_constant)
        case ArgMax() | Take():
            return False
        case AlongAxis():
            rows = all(len(x.shape) == 1 for x in node.inputs if x.is_constant)
            return operation.axis == CHANNELS and rows
        case _:
            return False


def _as_one_image(shape: Shape) -> tuple[int, int, int]:
    """One image of the pixels of all: (1, rows, columns), the columns as many as an instruction takes."""
    pixels = math.prod(shape[:CHANNELS])
    columns = largest_divisor(pixels, MOST_COLUMNS)
    return 1, pixels // columns, columns


def _merged(graph: Graph, x: Node, shape: tuple[int, int, int]) -> Node:
    """An operand as one image; constants, which all pixels share, stay."""
    if x.is_constant:
        return x
    whole = (*shape, x.shape[CHANNELS])
    if isinstance(x.op, Reshape) and x.inputs[0].shape == whole:
        return x.inputs[0]
    return graph.add(Reshape(whole), (x,), name=f"{x.name}/image", loc=x.loc)
