"""The losses of a step, from the sums of the last layer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.train.losses.categorical_crossentropy import (
    CategoricalCrossentropy,
    CategoricalCrossentropyGradient,
)
from compiler.train.lowering import Fixed, Lowerer, integer_rule
from isa import arithmetic
from isa.instructions.vector_loss import ONE, STEPS_BITS

ERROR_EXPONENT = -7
"""Of the errors: 127 is a probability of 1, 2^-7 its unit."""


def softmax_table() -> Array:
    """exp(d / 2^STEPS_BITS) for d of -255..0; the last step is 0."""
    table = np.exp((np.arange(256) - 255) / (1 << STEPS_BITS)).astype(np.float32)
    table[0] = 0
    return table


@op("t.softmax_errors", "sums:i32", "e:i32", "labels:i32")
class SoftmaxErrors(Op):
    """Errors of a categorical cross-entropy from sums of value A * 2^e * factor, as `vloss` gives them.

    The second result is a record of three words for each row: the label's difference to the greatest sum in
    steps of the table, the sum of the table's entries as float32 bits, the index of the greatest sum.
    """

    factor: float

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Errors and records."""
        return TensorType(DType.I8, types[0].shape), TensorType(DType.I32, (types[0].shape[0], 3))

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """The entries of the table are added in float32, in ascending order."""
        sums, e, labels = args
        d = arithmetic.loss_steps(sums, np.float32(self.factor), int(e) + STEPS_BITS)
        t, z = arithmetic.exponentials(d, softmax_table())
        errors = arithmetic.to_integer(t * np.float32(ONE) / z[:, None], 0, ONE)
        rows = np.arange(len(labels))
        errors[rows, labels] -= ONE
        record = np.stack([d[rows, labels], z.view(np.int32), sums.argmax(axis=1).astype(np.int32)], axis=1)
        return errors, record


@op("t.softmax", "sums:i32", "e:i32")
class StepSoftmax(Op):
    """The probabilities of sums, float32, by the same table."""

    factor: float

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Real numbers."""
        return TensorType(DType.F32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """One division each."""
        d = arithmetic.loss_steps(args[0], np.float32(self.factor), int(args[1]) + STEPS_BITS)
        t, z = arithmetic.exponentials(d, softmax_table())
        return t / z[:, None]


@integer_rule(CategoricalCrossentropy)
def lower_loss(lower: Lowerer, node: Node, operation: CategoricalCrossentropy) -> None:
    """The host makes the number of the records that the errors leave."""
    del lower, node, operation


@integer_rule(CategoricalCrossentropyGradient)
def lower_errors(lower: Lowerer, node: Node, operation: CategoricalCrossentropyGradient) -> Fixed:
    """Errors in units of 2^-7; that the loss is a mean, the update knows."""
    del operation
    logits, labels = node.inputs
    value: Fixed = lower[logits]
    given = lower.graph.input("labels", DType.I32, labels.shape)
    made = SoftmaxErrors(float(value.c))
    errors = lower.add(made, (value.node, lower.number(value.exponent), given), node.name, node)
    lower.records.append(("records", lower.graph.element(errors, 1, "records")))
    return Fixed(errors, lower.constant(ERROR_EXPONENT), Fraction(1))
