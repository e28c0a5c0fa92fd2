"""Max pooling: ONNX MaxPool (opset 1 and later), Keras MaxPooling2D; integers stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.ir.work import WindowWork, Work
from compiler.ops import volume
from compiler.ops.pool_gradient import MaxPoolGradient
from compiler.ops.sliding_window import (
    Pads,
    Pair,
    from_nhwc,
    image_shape,
    layer_pooling,
    nhwc,
    onnx_window,
    pooled_shape,
    pooling_pads,
    pooling_steps,
    window_part,
    windows,
    write_spatial,
)
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.exporting import OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.partitioning import Part, part_rule
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa.program import Box
from isa.support.records import replace


@op("max_pool", "x:f32|i8|u8")
class MaxPool(Op):
    """The greatest value of every window; padding never wins."""

    kernel: Pair
    strides: Pair
    pads: Pads
    layout: str
    dilations: Pair = (1, 1)

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        shape = pooled_shape(
            types[0].shape, self.layout, self.kernel, self.strides, self.pads, self.dilations
        )
        return TensorType(types[0].dtype, shape, types[0].quant)

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """Rows and columns of every window, one after the other."""
        channels = image_shape(out.shape, self.layout)[3]
        return WindowWork(0, 0, channels, out.elements // channels, pooling_steps(self.kernel))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        least = -np.inf if out.dtype is DType.F32 else out.dtype.bounds[0]
        taken = windows(
            nhwc(args[0], self.layout), self.kernel, self.strides, self.dilations, self.pads, least
        )
        return from_nhwc(taken.max(axis=(-2, -1)), self.layout)


@part_rule(MaxPool)
def part_of_max_pool(node: Node, operation: MaxPool, box: Box) -> Part | None:
    """Some rows, or some channels."""
    (x,) = node.inputs
    found = window_part(
        box, x.shape, operation.kernel, operation.strides, operation.dilations, operation.pads
    )
    if operation.layout != "NHWC" or found is None:
        return None
    read, pads = found
    return Part(replace(operation, pads=pads), ((*read[:3], box[3]),))


@gradient_rule(MaxPool)
def max_pool_gradient(d: Differentiator, node: Node, operation: MaxPool, error: Node) -> Errors:
    """The error goes to the first greatest value of a window."""
    (x,) = node.inputs
    made = MaxPoolGradient(
        operation.kernel, operation.strides, operation.pads, operation.layout, x.shape, operation.dilations
    )
    return (d.add(made, (x, error), node),)


@onnx_operator("MaxPool")
def import_max_pool(n: OnnxNode) -> Node:
    """Over one to three dimensions, without the indices output."""
    x = n.operand(0)
    if n.outputs > 1:
        n.fail("the Indices output is not supported", "one output")
    if (made := volume.pooled_in_images(n, import_max_pool)) is not None:
        return made
    kernel, strides, dilations = onnx_window(n, n.integers("kernel_shape", ()))
    extents = (x.shape[2], x.shape[3])
    pads = pooling_pads(n, extents, kernel, strides, dilations)
    if n.integer("ceil_mode", 0):
        pads = ceil_pads(extents, reaches(kernel, dilations), strides, pads)
    return n.add(MaxPool(kernel, strides, pads, "NCHW", dilations), x)


def reaches(kernel: Pair, dilations: Pair) -> Pair:
    """What a window spans."""
    rows, columns = ((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    return rows, columns


def ceil_pads(extents: Pair, kernel: Pair, strides: Pair, pads: Pads) -> Pads:
    """Pads that give the windows of ceil_mode=1; a window must begin before the padding's end."""
    after: list[int] = []
    for axis in (0, 1):
        before, end, extent = pads[axis], pads[axis + 2], extents[axis]
        count = -(-(extent + before + end - kernel[axis]) // strides[axis]) + 1
        if (count - 1) * strides[axis] >= extent + before:
            count -= 1
        after.append(max(end, (count - 1) * strides[axis] + kernel[axis] - extent - before))
    return (pads[0], pads[1], after[0], after[1])


@layer("MaxPooling2D", "pool_size", "strides", "padding")
def max_pooling_layer(call: LayerCall) -> Node:
    """MaxPooling2D(pool_size=2, strides=pool_size, padding="valid")."""
    x, kernel, strides, pads = layer_pooling(call)
    return call.add(MaxPool(kernel, strides, pads, "NHWC"), x)


@quantization_rule(MaxPool)
def quantize_max_pool(q: Quantizer, node: Node, operation: MaxPool, inputs: list[Node]) -> Node:
    """The same pooling on codes."""
    return q.add(operation, inputs, node, inputs[0].type.quant)


@written_as_onnx(MaxPool)
def write_max_pool(w: OnnxWriter, node: Node, operation: MaxPool) -> None:
    """MaxPool on int8 (opset 12); pads that ONNX Runtime refuses, as wide as the kernel, by a Pad before."""
    top, left, bottom, right = operation.pads
    inside = all(p < operation.kernel[i % 2] for i, p in enumerate(operation.pads))

    def write(source: str, output: str) -> None:
        if not inside:
            pads = w.initializer(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64), f"{output}_pads")
            least = np.array(node.type.dtype.bounds[0], node.type.dtype.numpy)
            padding = [pads, w.initializer(least, f"{output}_least")]
            source = w.add("Pad", [source, *padding], f"{output}_padded")
        w.add(
            "MaxPool",
            [source],
            output,
            kernel_shape=list(operation.kernel),
            strides=list(operation.strides),
            pads=list(operation.pads) if inside else [0, 0, 0, 0],
            dilations=list(operation.dilations),
        )

    write_spatial(w, node, operation.layout, w.tensor(node.inputs[0]), write)
