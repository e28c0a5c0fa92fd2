"""Average pooling: ONNX AveragePool, Keras AveragePooling2D; QLinearAveragePool when quantized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.ir.work import WindowWork, Work
from compiler.ops import volume
from compiler.ops.binary import BinaryFunction
from compiler.ops.conv2d import Conv2d
from compiler.ops.max_pool import ceil_pads, reaches
from compiler.ops.pool_gradient import AveragePoolGradient
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.reduce import QReduce
from compiler.ops.slices import Pad
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
from compiler.rules.exporting import MICROSOFT, OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.partitioning import Part, part_rule
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic
from isa.program import Box
from isa.support.records import replace


def _tap_counts(shape: Sequence[int], kernel: Pair, strides: Pair, pads: Pads, *, all_taps: bool) -> Array:
    """How many taps of each window count, (n, oh, ow, c)."""
    ones = np.ones(shape, np.float32)
    return windows(ones, kernel, strides, (1, 1), pads, 1 if all_taps else 0).sum(axis=(-2, -1))


@op("nn.average_pool", "x:f32")
class AveragePool(Op):
    """The mean of every window, over its valid taps or, with count_include_pad, over all."""

    kernel: Pair
    strides: Pair
    pads: Pads
    count_include_pad: bool
    layout: str

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(
            DType.F32, pooled_shape(types[0].shape, self.layout, self.kernel, self.strides, self.pads)
        )

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x = nhwc(args[0], self.layout)
        taken = windows(x, self.kernel, self.strides, (1, 1), self.pads, 0).sum(axis=(-2, -1))
        counts = _tap_counts(x.shape, self.kernel, self.strides, self.pads, all_taps=self.count_include_pad)
        return from_nhwc(taken / counts, self.layout)


@gradient_rule(AveragePool)
def average_pool_gradient(d: Differentiator, node: Node, operation: AveragePool, error: Node) -> Errors:
    """The error goes to the taps that count, in equal parts."""
    (x,) = node.inputs
    made = AveragePoolGradient(
        operation.kernel,
        operation.strides,
        operation.pads,
        operation.layout,
        x.shape,
        count_include_pad=operation.count_include_pad,
    )
    return (d.add(made, (error,), node),)


@op("q.average_pool", "x:i8|u8")
class QAveragePool(Op):
    """QLinearAveragePool: float32 sums in row-major order."""

    kernel: Pair
    strides: Pair
    pads: Pads
    count_include_pad: bool
    layout: str

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(
            DType.I8, pooled_shape(types[0].shape, self.layout, self.kernel, self.strides, self.pads)
        )

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """Rows and columns of every window, one after the other."""
        channels = image_shape(out.shape, self.layout)[3]
        return WindowWork(0, 0, channels, out.elements // channels, pooling_steps(self.kernel))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        assert types[0].quant is not None
        assert out.quant is not None
        x = nhwc(args[0], self.layout)
        real = arithmetic.dequantize(x, types[0].quant.scale, types[0].quant.zero_point)
        taken = windows(real, self.kernel, self.strides, (1, 1), self.pads, 0)
        taps = np.moveaxis(taken.reshape(*taken.shape[:4], -1), -1, 0)
        counts = _tap_counts(x.shape, self.kernel, self.strides, self.pads, all_taps=self.count_include_pad)
        y = arithmetic.average(taps, counts, out.quant.scale, out.quant.zero_point, *out.dtype.bounds)
        return from_nhwc(y.astype(out.dtype.numpy), self.layout)

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """The scales of input and output."""
        assert types[0].quant is not None
        assert out.quant is not None
        return np.array([types[0].quant.scale, out.quant.scale], np.float32)


@part_rule(QAveragePool)
def part_of_average_pool(node: Node, operation: QAveragePool, box: Box) -> Part | None:
    """Some rows, or some channels."""
    (x,) = node.inputs
    found = window_part(box, x.shape, operation.kernel, operation.strides, (1, 1), operation.pads)
    if operation.layout != "NHWC" or found is None:
        return None
    read, pads = found
    return Part(replace(operation, pads=pads), ((*read[:3], box[3]),))


@onnx_operator("AveragePool")
def import_average_pool(n: OnnxNode) -> Node:
    """Over one to three dimensions."""
    x = n.operand(0)
    if (made := volume.pooled_in_images(n, import_average_pool)) is not None:
        return made
    kernel, strides, dilations = onnx_window(n, n.integers("kernel_shape", ()))
    extents = (x.shape[2], x.shape[3])
    pads = pooling_pads(n, extents, kernel, strides, dilations)
    include = bool(n.integer("count_include_pad", 0))
    whole = (
        ceil_pads(extents, reaches(kernel, dilations), strides, pads) if n.integer("ceil_mode", 0) else pads
    )
    if dilations != (1, 1):
        return _dilated(n, x, AveragePool(kernel, strides, whole, include, "NCHW"), dilations, pads)
    if include and whole != pads:  # the pads count, what the last windows reach beyond them does not
        top, left, bottom, right = pads
        x = n.before(Pad((0, 0, top, left), (0, 0, bottom, right), "constant", 0.0), x, suffix="padded")
        whole, include = (0, 0, whole[2] - bottom, whole[3] - right), False
    return n.add(AveragePool(kernel, strides, whole, include, "NCHW"), x)


def _dilated(n: OnnxNode, x: Node, pool: AveragePool, dilations: Pair, pads: Pads) -> Node:
    """A depthwise convolution with equal weights; windows of fewer taps weigh more.

    Args:
        n: the node.
        x: the images.
        pool: the pooling without its dilations, with the pads of all its windows.
        dilations: how far the taps are apart.
        pads: those that count as taps with count_include_pad.
    """
    channels, extents = x.shape[1], (x.shape[2], x.shape[3])
    pooled_shape(x.shape, "NCHW", pool.kernel, pool.strides, pool.pads, dilations)  # before any array is made
    taps = pool.kernel[0] * pool.kernel[1]
    weights = n.const(np.full((channels, 1, *pool.kernel), 1 / taps, np.float32), "share")
    conv = Conv2d(pool.strides, pool.pads, dilations, "NCHW", groups=channels)
    none = n.const(np.zeros(channels, np.float32), "none")
    before, after = pool.pads[:2], pool.pads[2:]
    counted = np.zeros((1, *(e + b + a for e, b, a in zip(extents, before, after, strict=True)), 1))
    top, left, bottom, right = pads if pool.count_include_pad else (0, 0, 0, 0)
    rows = slice(pool.pads[0] - top, pool.pads[0] + extents[0] + bottom)
    columns = slice(pool.pads[1] - left, pool.pads[1] + extents[1] + right)
    counted[:, rows, columns] = 1
    counts = windows(counted, pool.kernel, pool.strides, dilations, (0, 0, 0, 0), 0).sum(axis=(-2, -1))
    if not counts.all():
        n.fail("the taps of a window all lie in the padding", "a tap of each within the image")
    if (counts == taps).all():
        return n.add(conv, x, weights, none)
    more = n.const(np.moveaxis(taps / counts, 3, 1).astype(np.float32), "weight")
    return n.add(BinaryFunction("mul"), n.before(conv, x, weights, none, suffix="mean"), more)


qlinear("QLinearAveragePool", QLinear("AveragePool", [(0, 1, 2)], (3, 4)), MICROSOFT)


@layer("AveragePooling2D", "pool_size", "strides", "padding")
def average_pooling_layer(call: LayerCall) -> Node:
    """AveragePooling2D(pool_size=2, strides=pool_size, padding="valid")."""
    x, kernel, strides, pads = layer_pooling(call)
    return call.add(AveragePool(kernel, strides, pads, count_include_pad=False, layout="NHWC"), x)


@quantization_rule(AveragePool)
def quantize_average_pool(q: Quantizer, node: Node, o: AveragePool, inputs: list[Node]) -> Node:
    """The result has a scale of its own.

    A window over the whole image is a global average, an integer sum, as ONNX Runtime computes it.
    """
    if o.kernel == image_shape(node.inputs[0].shape, o.layout)[1:3] and o.pads == (0, 0, 0, 0):
        axes = (2, 3) if o.layout == "NCHW" else (1, 2)
        return q.add(QReduce("mean", axes), inputs, node, q.chosen(node))
    made = QAveragePool(o.kernel, o.strides, o.pads, o.count_include_pad, o.layout)
    return q.add(made, inputs, node, q.chosen(node))


@written_as_onnx(QAveragePool)
def write_average_pool(w: OnnxWriter, node: Node, o: QAveragePool) -> None:
    """QLinearAveragePool of com.microsoft."""
    x = node.inputs[0]
    scales = [w.scale(x), w.zero_point(x), w.scale(node), w.zero_point(node)]
    write_spatial(
        w,
        node,
        o.layout,
        w.tensor(x),
        lambda source, output: w.add(
            "QLinearAveragePool",
            [source, *scales],
            output,
            domain=MICROSOFT,
            kernel_shape=list(o.kernel),
            strides=list(o.strides),
            pads=list(o.pads),
            count_include_pad=int(o.count_include_pad),
        ),
    )
