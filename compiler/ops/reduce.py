"""Reductions: ONNX ReduceMean, ReduceSum, ReduceMax, GlobalAveragePool, GlobalMaxPool and their like.

On integers a mean is the integer sum of QLinearGlobalAveragePool, over whatever axes: ONNX Runtime adds real
numbers in an order of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Groups, Op, ShapeError, group_of, op
from compiler.ir.types import DType, Shape, TensorType
from compiler.ir.work import Work
from compiler.ops.activation import QTable
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.shapes import Reshape
from compiler.ops.sliding_window import TO_NCHW, TO_NHWC, scale_of, zero_of
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.exporting import MICROSOFT, OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic
from isa.support.records import replace

AXES_OPERAND: Final = {"ReduceSum": 13}
"""Since this opset the axes are an operand; of the others since 18."""
REAL: Final[dict[str, Callable[..., Array]]] = {
    "mean": np.mean,
    "sum": np.sum,
    "max": partial(np.max, initial=-np.inf),
    "min": partial(np.min, initial=np.inf),
}
RANK: Final = 4
IMAGE_AXES: Final = (1, 2)


def _reduced(shape: Shape, axes: Sequence[int]) -> Shape:
    if not axes or sorted(set(axes)) != list(axes) or not 0 <= axes[0] <= axes[-1] < len(shape):
        raise ShapeError(f"axes={list(axes)} of rank {len(shape)}", "ascending axes")
    return tuple(1 if i in axes else d for i, d in enumerate(shape))


@op("nn.reduce", "x:f32")
class Reduce(Op):
    """mean, sum, max or min over axes, which stay with extent 1."""

    function: str
    axes: tuple[int, ...]

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        if self.function not in REAL:
            raise ShapeError(f"there is no reduction '{self.function}'", ", ".join(REAL))
        return TensorType(types[0].dtype, _reduced(types[0].shape, self.axes))

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        return Reduce(self.function, tuple(sorted(perm[axis] for axis in self.axes)))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return REAL[self.function](args[0], axis=self.axes, keepdims=True).astype(np.float32)


@op("nn.spread", "x:f32")
class Spread(Op):
    """A value along axes of extent 1, times a factor, at every place of a shape."""

    shape: Shape
    factor: float = 1.0

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        x = types[0].shape
        if len(x) != len(self.shape) or any(a not in (1, n) for a, n in zip(x, self.shape, strict=True)):
            raise ShapeError(f"{list(x)} cannot be spread over {list(self.shape)}", "extents equal or 1")
        return TensorType(DType.F32, self.shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return np.broadcast_to(args[0] * np.float32(self.factor), self.shape).copy()


@gradient_rule(Reduce)
def reduce_gradient(d: Differentiator, node: Node, operation: Reduce, error: Node) -> Errors:
    """A sum gives its error to every element, a mean in equal parts."""
    (x,) = node.inputs
    if operation.function not in ("mean", "sum"):
        d.fail(node, f"'{node.name}' is a {operation.function} over axes, which has no gradient", "mean, sum")
    count = x.type.elements // node.type.elements if operation.function == "mean" else 1
    return (d.add(Spread(x.shape, 1 / count), (error,), node),)


def summed_to(d: Differentiator, node: Node, error: Node, shape: Shape) -> Node:
    """The error of an operand of another shape that was broadcast to that of the error."""
    axes = tuple(i for i, (n, m) in enumerate(zip(error.shape, shape, strict=True)) if n != m)
    return d.add(Reduce("sum", axes), (error,), node, "summed") if axes else error


def channel_sums(d: Differentiator, node: Node, error: Node, axis: int) -> Node:
    """The error of a bias: the sums of every channel."""
    axes = tuple(i for i in range(len(error.shape)) if i != axis)
    summed = d.add(Reduce("sum", axes), (error,), node, "sums")
    return d.add(Reshape((error.shape[axis],)), (summed,), node, "bias_gradient")


@op("q.reduce", "x:i8|u8")
class QReduce(Op):
    """`mean` and `sum` from an integer sum, `meanf` from a float32 sum in ascending index, `max`."""

    function: str
    axes: tuple[int, ...]

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        if self.function not in ("mean", "sum", "meanf", "max"):
            raise ShapeError(f"there is no reduction '{self.function}'", "mean, sum, meanf, max")
        return TensorType(DType.I8, _reduced(types[0].shape, self.axes))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        x, bounds = args[0], out.dtype.bounds
        if self.function == "max":
            return np.max(x, axis=self.axes, keepdims=True)
        if self.function == "meanf":
            last = np.moveaxis(x, self.axes, range(len(self.axes)))
            entries = last.reshape(-1, *last.shape[len(self.axes) :])
            real = arithmetic.dequantize(entries, scale_of(types[0]), zero_of(types[0]))
            y = arithmetic.mean_real(real, scale_of(out), zero_of(out), *bounds)
        else:
            total = (x.astype(np.int64) - zero_of(types[0])).sum(axis=self.axes)
            m = self.constants(types, out)[0]
            y = arithmetic.requantize(arithmetic.wrap32(total), 0, m, zero_of(out), *bounds)
        return y.astype(out.dtype.numpy).reshape(out.shape)

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """Every element of the operand once."""
        del out
        return Work(types[0].elements)

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """The multiplier of the sum, or the scales of input and output."""
        x, y = np.float32(scale_of(types[0])), np.float32(scale_of(out))
        count = math.prod(types[0].shape[a] for a in self.axes)
        if self.function == "meanf":
            return np.array([x, y], np.float32)
        return np.array([x / (y * np.float32(count if self.function == "mean" else 1))], np.float32)

    def is_on_device(self, rank: int) -> bool:
        """Whether one instruction reduces these axes: rows, columns, channels, or neighbours of these."""
        first, last = (a + RANK - rank for a in (self.axes[0], self.axes[-1]))
        return first >= 1 and last - first == len(self.axes) - 1

    def axis_roles(self, types: Sequence[TensorType], out: TensorType) -> Sequence[object]:
        return ["reduced" if i in self.axes else None for i in range(len(out.shape))]

    def with_axes(self, groups: Groups) -> Op:
        return QReduce(self.function, tuple(sorted({group_of(a, groups) for a in self.axes})))

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        return QReduce(self.function, tuple(sorted(perm[a] for a in self.axes)))


@onnx_operator("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def import_reduce(n: OnnxNode) -> Node:
    """Constant axes: an attribute, or an operand in later operator sets."""
    x, axes = n.operand(0), reduction_axes(n)
    if axes is None:
        return n.add(Reshape(x.shape), x)
    function = n.op_type.removeprefix("Reduce").lower()
    return reduced(n, x, function, axes, keep=bool(n.integer("keepdims", 1)))


def reduction_axes(n: OnnxNode) -> tuple[int, ...] | None:
    """The axes that a node reduces, ascending; None where it says that none are."""
    rank = len(n.operand(0).shape)
    given = n.attributes.get("axes")
    if given is None and n.maybe(1) is not None:
        given = n.constant(1, "the axes").ravel()
    axes = [int(a) for a in given] if given is not None else []
    if not axes and n.integer("noop_with_empty_axes", 0):
        return None
    if not all(-rank <= a < rank for a in axes):
        n.fail(f"axes={axes} are not allowed for rank {rank}", f"{-rank} to {rank - 1}")
    return tuple(sorted({a % rank for a in axes} or range(rank)))


def reduced(n: OnnxNode, x: Node, function: str, axes: tuple[int, ...], *, keep: bool) -> Node:
    """A reduction, and a reshape where the axes are not kept."""
    left = tuple(d for i, d in enumerate(x.shape) if i not in axes)
    operation = Reduce(function, axes)
    if keep:
        return n.add(operation, x)
    return n.add(Reshape(left), n.before(operation, x, suffix="kept"))


@onnx_operator("GlobalAveragePool", "GlobalMaxPool")
def import_global_pool(n: OnnxNode) -> Node:
    """Over all dimensions but batch and channels."""
    rank = len(n.operand(0).shape)
    if rank < RANK - 1:
        n.fail(f"{n.op_type} on the shape {list(n.operand(0).shape)} is not supported", "rank 3 or 4")
    function = "mean" if n.op_type == "GlobalAveragePool" else "max"
    return n.add(Reduce(function, tuple(range(2, rank))), n.operand(0))


qlinear("QLinearGlobalAveragePool", QLinear("GlobalAveragePool", [(0, 1, 2)], (3, 4)), MICROSOFT)
qlinear("QLinearReduceMean", QLinear("ReduceMean", [(0, 1, 2)], (3, 4)), MICROSOFT)


@layer("GlobalAveragePooling2D", "keepdims")
def global_average_layer(call: LayerCall) -> Node:
    """GlobalAveragePooling2D(keepdims=false)."""
    return _global_layer(call, "mean")


@layer("GlobalMaxPooling2D", "keepdims")
def global_max_layer(call: LayerCall) -> Node:
    """GlobalMaxPooling2D(keepdims=false)."""
    return _global_layer(call, "max")


def _global_layer(call: LayerCall, function: str) -> Node:
    x, keep = call.input(RANK), call.flag("keepdims", default=False)
    call.done()
    operation = Reduce(function, IMAGE_AXES)
    if keep:
        return call.add(operation, x)
    kept = call.add(operation, x, suffix="/kept")
    return call.add(Reshape((x.shape[0], x.shape[3])), kept)


@quantization_rule(Reduce)
def quantize_reduce(q: Quantizer, node: Node, operation: Reduce, inputs: list[Node]) -> Node:
    """Maxima are codes of the operand; means and sums are integer sums, and have a scale of their own."""
    if operation.function == "max":
        return q.add(QReduce("max", operation.axes), inputs, node, inputs[0].type.quant)
    if operation.function == "min":
        return _minimum(q, node, inputs[0], operation.axes)
    return q.add(QReduce(operation.function, operation.axes), inputs, node, q.chosen(node))


def _minimum(q: Quantizer, node: Node, x: Node, axes: tuple[int, ...]) -> Node:
    """-max(-x): negated codes are exact under the mirrored zero point."""
    quant = x.quant
    least, greatest = quant.dtype.bounds
    mirrored = replace(quant, zero_point=least + greatest - quant.zero_point)
    turned = q.before(QTable("neg", ()), [x], node, mirrored, "negated")
    most = q.before(QReduce("max", axes), [turned], node, mirrored, "greatest")
    return q.add(QTable("neg", ()), [most], node, quant)


@written_as_onnx(QReduce)
def write_reduce(w: OnnxWriter, node: Node, operation: QReduce) -> None:
    """Integer sums as QLinearGlobalAveragePool or QLinearConv, others in real numbers."""
    if operation.function == "mean":
        _write_global(w, node, operation.axes)
        return
    if operation.function == "sum":
        _write_sum(w, node, operation.axes)
        return

    def compute(reals: Sequence[str], output: str) -> str:
        op_type = {"meanf": "ReduceMean", "max": "ReduceMax"}[operation.function]
        return w.add(op_type, reals, output, axes=list(operation.axes), keepdims=1)

    w.in_reals(node, compute)


def _write_sum(w: OnnxWriter, node: Node, axes: tuple[int, ...]) -> None:
    """A convolution with ones: what is reduced are the channels of images of one pixel."""
    (x,) = node.inputs
    name = w.tensor(node)
    rows, terms = _turned_rows(w, x, axes, name)
    image = w.reshaped(rows, (node.type.elements, terms, 1, 1), f"{name}_image")
    ones = w.initializer(np.ones((1, terms, 1, 1), np.int8), f"{name}_ones")
    one = [
        w.initializer(np.array(1, np.float32), f"{name}_one"),
        w.initializer(np.array(0, np.int8), f"{name}_zero"),
    ]
    inputs = [image, w.scale(x), w.zero_point(x), ones, *one, w.scale(node), w.zero_point(node)]
    w.add("QLinearConv", inputs, f"{name}_summed", kernel_shape=[1, 1])
    w.reshaped(f"{name}_summed", node.shape, name)


def _turned_rows(w: OnnxWriter, x: Node, axes: tuple[int, ...], name: str) -> tuple[str, int]:
    """The operand with what is reduced behind all else, and how many terms a sum has."""
    kept = [i for i in range(len(x.shape)) if i not in axes]
    turned = w.transposed(w.tensor(x), (*kept, *axes), f"{name}_turned")
    return turned, math.prod(x.shape[a] for a in axes)


def _write_global(w: OnnxWriter, node: Node, axes: tuple[int, ...]) -> None:
    """A mean as that of an image whose rows are what is reduced, the rest its batch and channels."""
    (x,) = node.inputs
    name = w.tensor(node)
    scales = [w.scale(x), w.zero_point(x), w.scale(node), w.zero_point(node)]
    if len(x.shape) == RANK and axes in ((1, 2), (2, 3)):
        nhwc = axes == IMAGE_AXES
        source = w.transposed(w.tensor(x), TO_NCHW, f"{name}_nchw") if nhwc else w.tensor(x)
        output = f"{name}_pooled" if nhwc else name
        w.add("QLinearGlobalAveragePool", [source, *scales], output, domain=MICROSOFT, channels_last=0)
        if nhwc:
            w.transposed(output, TO_NHWC, name)
        return
    turned, terms = _turned_rows(w, x, axes, name)
    image = w.reshaped(turned, (node.type.elements, 1, terms, 1), f"{name}_image")
    w.add("QLinearGlobalAveragePool", [image, *scales], f"{name}_pooled", domain=MICROSOFT, channels_last=0)
    w.reshaped(f"{name}_pooled", node.shape, name)
