"""Resizing: ONNX Resize and Upsample, Keras UpSampling2D."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array
from compiler.ir.types import MAX_ELEMENTS
from compiler.ops.add import Add
from compiler.ops.binary import BinaryFunction
from compiler.ops.depth_to_space import Take
from compiler.ops.gemm import Gemm
from compiler.ops.interpolate import CROP, MODES, Interpolation
from compiler.ops.matmul import MatMul
from compiler.ops.quantize_linear import Dequantize, Quantize
from compiler.ops.shapes import Identity, Reshape
from compiler.ops.slices import Slice
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from isa.support.records import replace

MAX_SCALE: Final = 1024


@onnx_operator("Resize", "Upsample")
def import_resize(n: OnnxNode) -> Node:
    """By constant scales or sizes: nearest neighbour, a gather; linear or cubic, products with matrices."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    mode = n.text("mode", "nearest")
    if mode != "nearest":
        return _interpolated_codes(n, mode) if x.type.dtype.is_code else _interpolated(n, mode)
    axes = [a % rank for a in n.integers("axes", range(rank))]
    sizes, scales = _target(n, axes)
    if n.opset >= 11 and n.text("coordinate_transformation_mode", "") == CROP:
        return _cropped(n, axes, sizes, scales)
    coordinates = _coordinates(n)
    for axis, size, scale in zip(axes, sizes, scales, strict=True):
        extent = x.shape[axis]
        if size == extent and scale == 1:
            continue
        indices = tuple(coordinates(i, extent, size, scale) for i in range(size))
        x = n.before(Take(axis, indices), x, suffix=f"axis{axis}")
    return n.add(Identity(), x)


def _cropped(n: OnnxNode, axes: Sequence[int], sizes: Sequence[int], scales: Sequence[np.float32]) -> Node:
    """The nearest elements of a region; what lies outside of the operand has the value that is given."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    roi = _region(n)
    if len(roi) != 2 * len(axes):
        n.fail(f"roi={roi} for axes {list(axes)}", "two numbers for each axis")
    rounding = n.text("nearest_mode", "round_prefer_floor")
    outside = np.zeros([1] * rank, np.float32)
    for k, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
        if scales[k] == 1:
            continue
        extent, start, end = x.shape[axis], np.float32(roi[k]), np.float32(roi[k + len(axes)])
        reach = np.float32(extent - 1)
        step = (end - start) * reach / np.float32(size - 1) if size > 1 else np.float32(0)
        first = start * reach if size > 1 else np.float32(0.5) * (start + end) * reach
        places = [first + np.float32(i) * step for i in range(size)]
        indices = tuple(min(max(_rounded(rounding, at), 0), extent - 1) for at in places)
        if indices != tuple(range(extent)):
            x = n.before(Take(axis, indices), x, suffix=f"axis{axis}")
        missing = np.array([not 0 <= at <= reach for at in places], np.float32)
        outside = np.maximum(outside, missing.reshape([-1 if d == axis else 1 for d in range(rank)]))
    if not outside.any():
        return n.add(Identity(), x)
    inside = n.const(1 - np.broadcast_to(outside, x.shape), "inside")
    kept = n.before(BinaryFunction("mul"), x, inside, suffix="kept")
    value = outside * np.float32(n.real("extrapolation_value", 0.0))
    return n.add(Add(), kept, n.const(np.ascontiguousarray(np.broadcast_to(value, x.shape)), "outside"))


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
    if min(sizes) < 1 or math.prod(sizes) > MAX_ELEMENTS:
        n.fail(f"the result has the extents {sizes}", f"at least 1 each, {MAX_ELEMENTS} elements")
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


def _interpolated_codes(n: OnnxNode, mode: str) -> Node:
    """Codes of a known scale, as numbers; the result has the same scale."""
    x, (_, *others) = n.operand(0), n.operands
    if (quant := x.type.quant) is None:
        n.fail("codes of no known scale are interpolated", "a result of QuantizeLinear")
    real = n.before(Dequantize(), x, suffix="real")
    inner = replace(n, operands=[real, *others], output=n.unused("resized"))
    return n.add(Quantize(), _interpolated(inner, mode), quant=quant)


def _interpolated(n: OnnxNode, mode: str) -> Node:
    """One product after another, from the first axis to the last."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    old = n.op_type == "Upsample" or n.opset < 11
    transform = "asymmetric" if old else n.text("coordinate_transformation_mode", "half_pixel")
    if mode not in MODES or transform not in (*TRANSFORMS, CROP):
        n.fail(
            f"mode={mode}, {transform} are not supported",
            f"nearest, {', '.join(MODES)}; {', '.join(TRANSFORMS)}",
        )
    axes = [a % rank for a in n.integers("axes", range(rank))]
    sizes, scales = _target(n, axes)
    roi = [0.0] * len(axes) + [1.0] * len(axes)
    if transform == CROP:
        roi = _region(n)
    if len(roi) != 2 * len(axes):
        n.fail(f"roi={roi} for axes {axes}", "two numbers for each axis")
    how = Interpolation(
        mode,
        transform,
        n.real("cubic_coeff_a", -0.75),
        bool(n.integer("exclude_outside", 0)),
        bool(n.integer("antialias", 0)),
    )
    outside = np.zeros([1] * rank, np.float32)
    for i, axis in enumerate(axes):
        extent = x.shape[axis]
        if scales[i] == 1:  # whatever the region: ONNX Runtime looks no further
            continue
        x = _quantized_like(n, x, n.operand(0), f"axis{axis}.given")
        matrix = how.matrix(extent, sizes[i], float(scales[i]), (roi[i], roi[i + len(axes)]))
        x = _product(n, x, axis, matrix.astype(np.float32))
        missing = (matrix == 0).all(axis=1).reshape([-1 if d == axis else 1 for d in range(rank)])
        outside = np.maximum(outside, missing.astype(np.float32))
    value = n.real("extrapolation_value", 0.0)
    if transform != CROP or value == 0 or not outside.any():
        return n.add(Identity(), x)
    full = np.ascontiguousarray(np.broadcast_to(outside * np.float32(value), x.shape))
    return n.add(Add(), x, n.const(full, "outside"))


def _region(n: OnnxNode) -> list[float]:
    """Begin and end along every axis, as shares of the operand."""
    region = [float(v) for v in n.constant(1, "the region").ravel()]
    if not all(math.isfinite(v) and abs(v) <= MAX_SCALE for v in region):
        n.fail(f"roi={region} is not allowed", f"finite numbers of at most {MAX_SCALE}")
    return region


def _quantized_like(n: OnnxNode, x: Node, given: Node, suffix: str) -> Node:
    """A value between two products, quantized as the operand of a quantized model: its range is the same."""
    if x is given or not isinstance(given.op, Dequantize):
        return x
    quant = given.inputs[0].type.quant
    codes = n.graph.add(Quantize(), (x,), name=n.unused(f"{suffix}.codes"), loc=n.loc, quant=quant)
    return n.before(Dequantize(), codes, suffix=suffix)


def _product(n: OnnxNode, x: Node, axis: int, matrix: Array) -> Node:
    """The axis of x, multiplied with a constant matrix."""
    before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    size, extent = int(matrix.shape[0]), int(matrix.shape[1])
    shape = tuple(size if i == axis else d for i, d in enumerate(x.shape))
    if after == 1:
        rows = n.before(Reshape((before, extent)), x, suffix=f"axis{axis}.rows")
        turned: Array = np.ascontiguousarray(matrix.transpose())
        weights = n.const(turned, f"axis{axis}")
        zeros: Array = np.zeros(size, np.float32)
        bias = n.const(zeros, f"axis{axis}.bias")
        made = n.before(Gemm(), rows, weights, bias, suffix=f"axis{axis}.product")
    else:
        columns = n.before(Reshape((before, extent, after)), x, suffix=f"axis{axis}.columns")
        made = n.before(
            MatMul(),
            n.const(matrix.reshape(1, size, extent), f"axis{axis}"),
            columns,
            suffix=f"axis{axis}.product",
        )
    return n.before(Reshape(shape), made, suffix=f"axis{axis}.image")


@gradient_rule(Take)
def take_gradient(d: Differentiator, node: Node, operation: Take, error: Node) -> Errors:
    """Where every element is taken as often as the others, one after another: the sum of its errors."""
    (x,) = node.inputs
    axis, extent = operation.axis, x.shape[operation.axis]
    repeat = len(operation.indices) // extent
    if operation.indices != tuple(i // repeat for i in range(extent * repeat) if repeat):
        d.fail(node, f"'{node.name}' takes some elements more often than others", "all as often, in order")
    rank = len(x.shape)
    steps = tuple(repeat if i == axis else 1 for i in range(rank))
    total: Node | None = None
    for first in range(repeat):
        starts = tuple(first if i == axis else 0 for i in range(rank))
        part = d.add(Slice(starts, x.shape, steps), (error,), node, "part")
        total = part if total is None else d.add(Add(), (total, part), node, "sum")
    return (total,)


@layer("UpSampling2D", "size", "interpolation")
def up_sampling_layer(call: LayerCall) -> Node:
    """UpSampling2D(size=2, interpolation="nearest"): every pixel again and again."""
    x = call.input(4)
    rows, columns = call.pair("size", 2)
    call.choice("interpolation", "nearest", ["nearest"])
    call.done()
    tall = call.add(Take(1, tuple(i // rows for i in range(x.shape[1] * rows))), x, suffix="/rows")
    return call.add(Take(2, tuple(i // columns for i in range(x.shape[2] * columns))), tall)
