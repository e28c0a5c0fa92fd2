"""The losses of a step, from what the last layer gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import Unary
from compiler.train.integer.functions import BOUNDED, CodeTable, operand_of
from compiler.train.integer.sums import Requantized, StepAdd, requantized
from compiler.train.integer.weighting import weighted
from compiler.train.losses.binary_crossentropy import BinaryCrossentropy, BinaryCrossentropyGradient
from compiler.train.losses.categorical_crossentropy import (
    CategoricalCrossentropy,
    CategoricalCrossentropyGradient,
)
from compiler.train.losses.loss import TrainingLoss
from compiler.train.losses.mean_squared_error import MeanSquaredError, MeanSquaredErrorGradient
from compiler.train.lowering import Fixed, Lowerer, integer_rule, unit_of
from compiler.train.scalars import NUMBER
from isa import arithmetic
from isa.instructions.vector_loss import ONE, STEPS_BITS

ERROR_EXPONENT = -7
"""Of the errors: 127 is a probability of 1, 2^-7 its unit."""
STEP_BITS = 16
"""Squared errors count in steps of 2^-16 before they are shifted."""
CODED_PROBABILITY: Final = 2.0 ** BOUNDED[BinaryCrossentropy.end][1]
"""The unit of probabilities that are codes."""
HALVED = 1
"""Probabilities of 2^-8 are shifted by it to the unit of errors."""


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


@op("t.code_sums", "x:i8|u8", "zero:i32")
class CodeSums(Op):
    """Codes as sums: what a loss takes where no product comes last."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Words."""
        return TensorType(DType.I32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """The same values."""
        return args[0].astype(np.int32)


def sums_of(lower: Lowerer, value: Fixed, node: Node) -> Fixed:
    """The sums of the last layer, or its codes as such."""
    if not value.node.type.dtype.is_code:
        return value
    made = lower.add(CodeSums(), (value.node, lower.constant(0)), f"{node.name}/sums", node)
    return Fixed(made, value.exponent, value.c)


@op("t.real", "sums:i32", "e:i32")
class RealSums(Op):
    """What sums stand for, float32: F(sums) * F(F(unit) * 2^e)."""

    unit: float

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Real numbers."""
        return TensorType(DType.F32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Two products, each rounded."""
        return arithmetic.f32(args[0]) * unit_of(self.unit, args[1])


@op("t.squared_errors", "sums:i32", "e:i32", "labels:f32", "shift:i32")
class SquaredErrors(Requantized):
    """Errors of a mean squared error: (values - labels) * F(2/outputs) in steps of 2^-16, shifted to 8 bits.

    The values are those of `t.real`, and the third result; the second is the greatest step.
    """

    unit: float = 1.0

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Errors, a number, values."""
        shape = types[0].shape
        return TensorType(DType.I8, shape), NUMBER, TensorType(DType.F32, shape)

    @property
    def real(self) -> RealSums:
        """What gives the values."""
        return RealSums(self.unit)

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Every operation is rounded to float32; steps are clamped to -2^30..2^30."""
        sums, e, labels, shift = args
        values = self.real.evaluate((sums, e), types, outs[2])
        errors = (values - labels) * np.float32(2 / labels.shape[1])
        steps = arithmetic.to_word(errors * np.float32(1 << STEP_BITS))
        return (*self.shifted(steps, shift), values)


@integer_rule(CategoricalCrossentropy, BinaryCrossentropy, MeanSquaredError)
def lower_loss(lower: Lowerer, node: Node, operation: TrainingLoss) -> None:
    """The host makes the number of the records that the errors leave."""
    del lower, node, operation


@integer_rule(CategoricalCrossentropyGradient)
def lower_errors(lower: Lowerer, node: Node, operation: CategoricalCrossentropyGradient) -> Fixed:
    """Errors in units of 2^-7; that the loss is a mean, the update knows."""
    del operation
    logits, labels = node.inputs
    value = sums_of(lower, lower[logits], logits)
    given = lower.graph.input("labels", DType.I32, labels.shape)
    made = SoftmaxErrors(float(value.c))
    errors = lower.add(made, (value.node, lower.number(value.exponent), given), node.name, node)
    lower.records.append(("records", lower.graph.element(errors, 1, "records")))
    return weighted(lower, node, Fixed(errors, lower.constant(ERROR_EXPONENT), Fraction(1)))


@integer_rule(BinaryCrossentropyGradient)
def lower_binary_errors(lower: Lowerer, node: Node, operation: BinaryCrossentropyGradient) -> Fixed:
    """Probabilities by the table, and 1 less where the label says so; logits are left for the host."""
    del operation
    x = operand_of(lower, node.inputs[0], Unary(BinaryCrossentropy.end))
    p = lower.add(_sigmoid(x), (x.node,), f"{node.name}/probabilities", node)
    labels = lower.graph.input("labels", DType.I8, node.shape)
    zero, halved = lower.constant(0), lower.constant(HALVED)
    errors = lower.add(StepAdd(count=2), (p, labels, halved, zero, zero), node.name, node)
    lower.records.append(("records", lower.add(StepAdd(count=1), (x.node, zero, zero), "records", node)))
    return weighted(lower, node, Fixed(errors, lower.constant(ERROR_EXPONENT), Fraction(1, node.shape[1])))


def _sigmoid(x: Fixed) -> CodeTable:
    unsigned, to = BOUNDED[BinaryCrossentropy.end]
    assert isinstance(x.exponent, Node)
    return CodeTable(BinaryCrossentropy.end, (), int(x.exponent.constant), to, unsigned)


@integer_rule(MeanSquaredErrorGradient)
def lower_squared_errors(lower: Lowerer, node: Node, operation: MeanSquaredErrorGradient) -> Fixed:
    """Errors by a shift of their own; values are left for the host."""
    del operation
    value = sums_of(lower, lower[node.inputs[0]], node.inputs[0])
    labels = lower.graph.input("labels", DType.F32, node.shape)
    made = SquaredErrors(unit=float(np.float32(float(value.c))))
    operands = value.node, lower.number(value.exponent), labels
    unit = lower.constant(-STEP_BITS), Fraction(1)
    errors = requantized(lower, node, made, operands, unit, node.name)
    lower.records.append(("records", lower.graph.element(errors.node, 2, "records")))
    return weighted(lower, node, errors)


def _softmax_result(lower: Lowerer, value: Fixed, node: Node) -> tuple[str, Node]:
    value = sums_of(lower, value, node)
    made = StepSoftmax(float(value.c))
    return "probabilities", lower.add(made, (value.node, lower.number(value.exponent)), "probabilities", node)


def _sigmoid_result(lower: Lowerer, value: Fixed, node: Node) -> tuple[str, Node]:
    del lower, node
    return "probabilities", value.node


def _real_result(lower: Lowerer, value: Fixed, node: Node) -> tuple[str, Node]:
    value = sums_of(lower, value, node)
    made = RealSums(float(np.float32(float(value.c))))
    return "values", lower.add(made, (value.node, lower.number(value.exponent)), "values", node)


RESULTS: Final[dict[type[TrainingLoss], Callable[[Lowerer, Fixed, Node], tuple[str, Node]]]] = {
    CategoricalCrossentropy: _softmax_result,
    BinaryCrossentropy: _sigmoid_result,
    MeanSquaredError: _real_result,
}
"""What a network gives without labels, by its loss: the name of the output, and the output."""
