"""Categorical cross-entropy of a softmax, from logits: Keras's sparse and one-hot forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, Shape, TensorType
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.train.losses.loss import TrainingLoss, training_loss


def _require_rows(types: Sequence[TensorType]) -> None:
    logits, labels = types
    if len(logits.shape) != 2 or labels.shape != logits.shape[:1]:
        raise ShapeError(
            f"labels of shape {list(labels.shape)} do not fit logits of shape {list(logits.shape)}",
            "a label for each row of logits",
        )


def _probabilities(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@training_loss
@op("nn.categorical_crossentropy", "logits:f32", "labels:i32")
class CategoricalCrossentropy(TrainingLoss):
    """The mean over rows of -log(softmax(logits)[label]); a number."""

    labels: ClassVar[DType] = DType.I32
    end: ClassVar[str] = "softmax"

    @classmethod
    def labels_shape(cls, shape: Shape) -> Shape:
        """The number of a class for each row."""
        return shape[:1]

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        _require_rows(types)
        return TensorType(DType.F32, ())

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        logits, labels = args[0].astype(np.float64), args[1]
        above = logits - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(above).sum(axis=1)) - above[np.arange(len(labels)), labels]
        return np.asarray(losses.mean())


@op("nn.categorical_crossentropy_gradient", "logits:f32", "labels:i32")
class CategoricalCrossentropyGradient(Op):
    """The errors of the logits: (softmax(logits) - one-hot label) / rows."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        _require_rows(types)
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        logits, labels = args
        errors = _probabilities(logits)
        errors[np.arange(len(labels)), labels] -= 1
        return errors / np.float32(len(labels))


@gradient_rule(CategoricalCrossentropy)
def crossentropy_gradient(
    d: Differentiator, node: Node, operation: CategoricalCrossentropy, error: Node
) -> Errors:
    """Of the logits; a loss is the end of a network, and its own error 1."""
    del operation, error
    return (d.add(CategoricalCrossentropyGradient(), node.inputs, node), None)
