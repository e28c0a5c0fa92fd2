"""Batch normalization: ONNX and Keras BatchNormalization; folded where a product comes before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.rules.importing import LayerCall, layer

SPATIAL_OPSET = 9
"""Since this opset statistics are per channel."""


@op("nn.batch_norm", "x:f32", "gain:f32", "offset:f32")
class BatchNorm(Op):
    """x * gain + offset per channel; gain = scale / sqrt(var + eps), offset = B - mean * gain."""

    axis: int

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        x, gain, offset = types
        if len(x.shape) <= self.axis or gain.shape != (x.shape[self.axis],) or gain.shape != offset.shape:
            raise ShapeError(
                f"gains of shape {list(gain.shape)} do not fit an input of shape {list(x.shape)}",
                "one per channel",
            )
        return TensorType(DType.F32, x.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, gain, offset = args
        spread = [-1 if i == self.axis else 1 for i in range(x.ndim)]
        return x * gain.reshape(spread) + offset.reshape(spread)


def affine(statistics: Sequence[Array], epsilon: float) -> tuple[Array, Array]:
    """Gain and offset of scale, offset, mean and variance."""
    scale, offset, mean, variance = statistics
    with np.errstate(all="ignore"):  # constants that are not finite are refused later, all at once
        gain = scale / np.sqrt(variance + np.float32(epsilon))
        return gain.astype(np.float32), (offset - mean * gain).astype(np.float32)


@layer("BatchNormalization")
def batch_norm_layer(call: LayerCall) -> Node:
    """BatchNormalization(epsilon=0.001)."""
    epsilon = call.take("epsilon", 1e-3, (float,), "a number")
    call.done()
    x = call.value()
    channels = (x.shape[-1],)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    gain, offset = affine([call.weights(name, channels) for name in names], epsilon)
    return call.add(BatchNorm(len(x.shape) - 1), x, call.const(gain, "gain"), call.const(offset, "offset"))
