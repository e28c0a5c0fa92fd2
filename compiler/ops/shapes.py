"""Operators that move or rename data: Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Identity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import MAX_ELEMENTS, Shape, TensorType
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.exporting import OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.partitioning import Part, part_rule
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa.program import Box, whole_box

INFERENCE_OPSET: Final = 7
"""Since this opset Dropout and BatchNormalization mean inference unless they say otherwise."""
DROPOUT_RATIO: Final = 0.5
"""Of Dropout that says none."""


@op("reshape", "x")
class Reshape(Op):
    """The same elements in the same order under another shape."""

    moves: ClassVar[bool] = True
    shape: tuple[int, ...]

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        if math.prod(self.shape) != types[0].elements or min(self.shape, default=0) < 0:
            raise ShapeError(
                f"{list(types[0].shape)} cannot be reshaped to {list(self.shape)}",
                "the same number of elements",
            )
        return TensorType(types[0].dtype, self.shape, types[0].quant)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return np.ascontiguousarray(args[0]).reshape(self.shape)


@gradient_rule(Reshape)
def reshape_gradient(d: Differentiator, node: Node, operation: Reshape, error: Node) -> Errors:
    """The error under the shape of before."""
    del operation
    return (d.add(Reshape(node.inputs[0].shape), (error,), node),)


@part_rule(Reshape)
def part_of_reshape(node: Node, _: Reshape, box: Box) -> Part | None:
    """Some of the first dimension, where that is the operand's."""
    (x,) = node.inputs
    if not x.shape or x.shape[0] != node.shape[0] or box[1:] != whole_box(node.shape)[1:]:
        return None
    shape = (box[0][1] - box[0][0], *node.shape[1:])
    return Part(Reshape(shape), ((box[0], *whole_box(x.shape)[1:]),))


@op("transpose", "x")
class Transpose(Op):
    """Dimension i of the result is dimension perm[i] of the operand."""

    moves: ClassVar[bool] = True
    perm: tuple[int, ...]

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        if sorted(self.perm) != list(range(len(types[0].shape))):
            raise ShapeError(f"perm={list(self.perm)} is no permutation of {len(types[0].shape)} dimensions")
        return TensorType(types[0].dtype, tuple(types[0].shape[p] for p in self.perm), types[0].quant)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return np.ascontiguousarray(args[0].transpose(self.perm))


def unreshaped(node: Node) -> Node:
    """The node whose elements these are, in the same order: reshapes are looked through."""
    while isinstance(node.op, Reshape):
        (node,) = node.inputs
    return node


@gradient_rule(Transpose)
def transpose_gradient(d: Differentiator, node: Node, operation: Transpose, error: Node) -> Errors:
    """The error, turned back."""
    back = tuple(int(p) for p in np.argsort(operation.perm))
    return (d.add(Transpose(back), (error,), node),)


@op("nn.identity", "x")
class Identity(Op):
    """The operand."""

    moves: ClassVar[bool] = True

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return args[0]


@op("nn.dropout", "x")
class Dropout(Identity):
    """In training some of the operand, divided by what is kept, and 0 for the rest; otherwise the operand."""

    rate: float


@op("nn.dropout_gradient", "g:f32", "y:f32")
class DropoutGradient(Op):
    """The error of a dropout's result, where the operand was kept, divided by what is kept."""

    rate: float

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return args[0]  # outside of training everything is kept


@gradient_rule(Dropout)
def dropout_gradient(d: Differentiator, node: Node, operation: Dropout, error: Node) -> Errors:
    """The error of what was kept."""
    return (d.add(DropoutGradient(operation.rate), (error, node), node),)


@onnx_operator("Identity", "Dropout")
def import_identity(n: OnnxNode) -> Node:
    """Identity, and Dropout where nothing is dropped."""
    if n.op_type == "Dropout":
        training = n.maybe(2)
        trains = training is not None and bool(n.constant(2, "training_mode").any())
        ratio = n.scalar(1, "the ratio") if n.maybe(1) is not None else DROPOUT_RATIO
        if trains and ratio:
            n.fail("training_mode=true drops values at random", "training_mode=false, or ratio=0")
        if n.opset < INFERENCE_OPSET and not n.integer("is_test", 0):
            n.fail("is_test=0 is not supported", "is_test=1")
    return n.add(Identity(), n.operand(0))


@onnx_operator("Flatten")
def import_flatten(n: OnnxNode) -> Node:
    """All dimensions before `axis` become one, and all others."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    axis = n.integer("axis", 1)
    if not -rank <= axis <= rank:
        n.fail(f"axis={axis} is outside {-rank}..{rank}")
    axis = axis + rank if axis < 0 else axis
    return n.add(Reshape((math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))), x)


@onnx_operator("Reshape")
def import_reshape(n: OnnxNode) -> Node:
    """A constant shape; 0 keeps a dimension, -1 takes what is left."""
    x = n.operand(0)
    wanted = n.attributes.get("shape")
    shape = [int(v) for v in (n.constant(1, "the shape").ravel() if wanted is None else wanted)]
    if not n.integer("allowzero", 0):
        if any(v == 0 and i >= len(x.shape) for i, v in enumerate(shape)):
            n.fail(f"shape={shape} keeps a dimension that {list(x.shape)} does not have")
        shape = [x.shape[i] if v == 0 else v for i, v in enumerate(shape)]
    if shape.count(-1) == 1:
        known = -math.prod(shape)
        shape = [x.type.elements // known if v == -1 and known > 0 else v for v in shape]
    if min(shape, default=1) < (1 if x.type.elements else 0) or max(shape, default=1) > MAX_ELEMENTS:
        n.fail(f"shape={shape} is not allowed", "dimensions of at least 1, one -1")
    return n.add(Reshape(tuple(shape)), x)


@onnx_operator("Squeeze", "Unsqueeze")
def import_squeeze(n: OnnxNode) -> Node:
    """Dimensions of extent 1 removed or inserted; axes as attribute before opset 13, operand since."""
    x = n.operand(0)
    given = n.attributes.get("axes")
    if given is None and n.maybe(1) is not None:
        given = n.constant(1, "the axes").ravel()
    axes = None if given is None else [int(a) for a in given]
    shape = _squeezed(n, x.shape, axes) if n.op_type == "Squeeze" else _unsqueezed(n, x.shape, axes or [])
    return n.add(Reshape(shape), x)


def _squeezed(n: OnnxNode, shape: Shape, axes: list[int] | None) -> Shape:
    if axes is not None and not all(-len(shape) <= a < len(shape) for a in axes):
        n.fail(f"axes={axes} are not allowed for rank {len(shape)}", f"{-len(shape)} to {len(shape) - 1}")
    chosen = (
        {a % len(shape) for a in axes} if axes is not None else {i for i, d in enumerate(shape) if d == 1}
    )
    if any(shape[a] != 1 for a in chosen):
        n.fail(f"axes={axes} of {list(shape)} are not all of extent 1")
    return tuple(d for i, d in enumerate(shape) if i not in chosen)


def _unsqueezed(n: OnnxNode, shape: Shape, axes: list[int]) -> Shape:
    rank = len(shape) + len(axes)
    chosen = {a % rank for a in axes}
    if len(chosen) != len(axes) or not all(-rank <= a < rank for a in axes):
        n.fail(f"axes={axes} are not allowed for rank {len(shape)}")
    rest = iter(shape)
    return tuple(1 if i in chosen else next(rest) for i in range(rank))


@onnx_operator("Transpose")
def import_transpose(n: OnnxNode) -> Node:
    """The reverse order by default."""
    rank = len(n.operand(0).shape)
    return n.add(Transpose(n.integers("perm", tuple(reversed(range(rank))))), n.operand(0))


@layer("Flatten")
def flatten_layer(call: LayerCall) -> Node:
    """Flatten(): all but the first dimension become one."""
    call.done()
    x = call.value()
    return call.add(Reshape((x.shape[0], math.prod(x.shape[1:]))), x)


@layer("Reshape", "target_shape")
def reshape_layer(call: LayerCall) -> Node:
    """Reshape((rows, columns, channels)): the shape without the batch."""
    target = call.take("target_shape", None, (tuple,), "(n, ...)")
    call.done()
    if target is None or len(call.operands) != 1:
        call.fail("Reshape takes a shape and one value")
    if any(isinstance(d, bool) or not isinstance(d, int) for d in target):
        call.fail(f"Reshape: target_shape={target!r} is not allowed", "whole numbers")
    x = call.operands[0]
    return call.add(Reshape((x.shape[0], *target)), x)


@layer("Permute", "dims")
def permute_layer(call: LayerCall) -> Node:
    """Permute((3, 1, 2)): the dimensions behind the batch, counted from 1."""
    dims = call.take("dims", None, (tuple,), "(n, ...)")
    call.done()
    x = call.value()
    if dims is None or sorted(map(str, dims)) != [str(i) for i in range(1, len(x.shape))]:
        call.fail(f"Permute: dims={dims!r} is not allowed", f"1 to {len(x.shape) - 1}, each once")
    return call.add(Transpose((0, *dims)), x)


@layer("Dropout", "rate")
def dropout_layer(call: LayerCall) -> Node:
    """Dropout(rate): nothing at inference."""
    rate = float(call.take("rate", 0.5, (float, int), "a number"))
    call.done()
    if not 0 <= rate < 1:
        call.fail(f"Dropout: rate={rate} is not allowed", "0 to below 1")
    return call.add(Dropout(rate), call.value())


@quantization_rule(Reshape, Transpose)
def quantize_moved(q: Quantizer, node: Node, operation: Reshape | Transpose, inputs: list[Node]) -> Node:
    """The same codes."""
    return q.add(operation, inputs, node, inputs[0].type.quant)


@written_as_onnx(Reshape)
def write_reshape(w: OnnxWriter, node: Node, operation: Reshape) -> None:
    """Reshape with a constant shape."""
    del operation
    name = w.tensor(node)
    shape = w.initializer(np.array(node.shape, np.int64), f"{name}_shape")
    w.add("Reshape", [w.tensor(node.inputs[0]), shape], name)


@written_as_onnx(Transpose)
def write_transpose(w: OnnxWriter, node: Node, operation: Transpose) -> None:
    """Transpose."""
    w.transposed(w.tensor(node.inputs[0]), operation.perm, w.tensor(node))
