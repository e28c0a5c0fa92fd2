"""Dense layers of a step: forward, errors of inputs, sums for the gradients of weights."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ops.gemm import Gemm
from compiler.ops.shapes import Transpose
from compiler.train.integer.sums import Ending, Requantized, ending_of, requantized
from compiler.train.integer.weights import bias_of, weights_of
from compiler.train.lowering import Fixed, Lowerer, code_type, integer_rule
from compiler.train.scalars import NUMBER
from isa import arithmetic
from isa.support.records import Frozen


def _product(a: Array, b: Array) -> Array:
    return arithmetic.wrap32(a.astype(np.float64) @ b.astype(np.float64))


def _extents(types: Sequence[TensorType], *, turned: bool) -> tuple[int, int]:
    x, w = types[:2]
    depth, columns = w.shape[::-1] if turned else w.shape
    if len(x.shape) != 2 or x.shape[1] != depth:
        raise ShapeError(f"a product of {list(x.shape)} and {list(w.shape)}", "[n,k] and [k,m]")
    return x.shape[0], columns


@op("t.dense_sums", "x:i8|u8", "w:i8", "b:i32")
class DenseSums(Op):
    """x (n, k) times w (k, m) plus b (m); int32, wrapped."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Words."""
        return TensorType(DType.I32, _extents(types, turned=False))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Exact, but for the wrap."""
        return arithmetic.add_wrapping(_product(args[0], args[1]), args[2])


@op("t.dense", "x:i8|u8", "w:i8", "b:i32", "shift:i32")
class StepDense(Requantized):
    """x (n, k) times w (k, m), or its transpose, plus b, shifted to 8 bits; and the greatest sum."""

    turned: bool = False

    def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Codes and a number."""
        shape = _extents(types, turned=self.turned)
        return TensorType(code_type(unsigned=self.unsigned), shape), NUMBER

    def evaluate_all(
        self, args: Sequence[Array], types: Sequence[TensorType], outs: Sequence[TensorType]
    ) -> tuple[Array, ...]:
        """Sums wrap to int32."""
        x, w, b, shift = args
        sums = arithmetic.add_wrapping(_product(x, w.T if self.turned else w), b)
        return self.shifted(sums, shift)


@op("t.dense_weight_sums", "x:i8|u8", "g:i8")
class DenseWeightSums(Op):
    """For every weight (k, m) the sum of inputs times errors, over the batch; int32."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """Words of the shape of the weights."""
        return TensorType(DType.I32, (types[0].shape[1], types[1].shape[1]))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        """Exact, but for the wrap."""
        return _product(args[0].T, args[1])


class Turned(Frozen):
    """A transposed matrix, which only products take: a parameter, or a value."""

    node: Node


@integer_rule(Transpose)
def lower_transpose(lower: Lowerer, node: Node, operation: Transpose) -> Turned:
    """Of a matrix, for the gradients of a product."""
    if operation.perm != (1, 0):
        lower.fail(node, f"'{node.name}' moves axes, which no step of training does yet")
    return Turned(node.inputs[0])


@integer_rule(Gemm)
def lower_gemm(lower: Lowerer, node: Node, operation: Gemm) -> Fixed:
    """A layer, or one of the two products on its way back."""
    a, b, bias = node.inputs
    left, right = lower.values.get(a.id), lower.values.get(b.id)
    if isinstance(left, Turned):
        x, g = lower[left.node], lower[b]
        sums = lower.add(DenseWeightSums(), (x.node, g.node), node.name, node)
        return Fixed(sums, lower.plus(x.exponent, g.exponent), x.c * g.c)
    weights = right.node if isinstance(right, Turned) else b
    codes, exponent = weights_of(lower, weights)
    value: Fixed = lower[a]
    c = value.c * Fraction(operation.alpha)
    e = lower.plus(value.exponent, exponent)
    operands = (value.node, codes, bias_of(lower, bias, e, c))
    if node is lower.logits and operation.clamp is None:
        return Fixed(lower.add(DenseSums(), operands, f"{node.name}/logits", node), e, c)
    turned = isinstance(right, Turned)
    key = node.name if turned else f"{node.name}/y"
    ending = Ending() if turned else ending_of(lower, node, operation.clamp)
    return requantized(lower, node, StepDense(turned=turned), operands, (e, c), key, ending)
