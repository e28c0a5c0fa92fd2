"""Concatenation: ONNX Concat, Keras Concatenate; QLinearConcat when quantized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import AlongAxis, Array, Op, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import requantizing_table
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.slices import Slice
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.exporting import MICROSOFT, OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.partitioning import Part, part_rule
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa.program import Box

ANY_AXIS_OPSET = 13


def _joined(types: Sequence[TensorType], axis: int) -> tuple[int, ...]:
    first = types[0].shape
    if not 0 <= axis < len(first):
        raise ShapeError(f"axis={axis} of rank {len(first)}", f"0 to {len(first) - 1}")
    rest = {(*t.shape[:axis], *t.shape[axis + 1 :]) for t in types}
    if len(rest) != 1 or len({len(t.shape) for t in types}) != 1:
        raise ShapeError(
            f"the shapes {[list(t.shape) for t in types]} cannot be joined along axis {axis}",
            "equal extents but for the axis",
        )
    return (*first[:axis], sum(t.shape[axis] for t in types), *first[axis + 1 :])


@op("nn.concat", "x*")
class Concat(Op):
    """The operands one after another along an axis."""

    axis: int

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        if len({t.dtype for t in types}) != 1:
            raise ShapeError(f"operands of types {', '.join(t.dtype.host_name for t in types)}", "one type")
        return TensorType(types[0].dtype, _joined(types, self.axis))

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        return Concat(perm[self.axis])

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return np.concatenate(args, self.axis)


@gradient_rule(Concat)
def concat_gradient(d: Differentiator, node: Node, operation: Concat, error: Node) -> Errors:
    """Every operand gets its part of the error."""
    rank, start = len(node.shape), 0
    parts: list[Node] = []
    for operand in node.inputs:
        starts = tuple(start if axis == operation.axis else 0 for axis in range(rank))
        parts.append(d.add(Slice(starts, operand.shape, (1,) * rank), (error,), node, "part"))
        start += operand.shape[operation.axis]
    return parts


@op("q.concat", "x*:i8|u8")
class QConcat(AlongAxis):
    """QLinearConcat: codes of other scales through tables."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.I8, _joined(types, self.axis))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        assert out.quant is not None
        parts: list[Array] = []
        for value, kind in zip(args, types, strict=True):
            assert kind.quant is not None
            table = requantizing_table(kind.quant, out.quant)
            same = kind.quant == out.quant
            parts.append(value if same else table[value.view(np.uint8)].view(out.dtype.numpy))
        return np.concatenate(parts, self.axis)

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        return QConcat(perm[self.axis])


@onnx_operator("Concat")
def import_concat(n: OnnxNode) -> Node:
    """Any number of operands; what has no elements adds nothing."""
    operands = [n.operand(i) for i in range(len(n.operands))]
    axis = n.axis(len(operands[0].shape), 1)
    Concat(axis).infer([o.type for o in operands])  # what is left out must fit too
    return n.add(Concat(axis), *([o for o in operands if o.type.elements] or operands))


qlinear("QLinearConcat", QLinear("Concat", (), (0, 1)), MICROSOFT)


@layer("Concatenate", "axis")
def concatenate_layer(call: LayerCall) -> Node:
    """Concatenate(axis=-1)([a, b, ...])."""
    axis = call.take("axis", -1, (int,), "a whole number")
    call.done()
    rank = len(call.operands[0].shape)
    if not -rank <= axis < rank:
        call.fail(f"Concatenate: axis={axis} is not allowed", f"{-rank} to {rank - 1}")
    return call.add(Concat(axis % rank), *call.operands)


@quantization_rule(Concat)
def quantize_concat(q: Quantizer, node: Node, operation: Concat, inputs: list[Node]) -> Node:
    """The result has a scale of its own."""
    return q.add(QConcat(operation.axis), q.operands(node, inputs), node, q.chosen(node))


@written_as_onnx(QConcat)
def write_concat(w: OnnxWriter, node: Node, operation: QConcat) -> None:
    """QLinearConcat of com.microsoft."""
    triples = [name for i in node.inputs for name in w.quantized(i)]
    inputs = [w.scale(node), w.zero_point(node), *triples]
    w.add("QLinearConcat", inputs, w.tensor(node), domain=MICROSOFT, axis=operation.axis)


@part_rule(QConcat)
def part_of_concat(node: Node, operation: QConcat, box: Box) -> Part:
    """Of every operand what lies in the box; operands that do not are left out."""
    axis, at = operation.axis, 0
    reads: list[Box | None] = []
    for operand in node.inputs:
        low, high = (min(max(n - at, 0), operand.shape[axis]) for n in box[axis])
        reads.append(None if low >= high else (*box[:axis], (low, high), *box[axis + 1 :]))
        at += operand.shape[axis]
    return Part(operation, tuple(reads))
