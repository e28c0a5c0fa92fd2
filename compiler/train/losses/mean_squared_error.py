"""Mean squared error of the values of a dense layer: Keras's, the mean over the values of a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.train.losses.binary_crossentropy import require_alike
from compiler.train.losses.loss import TrainingLoss, training_loss


@training_loss
@op("nn.mean_squared_error", "values:f32", "labels:f32")
class MeanSquaredError(TrainingLoss):
    """The mean of (value - label)^2."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_alike(types)
        return TensorType(DType.F32, ())

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        values, labels = (a.astype(np.float64) for a in args)
        return np.asarray(np.square(values - labels).mean())


@op("nn.mean_squared_error_gradient", "values:f32", "labels:f32")
class MeanSquaredErrorGradient(Op):
    """The errors of the values: 2 * (value - label) / values."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_alike(types)
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        values, labels = args
        return (values - labels) * values.dtype.type(2 / values.size)


@gradient_rule(MeanSquaredError)
def squared_gradient(d: Differentiator, node: Node, operation: MeanSquaredError, error: Node) -> Errors:
    """Of the values."""
    del operation, error
    return (d.add(MeanSquaredErrorGradient(), node.inputs, node), None)
