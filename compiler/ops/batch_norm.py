"""Batch normalization: ONNX and Keras BatchNormalization, in inference and in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import through_clamp
from compiler.ops.affine import along, require_rows
from compiler.ops.reduce import channel_sums
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.importing import LayerCall, layer

SPATIAL_OPSET: Final = 9
"""Since this opset statistics are per channel."""
UNUSED: Final = "unused"
"""What scales of 1 and offsets of 0 are called that stand for those that a layer has not."""


class Normalizing(Op):
    """The base of operations that normalize every channel: by statistics, or by those of groups of samples.

    `groups` are the sizes of the groups of samples that follow one another, each with the mean and the
    variance of its own; without groups the mean and the variance that are operands count.
    """

    axis: int
    epsilon: float
    groups: tuple[int, ...] = ()

    def check(self, x: TensorType, rows: Sequence[TensorType]) -> None:
        """Rows must fit the channels, groups the samples.

        Raises:
            ShapeError: they do not.
        """
        require_rows(x, self.axis, *rows)
        if self.groups and (sum(self.groups) != x.shape[0] or min(self.groups) < 1 or self.axis == 0):
            raise ShapeError(f"groups of {list(self.groups)} samples", f"{x.shape[0]} samples in all")

    def parts(self, x: Array, mean: Array, variance: Array) -> Iterator[tuple[slice, Array, Array]]:
        """Samples that are normalized together: which, what they are normalized to, 1 / their deviation."""
        others = tuple(i for i in range(x.ndim) if i != self.axis)
        first = 0
        for count in self.groups or (len(x),):
            taken = slice(first, first + count)
            first += count
            if self.groups:
                mean, variance = x[taken].mean(axis=others), x[taken].var(axis=others)
            root = 1 / np.sqrt(along(variance, self.axis, x.ndim) + x.dtype.type(self.epsilon))
            yield taken, (x[taken] - along(mean, self.axis, x.ndim)) * root, root


@op("nn.batch_norm", "x:f32", "scale:f32", "offset:f32", "mean:f32", "variance:f32")
class BatchNorm(Normalizing):
    """(x - mean) / sqrt(variance + epsilon) * scale + offset per channel, then an optional clamp.

    In training running statistics become momentum * old + (1 - momentum) * new.
    """

    momentum: float = 0.99
    clamp: tuple[float, float] | None = None

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        x, *rows = types
        self.check(x, rows)
        return TensorType(DType.F32, x.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, scale, offset, mean, variance = args
        gain, rest = (along(row, self.axis, x.ndim) for row in (scale, offset))
        y = np.concatenate([centred * gain + rest for _, centred, _ in self.parts(x, mean, variance)])
        return y if self.clamp is None else np.clip(y, *np.asarray(self.clamp, x.dtype))


@op("nn.batch_norm_errors", "g:f32", "x:f32", "scale:f32", "mean:f32", "variance:f32")
class BatchNormErrors(Normalizing):
    """The errors of what has been normalized; statistics of groups depend on it."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        _, x, *rows = types
        self.check(x, rows)
        return TensorType(DType.F32, x.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        g, x, scale, mean, variance = args
        gain = along(scale, self.axis, x.ndim)
        others = tuple(i for i in range(x.ndim) if i != self.axis)
        made: list[Array] = []
        for taken, centred, root in self.parts(x, mean, variance):
            errors = g[taken]
            if self.groups:
                common = errors.mean(axis=others, keepdims=True)
                slope = (errors * centred).mean(axis=others, keepdims=True)
                errors = errors - common - centred * slope
            made.append(errors * (gain * root))
        return np.concatenate(made)


@op("nn.batch_norm_scale_gradient", "g:f32", "x:f32", "mean:f32", "variance:f32")
class BatchNormScaleGradient(Normalizing):
    """The gradient of the scales: for every channel the sum of errors times normalized values."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        _, x, *rows = types
        self.check(x, rows)
        return TensorType(DType.F32, rows[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        g, x, mean, variance = args
        others = tuple(i for i in range(x.ndim) if i != self.axis)
        total = np.zeros(out.shape, x.dtype)
        for taken, centred, _ in self.parts(x, mean, variance):
            total = total + (g[taken] * centred).sum(axis=others)
        return total


@gradient_rule(BatchNorm)
def batch_norm_gradient(d: Differentiator, node: Node, operation: BatchNorm, error: Node) -> Errors:
    """Of values, scales and offsets; statistics are no parameters."""
    x, scale, _, mean, variance = node.inputs
    g = through_clamp(d, node, operation.clamp, error)
    options = operation.axis, operation.epsilon, operation.groups
    return (
        d.add(BatchNormErrors(*options), (g, x, scale, mean, variance), node),
        d.add(BatchNormScaleGradient(*options), (g, x, mean, variance), node, "scale_gradient"),
        channel_sums(d, node, g, operation.axis),
        None,
        None,
    )


def gain_and_offset(statistics: Sequence[Array], epsilon: float) -> tuple[Array, Array]:
    """What values are multiplied by, and what is added then, of scale, offset, mean and variance."""
    scale, offset, mean, variance = statistics
    with np.errstate(all="ignore"):  # constants that are not finite are refused later, all at once
        gain = scale / np.sqrt(variance + np.float32(epsilon))
        return gain.astype(np.float32), (offset - mean * gain).astype(np.float32)


@layer("BatchNormalization")
def batch_norm_layer(call: LayerCall) -> Node:
    """BatchNormalization(axis=-1, momentum=0.99, epsilon=0.001, center=True, scale=True)."""
    epsilon = call.take("epsilon", 1e-3, (float,), "a number")
    momentum = call.take("momentum", 0.99, (float,), "a number")
    center, scaled = call.flag("center", default=True), call.flag("scale", default=True)
    x = call.value()
    last = len(x.shape) - 1
    axis = call.take("axis", -1, (int,), "-1, the channels")
    call.done()
    if axis not in (-1, last):
        call.fail(f"{call.layer}: axis={axis} is not supported", f"-1 or {last}, the channels")
    if not 0 <= momentum < 1 or epsilon <= 0:
        call.fail(f"{call.layer}: momentum={momentum}, epsilon={epsilon}", "0 <= momentum < 1, epsilon > 0")
    channels = (x.shape[-1],)

    def row(kind: str, *, wanted: bool, value: float) -> Node:
        if wanted:
            return call.const(call.weights(kind, channels), kind)
        return call.const(np.full(channels, value, np.float32), f"{kind}_{UNUSED}")

    rows = (
        row("gamma", wanted=scaled, value=1),
        row("beta", wanted=center, value=0),
        row("moving_mean", wanted=True, value=0),
        row("moving_variance", wanted=True, value=1),
    )
    return call.add(BatchNorm(last, epsilon, (), momentum), x, *rows)
