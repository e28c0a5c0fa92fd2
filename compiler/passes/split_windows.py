"""Windows that no instruction can express, in parts: the same sums and the same maxima.

%3 = q.conv2d %x, %w {kernel 20 x 1}     %p = q.pad %x
                                      -> %a, %b = slice %p, from row 0 and from row 16
                                         %c = q.concat %a, %b
                                         %3 = q.conv2d %c, %w' {kernel 16 x 1, twice the channels}

A kernel beyond the operands of the instruction is cut into parts; the part from tap t on reads the image
moved by t * dilation, and the parts lie side by side as channels. Where dilation or stride are beyond the
operands, every tap is a part. The int32 sums have the same terms: padding holds the zero point, and taps that
are added have a weight of zero. A maximum of a window is the maximum of those of its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Graph, Node
from compiler.ir.op import Op
from compiler.ops.binary import QReal
from compiler.ops.concat import QConcat
from compiler.ops.conv2d import QConv2d
from compiler.ops.depth_to_space import Take
from compiler.ops.max_pool import MaxPool
from compiler.ops.slices import QPad, Slice
from compiler.ops.sliding_window import Pads, zero_of
from compiler.passes.base import Pass
from isa.instructions.matrix import Conv
from isa.instructions.vector import Pooling
from isa.spec import Instruction, greatest
from isa.support.records import Frozen, replace

CHANNELS: Final = 3


class SplitWindows(Pass):
    """Rows first, then columns; in the device's layout."""

    name: ClassVar[str] = "split-windows"

    def run(self, graph: Graph) -> Graph:
        for axis in (0, 1):
            for node, operation in graph.of(QConv2d):
                window = _Window.of(operation, axis, node.inputs[1].shape[2 + axis])
                if not window.fits(Conv, dilated=True):
                    _split_sum(graph, node, operation, window)
            for node, operation in graph.of(MaxPool):
                window = _Window.of(operation, axis, operation.kernel[axis])
                if not window.fits(Pooling, dilated=False):
                    _split_maximum(graph, node, operation, window)
        graph.erase_dead()
        return graph


class _Window(Frozen):
    """A window along rows (axis 0) or columns (axis 1)."""

    axis: int
    taps: int
    stride: int
    dilation: int
    before: int
    after: int

    @staticmethod
    def of(operation: QConv2d | MaxPool, axis: int, taps: int) -> _Window:
        strides, dilations, pads = operation.strides, operation.dilations, operation.pads
        dilation = 1 if taps == 1 else dilations[axis]
        return _Window(axis, taps, strides[axis], dilation, pads[axis], pads[axis + 2])

    def fits(self, kind: type[Instruction], *, dilated: bool) -> bool:
        """Whether the operands of an instruction hold it; they are as wide for rows and columns."""
        most = greatest(kind, "dh") if dilated else 1
        return (
            self.taps <= greatest(kind, "kh")
            and self.stride <= greatest(kind, "sh")
            and self.before <= greatest(kind, "pt")
            and self.dilation <= most
        )

    def along(self, value: int, others: Sequence[int] = (0, 0, 0, 0)) -> tuple[int, ...]:
        """Numbers for the four dimensions of an image, one of them for the window's."""
        return tuple(value if i == 1 + self.axis else other for i, other in enumerate(others))

    def instead(self, values: Sequence[int], value: int) -> tuple[int, int]:
        """The numbers of rows and columns with another one for the window's."""
        rows, columns = (value if i == self.axis else v for i, v in enumerate(values))
        return rows, columns


def _images(
    graph: Graph, node: Node, window: _Window, starts: Sequence[int], count: int, step: int, padding: int
) -> list[Node]:
    """The padded image from every start on, `count` rows or columns of it, every step-th."""
    x = node.inputs[0]
    reach = max(starts) + (count - 1) * step + 1
    after = max(window.after, reach - window.before - x.shape[1 + window.axis])
    padded = _put(graph, node, QPad(window.along(window.before), window.along(after), "constant", padding), x)
    counts, steps = window.along(count, x.shape), window.along(step, (1, 1, 1, 1))
    return [_put(graph, node, Slice(window.along(start), counts, steps), padded) for start in starts]


def _split_sum(graph: Graph, node: Node, operation: QConv2d, window: _Window) -> None:
    """Put the parts of a convolution's window side by side as channels."""
    x, w, bias = node.inputs
    outputs = node.shape[1 + window.axis]
    single = window.dilation > greatest(Conv, "dh") or window.stride > greatest(Conv, "sh")
    taps = 1 if single else min(window.taps, greatest(Conv, "kh"))
    parts = -(-window.taps // taps)
    count = outputs if single else (outputs - 1) * window.stride + (taps - 1) * window.dilation + 1
    starts = [part * taps * window.dilation for part in range(parts)]
    images = _images(graph, node, window, starts, count, window.stride if single else 1, int(zero_of(x.type)))
    image = images[0] if parts == 1 else _put(graph, node, QConcat(CHANNELS), *images)
    if parts > 1 and operation.groups > 1:
        order = np.arange(image.shape[CHANNELS]).reshape(parts, operation.groups, -1).swapaxes(0, 1)
        image = _put(graph, node, Take(CHANNELS, tuple(order.ravel().tolist())), image)
    values = _parts(w.constant, int(zero_of(w.type)), window.axis, parts, taps)
    made = replace(
        operation,
        pads=_without(operation.pads, window.axis),
        strides=window.instead(operation.strides, 1 if single else window.stride),
        dilations=window.instead(operation.dilations, 1 if single else window.dilation),
    )
    _replace(graph, node, made, image, graph.const(values, w.name, w.loc, w.type.quant), bias)


def _split_maximum(graph: Graph, node: Node, operation: MaxPool, window: _Window) -> None:
    """The maximum of the maxima of parts, then that along the other dimension."""
    outputs, stride = node.shape[1 + window.axis], window.stride
    single = window.dilation > 1 or stride > greatest(Pooling, "sh")
    taps = 1 if single else min(window.taps, greatest(Pooling, "kh"))
    count = outputs if single else (outputs - 1) * stride + taps
    starts = [min(start, window.taps - taps) * window.dilation for start in range(0, window.taps, taps)]
    least = node.type.dtype.bounds[0]
    images = _images(graph, node, window, starts, count, stride if single else 1, least)
    if taps > 1:
        pool = MaxPool(window.instead((1, 1), taps), window.instead((1, 1), stride), (0, 0, 0, 0), "NHWC")
        images = [_put(graph, node, pool, image) for image in images]
    image = reduce(lambda a, b: _put(graph, node, QReal("max"), a, b), images)
    rest = replace(
        operation,
        kernel=window.instead(operation.kernel, 1),
        strides=window.instead(operation.strides, 1),
        pads=_without(operation.pads, window.axis),
        dilations=window.instead(operation.dilations, 1),
    )
    _replace(graph, node, rest, image)


def _without(pads: Pads, axis: int) -> Pads:
    top, left, bottom, right = (0 if i % 2 == axis else p for i, p in enumerate(pads))
    return top, left, bottom, right


def _put(graph: Graph, node: Node, made: Op, *inputs: Node) -> Node:
    """Codes of the operand's quantization, on the way to a node."""
    return graph.add(made, inputs, name=node.name, loc=node.loc, quant=inputs[0].type.quant)


def _replace(graph: Graph, node: Node, made: Op, *inputs: Node) -> None:
    quant, views = node.type.quant, node.views
    graph.replace(node, graph.add(made, inputs, name=node.name, loc=node.loc, quant=quant, views=views))


def _parts(w: NDArray[Any], zero: int, axis: int, parts: int, taps: int) -> NDArray[Any]:
    """Weights with the taps of one dimension as (parts * in) channels of `taps` each, missing ones zero."""
    first = np.moveaxis(w, 2 + axis, 2)
    out, channels, count, rest = first.shape
    missing = ((0, 0), (0, 0), (0, parts * taps - count), (0, 0))
    whole = np.pad(first, missing, constant_values=zero).reshape(out, channels, parts, taps, rest)
    cut = whole.transpose(0, 2, 1, 3, 4).reshape(out, parts * channels, taps, rest)
    return np.ascontiguousarray(np.moveaxis(cut, 2, 2 + axis))
