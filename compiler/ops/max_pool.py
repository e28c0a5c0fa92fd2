"""Max pooling: ONNX MaxPool (opset 1 and later), Keras MaxPooling2D; integers stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.export.writing import OnnxWriter, written_as_onnx
from compiler.frontend.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.ops.spatial import (
    Pads,
    Pair,
    from_nhwc,
    layer_pooling,
    nhwc,
    one_dimensional,
    onnx_pads,
    onnx_window,
    pooled_shape,
    windows,
    write_spatial,
)
from compiler.quantize.rules import Quantizer, quantization_rule


@op("max_pool", "x:f32|i8|u8")
class MaxPool(Op):
    """The greatest value of every window; padding never wins."""

    kernel: Pair
    strides: Pair
    pads: Pads
    layout: str

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        shape = pooled_shape(types[0].shape, self.layout, self.kernel, self.strides, self.pads)
        return TensorType(types[0].dtype, shape, types[0].quant)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        least = -np.inf if out.dtype is DType.F32 else out.dtype.bounds[0]
        taken = windows(nhwc(args[0], self.layout), self.kernel, self.strides, (1, 1), self.pads, least)
        return from_nhwc(taken.max(axis=(-2, -1)), self.layout)


@onnx_operator("MaxPool")
def import_max_pool(n: OnnxNode) -> Node:
    """Over one or two dimensions, without dilation and without the indices output."""
    if len(n.operand(0).shape) == 3:
        return one_dimensional(n, import_max_pool)
    x = n.operand(0)
    if len(x.shape) != 4:
        n.fail(f"MaxPool on the shape {list(x.shape)} is not supported", "rank 4")
    if n.outputs > 1:
        n.fail("the Indices output is not supported", "one output")
    kernel, strides, dilations = onnx_window(n, n.integers("kernel_shape", ()))
    if dilations != (1, 1):
        n.fail(f"dilations={list(dilations)} are not supported", "[1, 1]")
    extents = (x.shape[2], x.shape[3])
    pads = onnx_pads(n, extents, kernel, strides, dilations)
    if n.integer("ceil_mode", 0):
        pads = ceil_pads(extents, kernel, strides, pads)
    return n.add(MaxPool(kernel, strides, pads, "NCHW"), x)


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
def quantize_max_pool(q: Quantizer, node: Node, inputs: list[Node]) -> Node:
    """The same pooling on codes."""
    return q.add(node.op, inputs, node, inputs[0].type.quant)


@written_as_onnx(MaxPool)
def write_max_pool(w: OnnxWriter, node: Node) -> None:
    """MaxPool on int8 (opset 12)."""
    operation = node.op
    assert isinstance(operation, MaxPool)
    write_spatial(
        w,
        node,
        operation.layout,
        w.tensor(node.inputs[0]),
        lambda source, output: w.add(
            "MaxPool",
            [source],
            output,
            kernel_shape=list(operation.kernel),
            strides=list(operation.strides),
            pads=list(operation.pads),
        ),
    )
