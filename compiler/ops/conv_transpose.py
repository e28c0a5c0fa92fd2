"""Transposed convolution: ONNX ConvTranspose, Keras Conv2DTranspose; a convolution and a depth-to-space.

With stride s the result's pixels fall into s phases along each dimension, and a phase sees every s-th tap
of the kernel only. One convolution with the taps of all phases as further output channels, zeros where a
phase has fewer taps, computes them all; its channels become the pixels of blocks.
"""

from __future__ import annotations

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array
from compiler.ir.types import MAX_ELEMENTS
from compiler.ops import volume
from compiler.ops.activation import ACTIVATIONS, activated
from compiler.ops.conv2d import Conv2d
from compiler.ops.depth_to_space import DepthToSpace
from compiler.ops.slices import Slice
from compiler.ops.sliding_window import Pair, one_dimensional
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from isa.support.records import Frozen, replace

WEIGHT_RANK = 4


class Phases(Frozen):
    """One dimension: the taps of the common kernel, the padding after, and where the result begins."""

    stride: int
    dilation: int
    taps: int
    reach: int
    after: int
    begin: int
    size: int

    @staticmethod
    def of(extent: int, taps: int, stride: int, dilation: int, before: int, size: int) -> Phases:
        """For a result of `size` elements of which the first `before` are cut off."""
        reach = (taps - 1) * dilation // stride
        count = max(-(-(size + before) // stride), extent)
        return Phases(stride, dilation, taps, reach, count - extent, before, size)

    def tap(self, phase: int, index: int) -> int | None:
        """Which tap of the kernel stands at an index of the common kernel, for a phase."""
        distance = phase - (index - self.reach) * self.stride
        k, rest = divmod(distance, self.dilation)
        return k if rest == 0 and 0 <= k < self.taps else None


@onnx_operator("ConvTranspose")
def import_conv_transpose(n: OnnxNode) -> Node:
    """Over one to three dimensions, constant weights (in, out / groups, kh, kw)."""
    if len(n.operand(0).shape) == 3:
        return one_dimensional(n, import_conv_transpose)
    if len(n.operand(0).shape) == volume.RANK:
        return _of_volumes(n)
    x, w, groups = n.operand(0), n.parameter(1, "the weight"), n.integer("group", 1)
    if len(x.shape) != WEIGHT_RANK or len(w.shape) != WEIGHT_RANK or w.shape[0] != x.shape[1]:
        n.fail(f"ConvTranspose on shapes {list(x.shape)} and {list(w.shape)} is not supported", "rank 3 to 5")
    if groups < 1 or x.shape[1] % groups:
        n.fail(f"group={groups} of {x.shape[1]} channels", "a divisor")
    dimensions = _dimensions(n, (x.shape[2], x.shape[3]), (w.shape[2], w.shape[3]))
    high, wide = dimensions
    taps = (high.reach + 1) * (wide.reach + 1) * high.stride * wide.stride
    pixels = (x.shape[2] + high.after) * (x.shape[3] + wide.after) * high.stride * wide.stride
    if max(taps * w.shape[0] * w.shape[1], pixels * groups * w.shape[1] * x.shape[0]) > MAX_ELEMENTS:
        n.fail("the strides or pads give a result that is too large", f"at most {MAX_ELEMENTS} elements")
    weights = n.mapped(w, lambda v, zero: _phase_kernels(v, zero, groups, dimensions), 0, "phases")
    area = dimensions[0].stride * dimensions[1].stride
    rows = w.shape[1]
    bias = n.maybe(2)
    if bias is None:
        values = n.const(np.zeros(groups * rows * area, np.float32), "bias")
    else:
        if bias.shape != (groups * rows,):
            n.fail(f"the bias has the shape {list(bias.shape)}", f"[{groups * rows}]")
        values = n.mapped(n.parameter(2, "the bias"), lambda v, _: _phase_bias(v, groups, area), 0, "bias")
    return _transposed(n, x, weights, values, groups, dimensions)


def _of_volumes(n: OnnxNode) -> Node:
    """Every slice of the result from the slices that reach it, each under its tap."""
    x, w = n.operand(0), n.parameter(1, "the weight")
    if len(w.shape) != volume.RANK:
        n.fail(f"weights of shape {list(w.shape)} for an input of rank {volume.RANK}", f"rank {volume.RANK}")
    depth, taps = x.shape[2], w.shape[2]
    of_depth = replace(n, attributes=volume.of_images(n, (0, 0)))
    phases, _ = _dimensions(of_depth, (depth, depth), (taps, taps))

    def source(slice_: int, tap: int) -> int | None:
        index, rest = divmod(slice_ + phases.begin - tap * phases.dilation, phases.stride)
        return index if rest == 0 and 0 <= index < depth else None

    seen = [[source(o, k) for k in range(taps)] for o in range(phases.size)]
    turned = n.transposed(w, (0, 2, 1, 3, 4), "weight.turned")
    weights = n.mapped(turned, lambda v, _: v.reshape(-1, *v.shape[2:]), 1, "weight.images")
    return volume.through_images(n, import_conv_transpose, seen, weights)


def _transposed(
    n: OnnxNode, x: Node, weights: Node, bias: Node, groups: int, dimensions: tuple[Phases, Phases]
) -> Node:
    high, wide = dimensions
    pads = (high.reach, wide.reach, high.after, wide.after)
    conv = Conv2d((1, 1), pads, (1, 1), "NCHW", groups=groups)
    phases = n.before(conv, x, weights, bias, suffix="conv")
    block = DepthToSpace((high.stride, wide.stride), groups, "NCHW")
    whole = n.before(block, phases, suffix="pixels")
    starts = (0, 0, high.begin, wide.begin)
    return n.add(Slice(starts, (*whole.shape[:2], high.size, wide.size), (1, 1, 1, 1)), whole)


def _dimensions(n: OnnxNode, extents: Pair, kernel: Pair) -> tuple[Phases, Phases]:
    """Both dimensions, `auto_pad`, `output_shape` and `output_padding` resolved."""
    strides, dilations = n.integers("strides", (1, 1)), n.integers("dilations", (1, 1))
    pads, extra = list(n.integers("pads", (0, 0, 0, 0))), n.integers("output_padding", (0, 0))
    wanted = n.integers("output_shape", ())[-2:]
    mode = n.text("auto_pad", "NOTSET")
    if n.integers("kernel_shape", kernel) != kernel or not all(
        len(v) == 2 for v in (strides, dilations, extra)
    ):
        n.fail(f"kernel_shape, strides or dilations do not fit weights of {list(kernel)}", "two numbers each")
    if min(*strides, *dilations) < 1 or len(pads) != 4 or min(pads) < 0 or min(extra) < 0:
        n.fail(f"strides={list(strides)}, pads={pads}, output_padding={list(extra)} are not allowed")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        n.fail(f"auto_pad={mode} is not known", "NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    found: list[Phases] = []
    for i in (0, 1):
        full = strides[i] * (extents[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1
        before, after = pads[i], pads[i + 2]
        if wanted or mode.startswith("SAME"):
            size = wanted[i] if wanted else min(extents[i] * strides[i], full)  # as ONNX Runtime
            total = max(full - size, 0)
            small, large = total // 2, total - total // 2
            before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
            full = max(full, size)  # what lies beyond the kernel's reach is the bias alone
        size = full - before - after
        if size < 1:
            n.fail(f"nothing is left of {full} after pads {before} and {after}", "at least one element")
        found.append(Phases.of(extents[i], kernel[i], strides[i], dilations[i], before, size))
    return found[0], found[1]


def _phase_kernels(w: Array, zero: float, groups: int, dimensions: tuple[Phases, Phases]) -> Array:
    """(in, out/g, kh, kw) to (g * sh * sw * out/g, in/g, taps of rows, taps of columns)."""
    high, wide = dimensions
    cin, rows = w.shape[0] // groups, w.shape[1]
    shape = (groups, high.stride, wide.stride, rows, cin, high.reach + 1, wide.reach + 1)
    made = np.full(shape, zero, w.dtype)
    split = w.reshape(groups, cin, rows, *w.shape[2:]).transpose(0, 2, 1, 3, 4)
    for py, ty in np.ndindex(high.stride, high.reach + 1):
        ky = high.tap(py, ty)
        for px, tx in np.ndindex(wide.stride, wide.reach + 1):
            kx = wide.tap(px, tx)
            if ky is not None and kx is not None:
                made[:, py, px, :, :, ty, tx] = split[..., ky, kx]
    return made.reshape(-1, *shape[4:])


def _phase_bias(bias: Array, groups: int, area: int) -> Array:
    return np.repeat(bias.reshape(groups, 1, -1), area, axis=1).reshape(-1)


@layer("Conv2DTranspose", "filters", "kernel_size", "strides", "padding")
def conv2d_transpose_layer(call: LayerCall) -> Node:
    """Conv2DTranspose(filters, kernel_size, strides=1, padding="valid", activation, use_bias)."""
    x = call.input(4)
    filters, kernel, strides = call.count("filters"), call.pair("kernel_size", None), call.pair("strides", 1)
    same = call.choice("padding", "valid", ("valid", "same")) == "same"
    activation = call.choice("activation", None, ACTIVATIONS)
    has_bias = call.flag("use_bias", default=True)
    call.done()
    found: list[Phases] = []
    for extent, taps, stride in zip(x.shape[1:3], kernel, strides, strict=True):
        full = stride * (extent - 1) + max(taps, stride)
        size = extent * stride if same else full
        before = max(stride * (extent - 1) + taps - size, 0) // 2 if same else 0
        found.append(Phases.of(extent, taps, stride, 1, before, size))
    weights = call.weights("kernel", (*kernel, filters, x.shape[3]))
    bias = call.weights("bias", (filters,)) if has_bias else np.zeros(filters, np.float32)
    high, wide = found
    kernels = _phase_kernels(weights.transpose(3, 2, 0, 1), 0, 1, (high, wide))
    values = _phase_bias(bias, 1, high.stride * wide.stride)
    conv = Conv2d((1, 1), (high.reach, wide.reach, high.after, wide.after), (1, 1), "NHWC")
    operands = (x, call.const(kernels, "kernel"), call.const(values, "bias"))
    pixels = call.add(
        DepthToSpace((high.stride, wide.stride), 1, "NHWC"),
        call.add(conv, *operands, suffix="/conv"),
        suffix="/pixels",
    )
    cut = Slice((0, high.begin, wide.begin, 0), (x.shape[0], high.size, wide.size, filters), (1, 1, 1, 1))
    if activation in (None, "linear"):
        return call.add(cut, pixels)
    return activated(call, activation, call.add(cut, pixels, suffix="/pre"))
