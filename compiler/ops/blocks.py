"""Blocks of pixels and channels: ONNX DepthToSpace, SpaceToDepth; gathers along an axis; Resize nearest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from compiler.export.writing import OnnxWriter, written_as_onnx
from compiler.frontend.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import TensorType
from compiler.ops.shapes import Identity
from compiler.ops.spatial import Pair, from_nhwc, image_shape, nhwc, shape_in
from compiler.quantize.rules import Quantizer, quantization_rule

MAX_SCALE: Final = 1024


@op("depth_to_space", "x")
class DepthToSpace(Op):
    """Channels (g, bh, bw, c) of a pixel become a block of bh x bw pixels with channels (g, c)."""

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
class Take(Op):
    """Element i along an axis is element indices[i] of the operand."""

    axis: int
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

    def under(self, perm: Sequence[int]) -> Op:
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
    """Blocks to channels."""
    block = n.integer("blocksize", 1)
    return n.add(SpaceToDepth((block, block), "NCHW"), n.operand(0))


@onnx_operator("Resize", "Upsample")
def import_resize(n: OnnxNode) -> Node:
    """Nearest neighbour, by constant scales or sizes."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    mode = n.text("mode", "nearest")
    if mode != "nearest":
        n.fail(f"mode={mode} is not supported", "nearest")
    if n.integer("antialias", 0):
        n.fail("antialias=1 is not supported", "0")
    axes = [a % rank for a in n.integers("axes", range(rank))]
    sizes, scales = _target(n, axes)
    coordinates = _coordinates(n)
    for axis, size, scale in zip(axes, sizes, scales, strict=True):
        extent = x.shape[axis]
        if size == extent and scale == 1:
            continue
        indices = tuple(coordinates(i, extent, size, scale) for i in range(size))
        x = n.before(Take(axis, indices), x, suffix=f"axis{axis}")
    return n.add(Identity(), x)


def _target(n: OnnxNode, axes: Sequence[int]) -> tuple[list[int], list[np.float32]]:
    """The extents after resizing, and the scales, along the axes."""
    shape = n.operand(0).shape
    given = n.attributes.get("scales")
    index = 1 if n.op_type == "Upsample" or n.opset < 11 else 2
    if given is None and n.maybe(index) is not None and n.operand(index).type.elements:
        given = n.constant(index, "the scales").ravel()
    if given is not None and len(given):
        scales = [np.float32(s) for s in given]
        if len(scales) != len(axes) or not all(0 < s <= MAX_SCALE for s in scales):
            n.fail(f"scales={[float(s) for s in scales]} are not allowed", f"{len(axes)} numbers above 0")
        sizes = [math.floor(np.float32(shape[a]) * s) for a, s in zip(axes, scales, strict=True)]
    else:
        sizes = [int(v) for v in n.constant(3, "the sizes").ravel()]
        if len(sizes) != len(axes):
            n.fail(f"sizes={sizes} for axes {list(axes)}", f"{len(axes)} numbers")
        policy = n.text("keep_aspect_ratio_policy", "stretch")
        if policy not in ("stretch", "not_larger", "not_smaller"):
            n.fail(f"keep_aspect_ratio_policy={policy} is not known", "stretch, not_larger, not_smaller")
        if policy != "stretch":
            ratios = [np.float32(s) / np.float32(shape[a]) for a, s in zip(axes, sizes, strict=True)]
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            sizes = [round(float(ratio * np.float32(shape[a]))) for a in axes]
            return sizes, [ratio] * len(axes)
        scales = [np.float32(s) / np.float32(shape[a]) for a, s in zip(axes, sizes, strict=True)]
    if min(sizes) < 1:
        n.fail(f"the result has the extents {sizes}", "at least 1")
    return sizes, scales


TRANSFORMS: Final = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "asymmetric",
    "align_corners",
)
ROUNDINGS: Final = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
Coordinates = Callable[[int, int, int, np.float32], int]


def _coordinates(n: OnnxNode) -> Coordinates:
    """(output index, extent, size, scale) to the input index, in float32 as ONNX Runtime computes it."""
    old = n.op_type == "Upsample" or n.opset < 11
    transform = "asymmetric" if old else n.text("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else n.text("nearest_mode", "round_prefer_floor")
    if transform not in TRANSFORMS or rounding not in ROUNDINGS:
        n.fail(
            f"coordinate_transformation_mode={transform}, nearest_mode={rounding} are not supported",
            f"{', '.join(TRANSFORMS)}; {', '.join(ROUNDINGS)}",
        )

    def index(i: int, extent: int, size: int, scale: np.float32) -> int:
        value = _rounded(rounding, original(transform, i, extent, size, scale))
        return min(max(value, 0), extent - 1)

    return index


def original(transform: str, i: int, extent: int, size: int, scale: np.float32) -> np.float32:
    """Where in the operand an index of the result lies."""
    half, at = np.float32(0.5), np.float32(i)
    match transform:
        case "align_corners":
            return at * np.float32(extent - 1) / np.float32(size - 1) if size > 1 else np.float32(0)
        case "asymmetric":
            return at / scale
        case "pytorch_half_pixel" if size == 1:
            return np.float32(0)
        case "half_pixel_symmetric":
            adjustment = np.float32(size) / (scale * np.float32(extent))
            center = np.float32(extent) / np.float32(2)
            return center * (np.float32(1) - adjustment) + (at + half) / scale - half
        case _:
            return (at + half) / scale - half


def _rounded(rounding: str, value: np.float32) -> int:
    match rounding:
        case "floor":
            return math.floor(value)
        case "ceil":
            return math.ceil(value)
        case "round_prefer_floor":
            return math.ceil(value - np.float32(0.5))
        case _:
            return math.floor(value + np.float32(0.5))


@layer("UpSampling2D", "size")
def up_sampling_layer(call: LayerCall) -> Node:
    """UpSampling2D(size=2): every pixel again and again."""
    x = call.input(4)
    rows, columns = call.pair("size", 2)
    call.done()
    tall = call.add(Take(1, tuple(i // rows for i in range(x.shape[1] * rows))), x, suffix="/rows")
    return call.add(Take(2, tuple(i // columns for i in range(x.shape[2] * columns))), tall)


@quantization_rule(DepthToSpace, SpaceToDepth, Take)
def quantize_moved_blocks(q: Quantizer, node: Node, inputs: list[Node]) -> Node:
    """The same codes."""
    return q.add(node.op, inputs, node, inputs[0].type.quant)


@written_as_onnx(Take)
def write_take(w: OnnxWriter, node: Node) -> None:
    """Gather."""
    operation = node.op
    assert isinstance(operation, Take)
    name = w.tensor(node)
    indices = w.initializer(np.array(operation.indices, np.int64), f"{name}_indices")
    w.add("Gather", [w.tensor(node.inputs[0]), indices], name, axis=operation.axis)


@written_as_onnx(DepthToSpace)
def write_depth_to_space(w: OnnxWriter, node: Node) -> None:
    """Reshape, Transpose, Reshape: on codes of either type."""
    o = node.op
    assert isinstance(o, DepthToSpace)
    n, h, w_, c = image_shape(node.inputs[0].shape, o.layout)
    bh, bw = o.block
    rest = c // (o.groups * bh * bw)
    nchw = o.layout == "NCHW"
    shape = (n, o.groups, bh, bw, rest, h, w_) if nchw else (n, h, w_, o.groups, bh, bw, rest)
    perm = (0, 1, 4, 5, 2, 6, 3) if nchw else (0, 1, 4, 2, 5, 3, 6)
    _write_turned(w, node, shape, perm)


@written_as_onnx(SpaceToDepth)
def write_space_to_depth(w: OnnxWriter, node: Node) -> None:
    """Reshape, Transpose, Reshape."""
    o = node.op
    assert isinstance(o, SpaceToDepth)
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
