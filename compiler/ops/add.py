"""Addition of two tensors: ONNX Add, Keras Add; QLinearAdd when quantized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, ElementWise, Op, op
from compiler.ir.types import DType, Quant, TensorType
from compiler.ops.activation import through_clamp
from compiler.ops.broadcasting import broadcast, broadcast_operands, is_innermost_broadcast, layer_operands
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.reduce import summed_to
from compiler.ops.sliding_window import Pair, require_codes, write_clamped
from compiler.quantize.masks import lowered, masks_of
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.exporting import MICROSOFT, OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic


@op("nn.add", "a:f32", "b:f32")
class Add(Op):
    """a + b, broadcast to one another, then an optional clamp to real bounds."""

    clamp: tuple[float, float] | None = None

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.F32, broadcast(types))

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        return self

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        y = args[0] + args[1]
        return y if self.clamp is None else np.clip(y, *np.asarray(self.clamp, np.float32))


@gradient_rule(Add)
def add_gradient(d: Differentiator, node: Node, operation: Add, error: Node) -> Errors:
    """The error is that of both operands, summed where one was broadcast."""
    g = through_clamp(d, node, operation.clamp, error)
    return [summed_to(d, node, g, operand.shape) for operand in node.inputs]


@op("q.add", "a:i8|u8", "b:i8|u8")
class QAdd(ElementWise):
    """QLinearAdd, clamp to codes; a is not broadcast along the innermost dimension of the source."""

    bounds: Pair = (-128, 127)

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_codes(self.bounds)
        return TensorType(DType.I8, broadcast(types))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        p0, p1, p2 = self.constants(types, out)
        left, right = (np.broadcast_to(a, out.shape).astype(np.int32) for a in args)
        return arithmetic.add(left, right, p0, p1, p2, *self.bounds)

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """p0, p1, p2 of `vew add`."""
        a, b, c = types[0].quant, types[1].quant, out.quant
        assert a is not None
        assert b is not None
        assert c is not None
        return np.array(
            arithmetic.add_constants(a.scale, a.zero_point, b.scale, b.zero_point, c.scale, c.zero_point),
            np.float32,
        )


@onnx_operator("Add")
def import_add(n: OnnxNode) -> Node:
    """a + b."""
    return n.add(Add(), *broadcast_operands(n))


qlinear("QLinearAdd", QLinear("Add", [(0, 1, 2), (3, 4, 5)], (6, 7)), MICROSOFT)


@layer("Add")
def add_layer(call: LayerCall) -> Node:
    """Add()([a, b, ...])."""
    call.done()
    first, *others, last = call.operands if len(call.operands) > 2 else layer_operands(call)
    for index, other in enumerate(others):
        first = call.add(Add(), first, other, suffix=f"/sum{index}")
    return call.add(Add(), first, last)


@quantization_rule(Add)
def quantize_add(q: Quantizer, node: Node, operation: Add, inputs: list[Node]) -> Node:
    """The sum has a scale of its own."""
    quant = q.chosen(node)
    masks = {m.id: lowered(m.constant, _reach(quant, inputs)) for m in masks_of(node)}
    operands = q.operands(node, inputs, masks)
    if is_innermost_broadcast(operands[0].shape, node.shape):
        operands.reverse()  # ONNX Runtime's kernel lets the operands change places then
    return q.add(QAdd(q.clamp_codes(quant, operation.clamp)), operands, node, quant)


def _reach(total: Quant, inputs: list[Node]) -> float:
    """How far the greatest value of the computed operand lies above the least of the sum."""
    least = (total.dtype.bounds[0] - total.zero_point) * total.scale
    return max((i.type.dtype.bounds[1] - i.quant.zero_point) * i.quant.scale for i in inputs) - least


@written_as_onnx(QAdd)
def write_add(w: OnnxWriter, node: Node, operation: QAdd) -> None:
    """QLinearAdd of com.microsoft, whose kernel lets the operands of one element change places."""
    write = w.pair("QLinearAdd", node, MICROSOFT, turned=node.type.elements == 1)
    write_clamped(w, w.tensor(node), operation.bounds, node.type.dtype.numpy, write)
