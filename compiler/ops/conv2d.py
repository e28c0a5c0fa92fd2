"""2-D convolution: ONNX Conv (opset 1 and later) and Keras Conv2D; QLinearConv when quantized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, Product, ShapeError, op
from compiler.ir.types import DType, Shape, TensorType
from compiler.ir.work import ProductWork, WindowWork, Work
from compiler.ops import volume
from compiler.ops.activation import ACTIVATIONS, apply_activation, through_clamp
from compiler.ops.conv2d_gradient import Conv2dInputGradient, Conv2dWeightGradient
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.reduce import channel_sums
from compiler.ops.sliding_window import (
    Pads,
    Pair,
    from_nhwc,
    image_shape,
    layer_pads,
    nhwc,
    one_dimensional,
    onnx_pads,
    onnx_window,
    require_codes,
    require_geometry,
    scale_of,
    scales_of,
    shape_in,
    window_output,
    window_part,
    windows,
    write_clamped,
    write_spatial,
    zero_of,
)
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.exporting import OnnxWriter, written_as_onnx
from compiler.rules.importing import NO_BIAS, LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.partitioning import Part, part_rule
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic
from isa.instructions.vector_depthwise import DepthwiseConv
from isa.memory_map import GRANULE_BYTES
from isa.program import Box
from isa.spec import greatest
from isa.support.records import replace


def convolved_shape(
    types: Sequence[TensorType],
    strides: Pair,
    pads: Pads,
    dilations: Pair,
    layout: str,
    groups: int,
) -> tuple[int, ...]:
    """The shape of a convolution.

    Raises:
        ShapeError: operands or geometry that do not go together.
    """
    x, w, b = types
    require_geometry(layout, pads, strides, dilations)
    n, h, width, c = image_shape(x.shape, layout)
    if min(w.shape, default=0) < 1:
        raise ShapeError(f"the weights have the shape {list(w.shape)}", "dimensions of at least 1")
    if groups < 1 or len(w.shape) != 4 or w.shape[1] * groups != c or w.shape[0] % groups:
        raise ShapeError(
            f"the weights of shape {list(w.shape)} in {groups} groups do not fit an input of {c} channels",
            "input channels = groups * w[1], output channels a multiple of the groups",
        )
    if b.shape != (w.shape[0],):
        raise ShapeError(f"the bias has the shape {list(b.shape)}", f"[{w.shape[0]}]")
    oh = window_output(h, w.shape[2], strides[0], dilations[0], pads[0], pads[2])
    ow = window_output(width, w.shape[3], strides[1], dilations[1], pads[1], pads[3])
    return shape_in(layout, n, oh, ow, w.shape[0])


@op("nn.conv2d", "x:f32", "w:f32", "b:f32")
class Conv2d(Product):
    """Convolution with weights (out, in, kh, kw) and bias, then an optional clamp to real bounds."""

    weight_axis: ClassVar[int] = 0
    strides: Pair
    pads: Pads
    dilations: Pair
    layout: str
    clamp: tuple[float, float] | None = None
    groups: int = 1

    @property
    def channel_axis(self) -> int:
        return 1 if self.layout == "NCHW" else 3

    def linear(self) -> Op:
        return replace(self, clamp=None)

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        shape = convolved_shape(types, self.strides, self.pads, self.dilations, self.layout, self.groups)
        return TensorType(DType.F32, shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, w, b = args
        kernel = (w.shape[2], w.shape[3])
        taken = windows(nhwc(x, self.layout), kernel, self.strides, self.dilations, self.pads, 0)
        y = grouped_product(taken, w, self.groups) + b
        if self.clamp is not None:
            y = np.clip(y, *np.asarray(self.clamp, np.float32))
        return from_nhwc(y, self.layout)


@gradient_rule(Conv2d)
def conv_gradient(d: Differentiator, node: Node, operation: Conv2d, error: Node) -> Errors:
    """Of inputs, weights and bias."""
    x, w, _ = node.inputs
    g = through_clamp(d, node, operation.clamp, error)
    geometry = (operation.strides, operation.pads, operation.dilations, operation.layout, operation.groups)
    return (
        d.add(Conv2dInputGradient(*geometry, x.shape), (g, w), node),
        d.add(Conv2dWeightGradient(*geometry, w.shape), (x, g), node, "weight_gradient"),
        channel_sums(d, node, g, operation.channel_axis),
    )


@op("q.conv2d", "x:i8|u8", "w:i8|u8", "b:i32")
class QConv2d(Op):
    """QLinearConv: 8-bit weights (out, in, kh, kw) per channel, int32 bias, clamp to codes."""

    strides: Pair
    pads: Pads
    dilations: Pair
    layout: str
    bounds: Pair = (-128, 127)
    groups: int = 1

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_codes(self.bounds)
        shape = convolved_shape(types, self.strides, self.pads, self.dilations, self.layout, self.groups)
        return TensorType(DType.I8, shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, w, b = args
        zero = zero_of(types[0])
        kernel = (w.shape[2], w.shape[3])
        taken = windows(nhwc(x, self.layout), kernel, self.strides, self.dilations, self.pads, zero)
        kernels = w.astype(np.float64) - zero_of(types[1])
        acc = arithmetic.wrap32(grouped_product(taken.astype(np.float64) - zero, kernels, self.groups))
        y = arithmetic.requantize(acc, b, self.constants(types, out), zero_of(out), *self.bounds)
        return from_nhwc(y.astype(out.dtype.numpy), self.layout)

    def fits_lanes(self, weights: Shape) -> bool:
        """Whether `vdwc` can express it: a kernel for every channel, within its fields."""
        cout, cin, kh, kw = weights
        dilations = {d for d, taps in zip(self.dilations, (kh, kw), strict=True) if taps > 1}
        fields = (
            (max(kh, kw), "kh"),
            (max(self.strides), "sh"),
            (max(dilations, default=1), "d"),
            (max(self.pads[:2]), "pt"),
        )
        within = all(value <= greatest(DepthwiseConv, name) for value, name in fields)
        return (self.groups, cin) == (cout, 1) and len(dilations) <= 1 and within

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """Products on the array, or taps on the lanes where every channel has a kernel of its own."""
        cout, cin, kh, kw = types[1].shape
        constants = types[1].elements + GRANULE_BYTES * cout
        pixels = out.elements // cout
        if self.groups > 1 and self.fits_lanes(types[1].shape):
            return WindowWork(0, constants, cout, pixels, kh * kw, multiplied=True)
        columns = cout // self.groups
        return ProductWork(out.elements, constants, pixels, columns, cin, (kh, kw), self.groups)

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """The multiplier of every output channel, or one for all."""
        return arithmetic.convolution_multiplier(scale_of(types[0]), scales_of(types[1]), scale_of(out))


@part_rule(QConv2d)
def part_of_conv(node: Node, operation: QConv2d, box: Box) -> Part | None:
    """Some rows, or the output channels of whole groups or of the only one."""
    x, w, _ = node.inputs
    kernel = (w.shape[2], w.shape[3])
    found = window_part(box, x.shape, kernel, operation.strides, operation.dilations, operation.pads)
    if operation.layout != "NHWC" or found is None:
        return None
    read, pads = found
    first, stop = box[3]
    groups, each = operation.groups, w.shape[0] // operation.groups
    if groups > 1:
        if first % each or stop % each:
            return None
        groups, depth = (stop - first) // each, w.shape[1]
        read = (*read[:3], (first // each * depth, stop // each * depth))
    weights = ((first, stop), *((0, n) for n in w.shape[1:]))
    made = replace(operation, pads=pads, groups=groups)
    return Part(made, (read, weights, ((first, stop),)))


def grouped_product(taken: Array, w: Array, groups: int) -> Array:
    """Windows (n, oh, ow, c, kh, kw) times kernels (out, in, kh, kw), group by group: (n, oh, ow, out)."""
    n, oh, ow, c = taken.shape[:4]
    if w.shape[1] == 1 and groups == w.shape[0]:
        return np.einsum("nhwckl,ckl->nhwc", taken, w[:, 0], optimize=True)
    parts: list[Array] = []
    for g in range(groups):
        columns = taken[:, :, :, g * c // groups : (g + 1) * c // groups].reshape(n * oh * ow, -1)
        kernels = w[g * w.shape[0] // groups : (g + 1) * w.shape[0] // groups]
        parts.append((columns @ kernels.reshape(kernels.shape[0], -1).T).reshape(n, oh, ow, -1))
    return parts[0] if groups == 1 else np.concatenate(parts, -1)


@onnx_operator("Conv")
def import_conv(n: OnnxNode) -> Node:
    """Convolution over one to three dimensions with constant weights, in groups or not."""
    if len(n.operand(0).shape) == 3:
        return one_dimensional(n, import_conv)
    if len(n.operand(0).shape) == volume.RANK:
        return volume.convolution(n, import_conv)
    x, weights = n.operand(0), n.parameter(1, "the weight")
    if len(x.shape) != 4 or len(weights.shape) != 4:
        n.fail(f"Conv on shapes {list(x.shape)} and {list(weights.shape)} is not supported", "rank 3 to 5")
    kernel, strides, dilations = onnx_window(n, n.integers("kernel_shape", weights.shape[2:]))
    if kernel != weights.shape[2:]:
        n.fail(f"kernel_shape={list(kernel)} is not that of the weights", str(list(weights.shape[2:])))
    pads = onnx_pads(n, (x.shape[2], x.shape[3]), kernel, strides, dilations)
    bias = n.maybe(2)
    if bias is None:
        bias = n.const(np.zeros(int(weights.shape[0]), np.float32), NO_BIAS)
    else:
        bias = n.parameter(2, "the bias")
    conv = Conv2d(strides, pads, dilations, "NCHW", groups=n.integer("group", 1))
    return n.add(conv, x, weights, bias)


qlinear("QLinearConv", QLinear("Conv", [(0, 1, 2), (3, 4, 5)], (6, 7), bias=8, weight_axis=0))


@layer("Conv2D", "filters", "kernel_size", "strides", "padding")
def conv2d_layer(call: LayerCall) -> Node:
    """Conv2D(filters, kernel_size, strides=1, padding="valid", dilation_rate=1, groups=1, activation,
    use_bias).
    """
    x = call.input(4)
    filters, kernel = call.count("filters"), call.pair("kernel_size", None)
    groups = call.count("groups", 1)
    if x.shape[3] % groups or filters % groups:
        call.fail(
            f"{call.layer}: groups={groups} does not divide {x.shape[3]} channels and {filters} filters"
        )
    conv, activation, has_bias = _convolution(call, x, kernel, groups)
    weights = call.weights("kernel", (*kernel, x.shape[3] // groups, filters))
    return _with_bias(call, conv, x, weights.transpose(3, 2, 0, 1), activation, has_bias=has_bias)


@layer("DepthwiseConv2D", "kernel_size", "strides", "padding", "depth_multiplier")
def depthwise_layer(call: LayerCall) -> Node:
    """DepthwiseConv2D(kernel_size, strides=1, padding="valid", depth_multiplier=1, dilation_rate=1,
    activation, use_bias).
    """
    x = call.input(4)
    kernel, each = call.pair("kernel_size", None), call.count("depth_multiplier", 1)
    conv, activation, has_bias = _convolution(call, x, kernel, x.shape[3])
    weights = call.weights("kernel", (*kernel, x.shape[3], each))
    turned = weights.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel)
    return _with_bias(call, conv, x, turned, activation, has_bias=has_bias)


def _convolution(call: LayerCall, x: Node, kernel: Pair, groups: int) -> tuple[Conv2d, str | None, bool]:
    """The operation, its activation, and whether it has a bias: the arguments that every such layer has."""
    strides, dilations = call.pair("strides", 1), call.pair("dilation_rate", 1)
    pads = layer_pads(call, (x.shape[1], x.shape[2]), kernel, strides, dilations)
    activation = call.choice("activation", None, ACTIVATIONS)
    has_bias = call.flag("use_bias", default=True)
    call.done()
    return Conv2d(strides, pads, dilations, "NHWC", groups=groups), activation, has_bias


def _with_bias(
    call: LayerCall, conv: Conv2d, x: Node, weights: Array, activation: str | None, *, has_bias: bool
) -> Node:
    count = int(weights.shape[0])
    bias = call.weights("bias", (count,)) if has_bias else np.zeros(count, np.float32)
    w = call.const(np.ascontiguousarray(weights), "kernel")
    return apply_activation(call, activation, conv, (x, w, call.const(bias, "bias" if has_bias else NO_BIAS)))


@quantization_rule(Conv2d)
def quantize_conv(q: Quantizer, node: Node, operation: Conv2d, inputs: list[Node]) -> Node:
    """int8 weights per output channel, int32 bias."""
    quant = q.chosen(node)
    made = QConv2d(
        operation.strides,
        operation.pads,
        operation.dilations,
        operation.layout,
        q.clamp_codes(quant, operation.clamp),
        operation.groups,
    )
    return q.add(made, q.weights_and_bias(node, inputs[0]), node, quant)


@written_as_onnx(QConv2d)
def write_conv(w: OnnxWriter, node: Node, operation: QConv2d) -> None:
    """QLinearConv, with an integer Clip where an activation's bounds do not saturate."""
    x, weights, bias = node.inputs

    def write(source: str, output: str) -> None:
        scales = [w.scale(x), w.zero_point(x), *w.quantized(weights), w.scale(node), w.zero_point(node)]
        write_clamped(
            w,
            output,
            operation.bounds,
            node.type.dtype.numpy,
            lambda name: w.add(
                "QLinearConv",
                [source, *scales, w.tensor(bias)],
                name,
                strides=list(operation.strides),
                pads=list(operation.pads),
                dilations=list(operation.dilations),
                group=operation.groups,
            ),
        )

    write_spatial(w, node, operation.layout, w.tensor(x), write)
