"""Parts of tensors: ONNX Slice, Split, Gather, Pad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Groups, Op, ShapeError, StridedCopy, op
from compiler.ir.types import MAX_ELEMENTS, Shape, TensorType
from compiler.ops.depth_to_space import Take
from compiler.ops.quantize_linear import Dequantize, Quantize
from compiler.ops.shape_arithmetic import known
from compiler.ops.shapes import Reshape
from compiler.ops.sliding_window import MAX_PAD
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.exporting import OnnxWriter, written_as_onnx
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.partitioning import Part, part_rule
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic
from isa.program import Box
from isa.support.records import replace

ATTRIBUTES_OPSET: Final = 10
"""Before this opset starts, ends and axes of Slice are attributes."""


def turned_back(values: Sequence[int], perm: Sequence[int]) -> tuple[int, ...]:
    """Values of the axes of transpose(x, perm), in the order of the axes of x."""
    back: list[int] = np.argsort(perm).tolist()
    return tuple(values[i] for i in back)


@op("slice", "x")
class Slice(StridedCopy):
    """Every step-th element from start on, `counts` of them, along every axis; steps may be negative."""

    starts: tuple[int, ...]
    counts: tuple[int, ...]
    steps: tuple[int, ...]

    def taken(self, shape: Sequence[int]) -> Sequence[tuple[int, int, int]]:
        if not len(shape) == len(self.starts) == len(self.counts) == len(self.steps):
            raise ShapeError(f"a slice of {len(self.starts)} axes of {list(shape)}", f"{len(shape)}")
        return tuple(zip(self.starts, self.counts, self.steps, strict=True))

    def axis_roles(self, types: Sequence[TensorType], out: TensorType) -> Sequence[object]:
        taken = self.taken(types[0].shape)
        return [
            None if t == (0, n, 1) else i for i, (t, n) in enumerate(zip(taken, types[0].shape, strict=True))
        ]

    def with_axes(self, groups: Groups) -> Op:
        starts, counts, steps = zip(*(_merged_taken(self, group) for group in groups), strict=True)
        return Slice(starts, counts, steps)

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        return Slice(*(turned_back(v, perm) for v in (self.starts, self.counts, self.steps)))


def _merged_taken(operation: Slice, group: Sequence[int]) -> tuple[int, int, int]:
    """What is taken along axes that become one: all of every one, where there are several."""
    if len(group) == 1:
        (axis,) = group
        return operation.starts[axis], operation.counts[axis], operation.steps[axis]
    return 0, math.prod(operation.counts[i] for i in group), 1


@onnx_operator("Slice")
def import_slice(n: OnnxNode) -> Node:
    """Constant starts, ends, axes and steps."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    if n.opset < ATTRIBUTES_OPSET:
        starts, ends = list(n.integers("starts", ())), list(n.integers("ends", ()))
        axes, steps = list(n.integers("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = (integers_of(n, i, w) for i, w in ((1, "the starts"), (2, "the ends")))
        axes = integers_of(n, 3, "the axes") if n.maybe(3) is not None else list(range(len(starts)))
        steps = integers_of(n, 4, "the steps") if n.maybe(4) is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or not all(-rank <= a < rank for a in axes):
        n.fail(f"starts={starts}, ends={ends}, axes={axes}, steps={steps} do not go together")
    begin, count, step = [0] * rank, list(x.shape), [1] * rank
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        if stride == 0:
            n.fail("a step is 0", "another number")
        chosen = range(x.shape[axis])[slice(start, end, stride)]
        if not chosen:
            return nothing(n, x, axis)
        begin[axis], count[axis], step[axis] = chosen[0], len(chosen), stride if len(chosen) > 1 else 1
    return n.add(Slice(tuple(begin), tuple(count), tuple(step)), x)


def nothing(n: OnnxNode, x: Node, axis: int, extents: Shape = (0,)) -> Node:
    """Of a value no element of one axis, whose place extents of no elements take: a constant."""
    axis %= len(x.shape)
    shape = (*x.shape[:axis], *extents, *x.shape[axis + 1 :])
    return n.graph.const(np.zeros(shape, x.type.dtype.numpy), n.output, n.loc)


def integers_of(n: OnnxNode, index: int, what: str) -> list[int]:
    """The whole numbers of a constant operand."""
    return [int(v) for v in n.constant(index, what).ravel()]


def part(x: Node, axis: int, span: range) -> Slice:
    """The slice of a range along one axis."""
    starts = tuple(span[0] if i == axis else 0 for i in range(len(x.shape)))
    counts = tuple(len(span) if i == axis else d for i, d in enumerate(x.shape))
    steps = tuple(span.step if i == axis and len(span) > 1 else 1 for i in range(len(x.shape)))
    return Slice(starts, counts, steps)


@onnx_operator("Gather")
def import_gather(n: OnnxNode) -> Node:
    """Constant indices along one axis, any of them; their shape takes the axis' place."""
    x, indices = n.operand(0), n.constant(1, "the indices").astype(np.int64)
    axis = n.axis(len(x.shape), 0)
    extent = x.shape[axis]
    if indices.size and (indices.min() < -extent or indices.max() >= extent):
        n.fail(f"indices outside {-extent}..{extent - 1}")
    indices = np.where(indices < 0, indices + extent, indices)
    if x.is_constant:
        return known(n, np.take(x.constant, indices, axis))
    row: list[int] = indices.ravel().tolist()
    if not row:
        return nothing(n, x, axis, indices.shape)
    span = range(row[0], row[0] + len(row))
    operation = part(x, axis, span) if row == list(span) else Take(axis, tuple(row))
    if indices.ndim == 1:
        return n.add(operation, x)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return n.add(Reshape(shape), n.before(operation, x, suffix="picked"))


@onnx_operator("Split")
def import_split(n: OnnxNode) -> Node | list[Node]:
    """Consecutive parts along an axis."""
    x, axis = n.operand(0), n.axis(len(n.operand(0).shape), 0)
    sizes = list(n.integers("split", ()))
    if not sizes and n.maybe(1) is not None:
        sizes = integers_of(n, 1, "the sizes")
    if not sizes:
        parts = n.integer("num_outputs", len(n.output_names))
        if not 1 <= parts <= max(len(n.output_names), x.shape[axis]):
            n.fail(f"num_outputs={parts} of axis {axis} of {list(x.shape)}", f"{len(n.output_names)}")
        size = -(-x.shape[axis] // parts)
        sizes = [min(size, x.shape[axis] - i * size) for i in range(parts)]
    if min(sizes) < 0 or sum(sizes) != x.shape[axis] or len(sizes) < len(n.output_names):
        n.fail(
            f"split={sizes} of axis {axis} of {list(x.shape)}",
            f"sizes of at least 0, {x.shape[axis]} together",
        )
    ends = np.cumsum(sizes)
    return [
        n.graph.add(part(x, axis, range(int(e) - size, int(e))), (x,), name=name, loc=n.loc)
        if size
        else nothing(n, x, axis)
        for size, e, name in zip(sizes, ends, n.output_names, strict=False)
    ]


@op("nn.pad", "x:f32")
class Pad(Op):
    """A constant before and after every axis, or edge, reflect or wrap."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str
    value: float

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        shape = padded_shape(types[0], self.before, self.after, self.mode)
        return TensorType(types[0].dtype, shape)

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        before, after = (turned_back(v, perm) for v in (self.before, self.after))
        return Pad(before, after, self.mode, self.value)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return pad_array(args[0], self.before, self.after, self.mode, np.float32(self.value))


@gradient_rule(Pad)
def pad_gradient(d: Differentiator, node: Node, operation: Pad, error: Node) -> Errors:
    """What is not padding."""
    (x,) = node.inputs
    if operation.mode != "constant":
        d.fail(node, f"'{node.name}' pads in mode {operation.mode}, which has no gradient", "constant")
    return (d.add(Slice(operation.before, x.shape, (1,) * len(x.shape)), (error,), node),)


@op("q.pad", "x:i8|u8")
class QPad(Op):
    """The same on codes; `value` is a code."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str
    value: int

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(
            types[0].dtype, padded_shape(types[0], self.before, self.after, self.mode), types[0].quant
        )

    def axis_roles(self, types: Sequence[TensorType], out: TensorType) -> Sequence[object]:
        return [i if self.before[i] or self.after[i] else None for i in range(len(out.shape))]

    def with_axes(self, groups: Groups) -> Op:
        before, after = (tuple(sum(v[i] for i in g) for g in groups) for v in (self.before, self.after))
        return QPad(before, after, self.mode, self.value)

    def commute_transpose(self, perm: Sequence[int]) -> Op:
        before, after = (turned_back(v, perm) for v in (self.before, self.after))
        return QPad(before, after, self.mode, self.value)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return pad_array(args[0], self.before, self.after, self.mode, self.value)


MODES: Final = ("constant", "edge", "reflect", "wrap")


def padded_shape(x: TensorType, before: Sequence[int], after: Sequence[int], mode: str) -> tuple[int, ...]:
    """The shape after padding; reflection needs more elements than it repeats.

    Raises:
        ShapeError: pads that do not fit the tensor.
    """
    if mode not in MODES or not len(before) == len(after) == len(x.shape) or min(*before, *after) < 0:
        raise ShapeError(
            f"pads {list(before)} and {list(after)} of mode '{mode}'",
            f"pads of at least 0, {', '.join(MODES)}",
        )
    most = {"reflect": -1, "wrap": 0}.get(mode)
    if most is not None and any(max(b, a) > d + most for b, a, d in zip(before, after, x.shape, strict=True)):
        raise ShapeError(
            f"{mode} pads {list(before)} and {list(after)} of {list(x.shape)}", "less than the extent"
        )
    return tuple(b + d + a for b, d, a in zip(before, x.shape, after, strict=True))


def pad_array(
    x: Array, before: Sequence[int], after: Sequence[int], mode: str, value: float | np.float32
) -> Array:
    """Pad as the mode says."""
    pad: Any = np.pad
    further = {"constant_values": value} if mode == "constant" else {}
    return pad(x, list(zip(before, after, strict=True)), mode, **further)


@onnx_operator("Pad")
def import_pad(n: OnnxNode) -> Node:
    """Constant pads and value; negative pads cut off."""
    x, rank = n.operand(0), len(n.operand(0).shape)
    pads = list(n.integers("pads", n.integers("paddings", ())))
    if not pads:
        pads = integers_of(n, 1, "the pads")
    axes = integers_of(n, 3, "the axes") if n.maybe(3) is not None else list(range(rank))
    if len(pads) != 2 * len(axes) or not all(-rank <= a < rank for a in axes):
        n.fail(f"pads={pads} for axes {axes}", "two numbers for each axis")
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[i + len(axes)]
    value = n.real("value", 0.0)
    if n.maybe(2) is not None:
        value = float(n.scalar(2, "the value"))
    if math.isnan(value):
        n.fail("the value is NaN", "a number")
    if (
        math.prod(d + max(b, 0) + max(a, 0) for d, b, a in zip(x.shape, before, after, strict=True))
        > MAX_ELEMENTS
    ):
        n.fail(f"pads={pads} of {list(x.shape)}", f"a result of at most {MAX_ELEMENTS} elements")
    if min(*before, *after) < 0:
        x = _cut_off(n, x, before, after)
        before, after = [max(b, 0) for b in before], [max(a, 0) for a in after]
    mode, sides = n.text("mode", "constant"), (tuple(before), tuple(after))
    if not x.type.dtype.is_code:
        return n.add(Pad(*sides, mode, value), x)
    if (quant := x.type.quant) is None or quant.axis is not None:
        n.fail("codes of no known scale are padded", "a result of QuantizeLinear")
    real = float(arithmetic.dequantize(np.array(value), quant.scale, quant.zero_point))
    padded = n.before(Pad(*sides, mode, real), n.before(Dequantize(), x, suffix="real"), suffix="padded")
    return n.add(Quantize(), padded, quant=quant)


def _cut_off(n: OnnxNode, x: Node, before: Sequence[int], after: Sequence[int]) -> Node:
    starts = tuple(max(-b, 0) for b in before)
    counts = tuple(d - max(-b, 0) - max(-a, 0) for d, b, a in zip(x.shape, before, after, strict=True))
    if min(counts) < 1:
        n.fail(f"nothing is left of {list(x.shape)}", "at least one element")
    return n.before(Slice(starts, counts, (1,) * len(starts)), x, suffix="cut")


def _borders(call: LayerCall, name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows before and after, columns before and after: n, (rows, columns), or a pair for each."""
    allowed = "n, (rows, columns) or ((top, bottom), (left, right))"
    value = call.take(name, 1, (int, tuple), allowed)
    sides: tuple[Any, ...] = (value, value) if isinstance(value, int) else value
    pairs: list[Any] = [(side, side) if isinstance(side, int) else side for side in sides]
    shaped = len(pairs) == 2 and all(isinstance(p, tuple) and len(cast("Any", p)) == 2 for p in pairs)
    if not shaped or not all(isinstance(v, int) and 0 <= v <= MAX_PAD for p in pairs for v in p):
        call.fail(f"{call.layer}: {name}={value!r} is not allowed", allowed)
    rows, columns = pairs
    return (rows[0], rows[1]), (columns[0], columns[1])


@layer("ZeroPadding2D", "padding")
def zero_padding_layer(call: LayerCall) -> Node:
    """ZeroPadding2D(padding=1): n, (rows, columns), or ((top, bottom), (left, right))."""
    x = call.input(4)
    (top, bottom), (left, right) = _borders(call, "padding")
    call.done()
    return call.add(Pad((0, top, left, 0), (0, bottom, right, 0), "constant", 0.0), x)


@layer("Cropping2D", "cropping")
def cropping_layer(call: LayerCall) -> Node:
    """Cropping2D(cropping=1): n, (rows, columns), or ((top, bottom), (left, right))."""
    x = call.input(4)
    (top, bottom), (left, right) = _borders(call, "cropping")
    call.done()
    counts = (x.shape[0], x.shape[1] - top - bottom, x.shape[2] - left - right, x.shape[3])
    if min(counts) < 1:
        call.fail(f"Cropping2D: nothing is left of {list(x.shape)}", "fewer rows and columns")
    return call.add(Slice((0, top, left, 0), counts, (1, 1, 1, 1)), x)


@quantization_rule(Slice)
def quantize_slice(q: Quantizer, node: Node, operation: Slice, inputs: list[Node]) -> Node:
    """The same codes."""
    return q.add(operation, inputs, node, inputs[0].type.quant)


@quantization_rule(Pad)
def quantize_pad(q: Quantizer, node: Node, operation: Pad, inputs: list[Node]) -> Node:
    """The codes of the operand, and the code of the value; 0 is one in every scheme."""
    quant = inputs[0].quant
    low, _ = q.clamp_codes(quant, (operation.value, operation.value))
    return q.add(QPad(operation.before, operation.after, operation.mode, low), inputs, node, quant)


@written_as_onnx(Slice)
def write_slice(w: OnnxWriter, node: Node, operation: Slice) -> None:
    """Slice with constant operands."""
    name = w.tensor(node)
    ends = [
        end if (end := s + c * d) >= 0 else -(1 << 31)
        for s, c, d in zip(operation.starts, operation.counts, operation.steps, strict=True)
    ]
    rows = {"starts": operation.starts, "ends": ends, "axes": range(len(ends)), "steps": operation.steps}
    constants = [w.initializer(np.array(list(v), np.int64), f"{name}_{k}") for k, v in rows.items()]
    w.add("Slice", [w.tensor(node.inputs[0]), *constants], name)


@written_as_onnx(QPad)
def write_pad(w: OnnxWriter, node: Node, operation: QPad) -> None:
    """Pad of codes."""
    name = w.tensor(node)
    pads = w.initializer(np.array([*operation.before, *operation.after], np.int64), f"{name}_pads")
    value = w.initializer(np.array(operation.value, node.type.dtype.numpy), f"{name}_value")
    w.add("Pad", [w.tensor(node.inputs[0]), pads, value], name, mode=operation.mode)


@part_rule(Slice)
def part_of_slice(_: Node, operation: Slice, box: Box) -> Part:
    """The elements that are taken for the box."""
    ends = [
        (start + low * step, start + (high - 1) * step)
        for start, step, (low, high) in zip(operation.starts, operation.steps, box, strict=True)
    ]
    reads = tuple((min(a, b), max(a, b) + 1) for a, b in ends)
    starts = tuple(a - low for (a, _), (low, _) in zip(ends, reads, strict=True))
    counts = tuple(high - low for low, high in box)
    return Part(replace(operation, starts=starts, counts=counts), (reads,))
