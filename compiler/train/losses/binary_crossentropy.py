"""Binary cross-entropy of a sigmoid, from logits: Keras's, the mean over the values of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Graph, Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import Unary
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.train.losses.loss import TrainingLoss, training_loss


def require_alike(types: Sequence[TensorType]) -> None:
    """A label for every value.

    Raises:
        ShapeError: other labels.
    """
    values, labels = types
    if len(values.shape) != 2 or labels.shape != values.shape:
        raise ShapeError(f"labels of shape {list(labels.shape)}", f"{list(values.shape)}, as the values")


@training_loss
@op("nn.binary_crossentropy", "logits:f32", "labels:f32")
class BinaryCrossentropy(TrainingLoss):
    """The mean of -log(p) where the label is 1 and of -log(1 - p) where it is 0, p = sigmoid(logits)."""

    of_sums: ClassVar[bool] = False
    end: ClassVar[str] = "sigmoid"

    @classmethod
    def ended(cls, graph: Graph, result: Node) -> Node:
        """A sigmoid is added."""
        made = graph.add(Unary(cls.end), (result,), name=f"{result.name}/probabilities", loc=result.loc)
        graph.set_outputs([made], graph.output_names)
        return result

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_alike(types)
        return TensorType(DType.F32, ())

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, y = (a.astype(np.float64) for a in args)
        return np.asarray((np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))).mean())


@op("nn.binary_crossentropy_gradient", "logits:f32", "labels:f32")
class BinaryCrossentropyGradient(Op):
    """The errors of the logits: (sigmoid(logits) - label) / values."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_alike(types)
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, y = args
        return (1 / (1 + np.exp(-x)) - y) / x.dtype.type(x.size)


@gradient_rule(BinaryCrossentropy)
def binary_gradient(d: Differentiator, node: Node, operation: BinaryCrossentropy, error: Node) -> Errors:
    """Of the logits."""
    del operation, error
    return (d.add(BinaryCrossentropyGradient(), node.inputs, node), None)
