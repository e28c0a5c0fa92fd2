"""Operators made of means, squares and roots: ONNX LayerNormalization and its like, LRN, norms, LogSoftmax.

The statistics are quantized as every other tensor is, each with a scale of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op
from compiler.ops.activation import Clamp, Unary
from compiler.ops.add import Add
from compiler.ops.affine import Affine
from compiler.ops.batch_norm import SPATIAL_OPSET, BatchNorm
from compiler.ops.binary import BinaryFunction
from compiler.ops.broadcasting import same_rank
from compiler.ops.conv2d import Conv2d
from compiler.ops.depth_to_space import Take
from compiler.ops.reduce import Reduce, reduced, reduction_axes
from compiler.ops.shapes import INFERENCE_OPSET, Identity, Reshape
from compiler.rules.importing import OnnxNode, is_parameter, known_values, onnx_operator
from isa.support.records import Frozen

GROUPED_OPSET: Final = 21
"""Since this opset GroupNormalization has a scale for each channel; before, one for each group."""
ONE_AXIS_OPSET: Final = 13
"""Since this opset LogSoftmax is over one axis."""
NORMS: Final[dict[str, tuple[str | None, str | None]]] = {
    "ReduceL1": ("abs", None),
    "ReduceL2": ("square", "sqrt"),
    "ReduceSumSquare": ("square", None),
    "ReduceLogSum": (None, "log"),
    "ReduceLogSumExp": ("exp", "log"),
}
"""The function of every element before the sum, and that of the sum."""
LEAST_NORM: Final = 2.0**-100
"""What a norm of 0 counts as: 0 / 0 is 0 then, as ONNX Runtime has it."""


class Normalized(Frozen):
    """A value of mean 0 and variance 1, and what made it so."""

    value: Node
    mean: Node
    variance: Node
    factor: Node


def normalized(n: OnnxNode, x: Node, axes: Sequence[int], epsilon: float) -> Normalized:
    """(x - mean) / sqrt(variance + epsilon) over axes."""
    over = tuple(axes)
    mean = n.before(Reduce("mean", over), x, suffix="mean")
    centred = n.before(BinaryFunction("sub"), x, mean, suffix="centred")
    squared = n.before(Unary("square"), centred, suffix="squared")
    variance = n.before(Reduce("mean", over), squared, suffix="variance")
    factor = n.before(Unary("inverse_root", (epsilon,)), variance, suffix="factor")
    value = n.before(BinaryFunction("mul"), centred, factor, suffix="normalized")
    return Normalized(value, mean, variance, factor)


def _epsilon(n: OnnxNode) -> float:
    epsilon = n.real("epsilon", 1e-5)
    if epsilon < 0:
        n.fail(f"epsilon={epsilon} is not allowed", "at least 0")
    return float(np.float32(epsilon))


def _scaled(n: OnnxNode, x: Node, gain: Node, offset: Node | None, axis: int) -> Node:
    """x * gain + offset: one number for each index of an axis, or numbers that broadcast to x."""
    constant = is_parameter(gain) and (offset is None or is_parameter(offset))
    if constant and gain.shape == (x.shape[axis],) and (offset is None or offset.shape == gain.shape):
        row = known_values(gain)
        rest: Array = np.zeros_like(row) if offset is None else known_values(offset)
        return n.add(Affine(axis), x, n.const(row, "gain"), n.const(rest, "offset"))
    if offset is None:
        return n.add(BinaryFunction("mul"), *same_rank(n, [x, gain]))
    scaled = n.before(BinaryFunction("mul"), *same_rank(n, [x, gain]), suffix="scaled")
    return n.add(Add(), *same_rank(n, [scaled, offset]))


def _along(n: OnnxNode, row: Node, rank: int, suffix: str) -> Node:
    """One number for each channel, to be broadcast to images; constants stay a row."""
    if is_parameter(row):
        return row
    return n.before(Reshape((*row.shape, *(1,) * (rank - 2))), row, suffix=suffix)


@onnx_operator("BatchNormalization")
def import_batch_norm(n: OnnxNode) -> Node | list[Node]:
    """With constant statistics; with training_mode=1 with those of the batch, and running ones as results."""
    if n.opset < INFERENCE_OPSET and not n.integer("is_test", 0):
        n.fail("is_test=0 is not supported", "is_test=1")
    if n.opset < SPATIAL_OPSET and not n.integer("spatial", 1):
        n.fail("spatial=0 is not supported", "spatial=1")
    channels = n.operand(0).shape[1:2]
    shapes = [n.operand(i).shape for i in range(1, 5)]
    if not channels or any(shape != channels for shape in shapes):
        n.fail(f"the statistics have the shapes {[list(s) for s in shapes]}", f"{list(channels)} each")
    if n.integer("training_mode", 0):
        return _of_batch(n)
    if n.outputs > 1:
        n.fail("further results without training_mode=1 are not supported", "one output")
    rows = [_row(n, i, what) for i, what in enumerate(("scale", "B", "mean", "var"), 1)]
    operation = BatchNorm(1, n.real("epsilon", 1e-5), (), n.real("momentum", 0.9))
    return n.add(operation, n.operand(0), *rows)


def _row(n: OnnxNode, index: int, what: str) -> Node:
    """A parameter as it is, or what its codes stand for."""
    value, given = n.constant(index, what), n.operand(index)
    return given if given.is_constant else n.const(value.astype(np.float32), what)


def _of_batch(n: OnnxNode) -> list[Node]:
    """By the statistics of the batch; then the running mean and variance."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    made = normalized(n, x, [i for i in range(rank) if i != 1], _epsilon(n))
    gain, offset = (_along(n, n.operand(i), rank, f"row{i}") for i in (1, 2))
    results = [_scaled(n, made.value, gain, offset, 1)]
    momentum = np.float32(n.real("momentum", 0.9))
    running = zip(n.output_names[1:3], (3, 4), (made.mean, made.variance), strict=False)
    for name, index, found in running:
        before = n.constant(index, "the running statistics").astype(np.float32)
        row = n.before(Reshape(before.shape), found, suffix=f"row{index}")
        share = n.const(np.full(before.shape, 1 - momentum, np.float32), f"share{index}")
        new = n.before(BinaryFunction("mul"), row, share, suffix=f"new{index}")
        results.append(
            n.graph.add(Add(), (new, n.const(before * momentum, f"old{index}")), name=name, loc=n.loc)
        )
    return results


@onnx_operator("LayerNormalization")
def import_layer_norm(n: OnnxNode) -> list[Node]:
    """Over the axes from `axis` on; mean and inverse deviation may be results too."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    axis = n.axis(rank, -1)
    made = normalized(n, x, range(axis, rank), _epsilon(n))
    y = _scaled(n, made.value, n.operand(1), n.maybe(2), rank - 1)
    names = n.output_names[1:]
    return [
        y,
        *(
            n.graph.add(Identity(), (value,), name=name, loc=n.loc)
            for value, name in zip((made.mean, made.factor), names, strict=False)
        ),
    ]


@onnx_operator("InstanceNormalization")
def import_instance_norm(n: OnnxNode) -> Node:
    """Of every channel of every image."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    made = normalized(n, x, range(2, rank), _epsilon(n))
    gain, offset = (_along(n, n.operand(i), rank, f"row{i}") for i in (1, 2))
    return _scaled(n, made.value, gain, offset, 1)


@onnx_operator("GroupNormalization")
def import_group_norm(n: OnnxNode) -> Node:
    """Of every group of channels; scale and bias for each group, since opset 21 for each channel."""
    x, rank, groups = n.operand(0), len(n.operand(0).shape), n.integer("num_groups", 1)
    if rank < 3:
        n.fail(f"groups of channels of the shape {list(x.shape)} are not supported", "images")
    batch, channels = x.shape[:2]
    if groups < 1 or channels % groups:
        n.fail(f"num_groups={groups} of {channels} channels", "a divisor")
    rows = n.before(Reshape((batch, groups, x.type.elements // (batch * groups))), x, suffix="groups")
    made = normalized(n, rows, (2,), _epsilon(n))
    image = n.before(Reshape(x.shape), made.value, suffix="image")
    each = [n.operand(i) for i in (1, 2)]
    if n.opset < GROUPED_OPSET:
        index = tuple(i * groups // channels for i in range(channels))
        each = [n.before(Take(0, index), row, suffix=f"repeated{i}") for i, row in enumerate(each)]
    gain, offset = (_along(n, row, rank, f"row{i}") for i, row in enumerate(each))
    return _scaled(n, image, gain, offset, 1)


@onnx_operator("MeanVarianceNormalization")
def import_mean_variance(n: OnnxNode) -> Node:
    """Over constant axes."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    axes = sorted(a % rank for a in n.integers("axes", (0, 2, 3)))
    made = normalized(n, x, axes, float(np.float32(1e-9)))
    return n.add(Identity(), made.value)


@onnx_operator("LpNormalization")
def import_lp_norm(n: OnnxNode) -> Node:
    """p = 1 or 2, along one axis."""
    x, p = n.operand(0), n.integer("p", 2)
    axis = n.axis(len(x.shape), -1)
    if p not in (1, 2):
        n.fail(f"p={p} is not allowed", "1, 2")
    powers = n.before(Unary("abs" if p == 1 else "square"), x, suffix="powers")
    total = n.before(Reduce("sum", (axis,)), powers, suffix="total")
    norm = total if p == 1 else n.before(Unary("sqrt"), total, suffix="norm")
    least = n.before(Clamp(LEAST_NORM, math.inf), norm, suffix="least")
    return n.add(BinaryFunction("div"), x, least)


@onnx_operator("LRN")
def import_lrn(n: OnnxNode) -> Node:
    """x / (bias + alpha / size * the sum of squares of neighbouring channels) ^ beta."""
    x, size = n.operand(0), n.integer("size", 0)
    alpha, beta, bias = n.real("alpha", 1e-4), n.real("beta", 0.75), n.real("bias", 1.0)
    if len(x.shape) < 3 or size < 1:
        n.fail(f"size={size} on the shape {list(x.shape)} is not allowed", "at least 1, on images")
    batch, channels = x.shape[:2]
    near = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    window = (near >= -((size - 1) // 2)) & (near <= size - 1 - (size - 1) // 2)
    weights = (window * np.float32(alpha / size)).astype(np.float32).reshape(channels, channels, 1, 1)
    row = np.full(channels, bias, np.float32)
    squared = n.before(Unary("square"), x, suffix="squared")
    image = n.before(
        Reshape((batch, channels, 1, x.type.elements // (batch * channels))), squared, suffix="image"
    )
    conv = Conv2d((1, 1), (0, 0, 0, 0), (1, 1), "NCHW")
    sums = n.before(conv, image, n.const(weights, "window"), n.const(row, "bias"), suffix="sums")
    factor = n.before(Unary("power", (float(np.float32(-beta)),)), sums, suffix="factor")
    return n.add(BinaryFunction("mul"), x, n.before(Reshape(x.shape), factor, suffix="factors"))


@onnx_operator("LogSoftmax")
def import_log_softmax(n: OnnxNode) -> Node:
    """x - max - log(sum(exp(x - max))); before opset 13 the dimensions from `axis` on are one."""
    x, shape = n.operand(0), n.operand(0).shape
    axis = n.axis(len(shape), -1 if n.opset >= ONE_AXIS_OPSET else 1)
    length = math.prod(shape[axis:])
    if n.opset < ONE_AXIS_OPSET and length != shape[axis]:
        x, axis = n.before(Reshape((x.type.elements // length, length)), x, suffix="rows"), 1
    shifted, total = _exponentials(n, x, (axis,))
    logarithm = n.before(Unary("log"), total, suffix="logarithm")
    if x.shape == shape:
        return n.add(BinaryFunction("sub"), shifted, logarithm)
    return n.add(Reshape(shape), n.before(BinaryFunction("sub"), shifted, logarithm, suffix="result"))


def _exponentials(n: OnnxNode, x: Node, axes: tuple[int, ...]) -> tuple[Node, Node]:
    """x - max, and the sum of its exponentials, over axes."""
    most = n.before(Reduce("max", axes), x, suffix="most")
    shifted = n.before(BinaryFunction("sub"), x, most, suffix="shifted")
    powers = n.before(Unary("exp"), shifted, suffix="powers")
    return shifted, n.before(Reduce("sum", axes), powers, suffix="total")


@onnx_operator("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
def import_norm(n: OnnxNode) -> Node:
    """Constant axes; the absolute values, the squares or the exponentials are summed."""
    x, axes = n.operand(0), reduction_axes(n)
    if axes is None:
        return n.add(Reshape(x.shape), x)
    first, last = NORMS[n.op_type]
    keep = bool(n.integer("keepdims", 1))
    if n.op_type == "ReduceLogSumExp":
        shifted_from = n.before(Reduce("max", axes), x, suffix="greatest")
        _, total = _exponentials(n, x, axes)
        logarithm = n.before(Unary("log"), total, suffix="logarithm")
        return _kept(n, Add(), axes, logarithm, shifted_from, keep=keep)
    powers = x if first is None else n.before(Unary(first), x, suffix="powers")
    if last is None:
        return reduced(n, powers, "sum", axes, keep=keep)
    return _kept(n, Unary(last), axes, n.before(Reduce("sum", axes), powers, suffix="total"), keep=keep)


def _kept(n: OnnxNode, operation: Op, axes: Sequence[int], *operands: Node, keep: bool) -> Node:
    """A result whose reduced axes have extent 1: with them, or without."""
    if keep:
        return n.add(operation, *operands)
    made = n.before(operation, *operands, suffix="kept")
    return n.add(Reshape(tuple(d for i, d in enumerate(made.shape) if i not in axes)), made)
