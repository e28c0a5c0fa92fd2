"""The way back through a convolution: errors of its inputs, gradients of its weights (float)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, Shape, TensorType
from compiler.ops.sliding_window import Pads, Pair, from_nhwc, image_shape, nhwc, tap_places, windows


class Conv2dGradient(Op):
    """The base of gradients of a convolution: `shape` is that of what they are gradients of."""

    strides: Pair
    pads: Pads
    dilations: Pair
    layout: str
    groups: int
    shape: Shape

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.F32, self.shape)


@op("nn.conv2d_input_gradient", "g:f32", "w:f32")
class Conv2dInputGradient(Conv2dGradient):
    """The errors of a convolution's inputs, of shape `shape`: an output's error goes to what it has read."""

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        g, w = nhwc(args[0], self.layout), args[1]
        n, h, width, c = image_shape(self.shape, self.layout)
        top, left, bottom, right = self.pads
        padded = np.zeros((n, h + top + bottom, width + left + right, c), g.dtype)
        kernel, out_extents = (w.shape[2], w.shape[3]), (g.shape[1], g.shape[2])
        taps = np.ndindex(*kernel)
        places = tap_places(kernel, self.strides, self.dilations, out_extents)
        outs, ins = w.shape[0] // self.groups, c // self.groups
        for (ky, kx), (rows, columns) in zip(taps, places, strict=True):
            for group in range(self.groups):
                given = slice(group * outs, (group + 1) * outs)
                errors = g[..., given] @ w[given, :, ky, kx]
                padded[:, rows, columns, group * ins : (group + 1) * ins] += errors
        return from_nhwc(padded[:, top : top + h, left : left + width], self.layout)


@op("nn.conv2d_weight_gradient", "x:f32", "g:f32")
class Conv2dWeightGradient(Conv2dGradient):
    """The gradient of a convolution's weights (out, in, kh, kw): inputs times errors, over all outputs."""

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, g = (nhwc(a, self.layout) for a in args)
        kernel = (self.shape[2], self.shape[3])
        taken = windows(x, kernel, self.strides, self.dilations, self.pads, 0)
        outs, ins = self.shape[0] // self.groups, self.shape[1]
        parts: list[Array] = []
        for group in range(self.groups):
            errors = g[..., group * outs : (group + 1) * outs].reshape(-1, outs)
            seen = taken[:, :, :, group * ins : (group + 1) * ins].reshape(len(errors), -1)
            parts.append((errors.T @ seen).reshape(outs, ins, *kernel))
        return np.concatenate(parts)
