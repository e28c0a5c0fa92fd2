"""Addition of two tensors: ONNX Add, Keras Add; QLinearAdd when quantized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from compiler.export.writing import MICROSOFT, OnnxWriter, written_as_onnx
from compiler.frontend.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import MAX_ELEMENTS, DType, Shape, TensorType
from compiler.ops.boundary import qlinear
from compiler.ops.spatial import Pair, require_codes, write_clamped
from compiler.quantize.rules import Quantizer, quantization_rule
from isa import arithmetic

BROADCAST_OPSET: Final = 7
"""Since this opset operands broadcast to one another as in numpy."""


def _same_shape(types: Sequence[TensorType]) -> tuple[int, ...]:
    a, b = types
    if a.shape != b.shape:
        raise ShapeError(f"a sum of {list(a.shape)} and {list(b.shape)} is not supported", "equal shapes")
    return a.shape


@op("nn.add", "a:f32", "b:f32")
class Add(Op):
    """a + b on equal shapes, then an optional clamp to real bounds."""

    clamp: tuple[float, float] | None = None

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.F32, _same_shape(types))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        y = args[0] + args[1]
        return y if self.clamp is None else np.clip(y, *np.asarray(self.clamp, np.float32))


@op("q.add", "a:i8|u8", "b:i8|u8")
class QAdd(Op):
    """QLinearAdd on equal shapes, clamp to codes."""

    bounds: Pair = (-128, 127)

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_codes(self.bounds)
        return TensorType(DType.I8, _same_shape(types))

    def under(self, perm: Sequence[int]) -> Op:
        return self

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        p0, p1, p2 = self.constants(types, out)
        left, right = (a.astype(np.int32) for a in args)
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
    """Equal shapes, or a constant that broadcasts to the other operand's shape."""
    a, b = n.operand(0), n.operand(1)
    if n.opset < BROADCAST_OPSET:
        b = _legacy_operand(n, a, b)
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        n.fail(f"the shapes {list(a.shape)} and {list(b.shape)} do not broadcast to one another")
    if math.prod(shape) > MAX_ELEMENTS:
        n.fail(f"the sum has the shape {list(shape)}", f"{MAX_ELEMENTS} elements")
    return n.add(Add(), *(_spread(n, x, shape) for x in (a, b)))


def _legacy_operand(n: OnnxNode, a: Node, b: Node) -> Node:
    """B before opset 7: of the shape of A, or with broadcast=1 laid along A's dimensions from `axis` on."""
    if not n.integer("broadcast", 0):
        if a.shape != b.shape:
            n.fail(
                f"the shapes {list(a.shape)} and {list(b.shape)} differ without broadcast=1", "equal shapes"
            )
        return b
    axis = n.integer("axis", len(a.shape) - len(b.shape))
    axis += len(a.shape) if axis < 0 else 0
    if not b.is_constant or axis < 0 or a.shape[axis : axis + len(b.shape)] != b.shape:
        n.fail(
            f"B of shape {list(b.shape)} along axis {axis} of {list(a.shape)} is not supported",
            "a constant of the extents of A from that axis on",
        )
    spread = b.constant.reshape(*b.shape, *(1,) * (len(a.shape) - axis - len(b.shape)))
    return n.graph.const(spread, b.name, b.loc)


def _spread(n: OnnxNode, x: Node, shape: Shape) -> Node:
    """A constant broadcast to the shape; other nodes as they are."""
    if not x.is_constant or x.shape == shape:
        return x
    return n.graph.const(np.ascontiguousarray(np.broadcast_to(x.constant, shape)), x.name, x.loc)


qlinear("QLinearAdd", "Add", [(0, 1, 2), (3, 4, 5)], (6, 7), domain=MICROSOFT)


@layer("Add")
def add_layer(call: LayerCall) -> Node:
    """Add()([a, b])."""
    call.done()
    if len(call.operands) != 2:
        call.fail(f"Add takes two values, not {len(call.operands)}")
    return call.add(Add(), *call.operands)


@quantization_rule(Add)
def quantize_add(q: Quantizer, node: Node, inputs: list[Node]) -> Node:
    """The sum has a scale of its own."""
    operation = node.op
    assert isinstance(operation, Add)
    quant = q.chosen(node)
    return q.add(QAdd(q.clamp_codes(quant, operation.clamp)), q.operands(node, inputs), node, quant)


@written_as_onnx(QAdd)
def write_add(w: OnnxWriter, node: Node) -> None:
    """QLinearAdd of com.microsoft."""
    operation = node.op
    assert isinstance(operation, QAdd)
    a, b = node.inputs
    inputs = [*w.quantized(a), *w.quantized(b), w.scale(node), w.zero_point(node)]
    write_clamped(
        w,
        w.tensor(node),
        operation.bounds,
        node.type.dtype.numpy,
        lambda name: w.add("QLinearAdd", inputs, name, domain=MICROSOFT),
    )
