"""The way back through pooling windows (float)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, Shape, TensorType
from compiler.ops.sliding_window import Pads, Pair, from_nhwc, image_shape, nhwc, tap_places


class PoolGradient(Op):
    """The base of gradients of pooling: `shape` is that of what was pooled."""

    kernel: Pair
    strides: Pair
    pads: Pads
    layout: str
    shape: Shape
    dilations: Pair = (1, 1)

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.F32, self.shape)

    def padded(self, value: float) -> Array:
        """An image of one value, (n, h, w, c), that all windows lie in."""
        n, h, w, c = image_shape(self.shape, self.layout)
        top, left, bottom, right = self.pads
        return np.full((n, h + top + bottom, w + left + right, c), value, np.float32)

    def inside(self, padded: Array) -> Array:
        """What is no padding, in the layout."""
        _, h, w, _ = image_shape(self.shape, self.layout)
        top, left, *_ = self.pads
        return from_nhwc(padded[:, top : top + h, left : left + w], self.layout)


@op("nn.max_pool_gradient", "x:f32", "g:f32")
class MaxPoolGradient(PoolGradient):
    """Every window's error goes to the first of its greatest values, row by row."""

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, g = (nhwc(a, self.layout) for a in args)
        values, errors = self.padded(-np.inf), self.padded(0)
        top, left, *_ = self.pads
        values[:, top : top + x.shape[1], left : left + x.shape[2]] = x
        places = list(tap_places(self.kernel, self.strides, self.dilations, (g.shape[1], g.shape[2])))
        best = np.max([values[:, rows, columns] for rows, columns in places], axis=0)
        left_over = g.copy()
        for rows, columns in places:
            given = np.where(values[:, rows, columns] == best, left_over, np.float32(0))
            errors[:, rows, columns] += given
            left_over -= given
        return self.inside(errors)


@op("nn.average_pool_gradient", "g:f32")
class AveragePoolGradient(PoolGradient):
    """Every window's error goes to its taps in equal parts: to the valid ones, or to all that count."""

    count_include_pad: bool = False

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        g = nhwc(args[0], self.layout)
        places = list(tap_places(self.kernel, self.strides, self.dilations, (g.shape[1], g.shape[2])))
        counted, errors = self.padded(1 if self.count_include_pad else 0), self.padded(0)
        _, h, w, _ = image_shape(self.shape, self.layout)
        top, left, *_ = self.pads
        counted[:, top : top + h, left : left + w] = 1
        counts = np.sum([counted[:, rows, columns] for rows, columns in places], axis=0)
        for rows, columns in places:
            errors[:, rows, columns] += g / counts
        return self.inside(errors)
