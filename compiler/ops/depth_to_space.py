"""Blocks of pixels and channels: ONNX DepthToSpace, SpaceToDepth; gathers along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import AlongAxis, Array, Op, ShapeError, op
from compiler.ir.types import TensorType
from compiler.ops.shapes import Reshape, Transpose
from compiler.ops.sliding_window import Pair, from_nhwc, image_shape, nhwc, shape_in
from compiler.rules.exporting import OnnxWriter, written_as_onnx
from compiler.rules.importing import OnnxNode, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule


@op("depth_to_space", "x")
class DepthToSpace(Op):
    """Channels (g, bh, bw, c) of a pixel become a block of bh x bw pixels with channels (g, c)."""

    moves: ClassVar[bool] = True
    block: Pair
    groups: int
    layout: str

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        n, h, w, c = image_shape(types[0].shape, self.layout)
        (bh, bw), area = self.block, self.block[0] * self.block[1] * self.groups
        if min(bh, bw, self.groups) < 1 or c % area:
            raise ShapeError(f"{c} channels in {self.groups} groups and blocks of {bh} x {bw}", "a multiple")
        return TensorType(
            types[0].dtype, shape_in(self.layout, n, h * bh, w * bw, c // (bh * bw)), types[0].quant
        )

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x = nhwc(args[0], self.layout)
        n, h, w, c = x.shape
        bh, bw = self.block
        split = x.reshape(n, h, w, self.groups, bh, bw, c // (self.groups * bh * bw))
        y = split.transpose(0, 1, 4, 2, 5, 3, 6).reshape(n, h * bh, w * bw, c // (bh * bw))
        return from_nhwc(np.ascontiguousarray(y), self.layout)


@op("space_to_depth", "x")
class SpaceToDepth(Op):
    """A block of bh x bw pixels with channels c becomes one pixel with channels (bh, bw, c)."""

    moves: ClassVar[bool] = True
    block: Pair
    layout: str

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        n, h, w, c = image_shape(types[0].shape, self.layout)
        bh, bw = self.block
        if min(bh, bw) < 1 or h % bh or w % bw:
            raise ShapeError(f"{h} x {w} pixels in blocks of {bh} x {bw}", "whole blocks")
        return TensorType(
            types[0].dtype, shape_in(self.layout, n, h // bh, w // bw, c * bh * bw), types[0].quant
        )

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x = nhwc(args[0], self.layout)
        n, h, w, c = x.shape
        bh, bw = self.block
        split = x.reshape(n, h // bh, bh, w // bw, bw, c).transpose(0, 1, 3, 2, 4, 5)
        y = split.reshape(n, h // bh, w // bw, bh * bw * c)
        return from_nhwc(np.ascontiguousarray(y), self.layout)


@op("take", "x")
class Take(AlongAxis):
    """Element i along an axis is element indices[i] of the operand."""

    moves: ClassVar[bool] = True
    indices: tuple[int, ...]

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        shape = types[0].shape
        if not 0 <= self.axis < len(shape) or not self.indices:
            raise ShapeError(f"axis {self.axis} of {list(shape)}", "an axis, at least one index")
        if not 0 <= min(self.indices) <= max(self.indices) < shape[self.axis]:
            raise ShapeError(
                f"indices beyond axis {self.axis} of {list(shape)}", f"0 to {shape[self.axis] - 1}"
            )
        taken = tuple(len(self.indices) if i == self.axis else d for i, d in enumerate(shape))
        return TensorType(types[0].dtype, taken, types[0].quant)

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        return Take(perm[self.axis], self.indices)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return np.ascontiguousarray(np.take(args[0], np.asarray(self.indices), self.axis))


@onnx_operator("DepthToSpace")
def import_depth_to_space(n: OnnxNode) -> Node:
    """Modes DCR and CRD."""
    x, block, mode = n.operand(0), n.integer("blocksize", 1), n.text("mode", "DCR")
    if mode not in ("DCR", "CRD") or block < 1:
        n.fail(f"blocksize={block} and mode={mode} are not allowed", "at least 1; DCR, CRD")
    channels = x.shape[1] if len(x.shape) == 4 else 0
    groups = 1 if mode == "DCR" else max(channels // (block * block), 1)
    return n.add(DepthToSpace((block, block), groups, "NCHW"), x)


@onnx_operator("SpaceToDepth")
def import_space_to_depth(n: OnnxNode) -> Node:
    """Modes DCR and CRD."""
    x, block, mode = n.operand(0), n.integer("blocksize", 1), n.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        n.fail(f"mode={mode} is not allowed", "DCR, CRD")
    blocks = SpaceToDepth((block, block), "NCHW")
    if mode == "DCR":
        return n.add(blocks, x)
    moved = n.before(blocks, x, suffix="blocks")
    batch, channels, rows, columns = moved.shape
    area = block * block
    split = n.before(Reshape((batch, area, channels // area, rows * columns)), moved, suffix="split")
    turned = n.before(Transpose((0, 2, 1, 3)), split, suffix="turned")
    return n.add(Reshape((batch, channels, rows, columns)), turned)


@quantization_rule(DepthToSpace, SpaceToDepth, Take)
def quantize_moved_blocks(
    q: Quantizer, node: Node, operation: DepthToSpace | SpaceToDepth | Take, inputs: list[Node]
) -> Node:
    """The same codes."""
    return q.add(operation, inputs, node, inputs[0].type.quant)


@written_as_onnx(Take)
def write_take(w: OnnxWriter, node: Node, operation: Take) -> None:
    """Gather."""
    name = w.tensor(node)
    indices = w.initializer(np.array(operation.indices, np.int64), f"{name}_indices")
    w.add("Gather", [w.tensor(node.inputs[0]), indices], name, axis=operation.axis)


@written_as_onnx(DepthToSpace)
def write_depth_to_space(w: OnnxWriter, node: Node, o: DepthToSpace) -> None:
    """Reshape, Transpose, Reshape: on codes of either type."""
    n, h, w_, c = image_shape(node.inputs[0].shape, o.layout)
    bh, bw = o.block
    rest = c // (o.groups * bh * bw)
    nchw = o.layout == "NCHW"
    shape = (n, o.groups, bh, bw, rest, h, w_) if nchw else (n, h, w_, o.groups, bh, bw, rest)
    perm = (0, 1, 4, 5, 2, 6, 3) if nchw else (0, 1, 4, 2, 5, 3, 6)
    _write_turned(w, node, shape, perm)


@written_as_onnx(SpaceToDepth)
def write_space_to_depth(w: OnnxWriter, node: Node, o: SpaceToDepth) -> None:
    """Reshape, Transpose, Reshape."""
    n, h, w_, c = image_shape(node.inputs[0].shape, o.layout)
    bh, bw = o.block
    nchw = o.layout == "NCHW"
    shape = (n, c, h // bh, bh, w_ // bw, bw) if nchw else (n, h // bh, bh, w_ // bw, bw, c)
    perm = (0, 3, 5, 1, 2, 4) if nchw else (0, 1, 3, 2, 4, 5)
    _write_turned(w, node, shape, perm)


def _write_turned(w: OnnxWriter, node: Node, shape: Sequence[int], perm: Sequence[int]) -> None:
    name = w.tensor(node)
    split = w.reshaped(w.tensor(node.inputs[0]), shape, f"{name}_split")
    turned = w.transposed(split, perm, f"{name}_turned")
    w.reshaped(turned, node.shape, name)
