"""Tiles of reductions: `vred`; a map that is too large is summed part by part in the accumulators."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from compiler.errors import CompileError
from compiler.ir.graph import Node
from compiler.ir.types import largest_divisor
from compiler.ops.arg_max import ArgMax
from compiler.ops.reduce import QReduce
from compiler.ops.sliding_window import zero_of
from compiler.schedule.builder import Builder, Span, View, Views, element, spans, stored, tiles_of
from compiler.schedule.tile_graph import Memory, Piece, Ref, Tensor
from compiler.schedule.tiles.boxes import SLACK, tiles
from compiler.schedule.tiles.limits import does_not_fit
from isa.instructions.records import QuantRecord
from isa.instructions.vector import Requantize
from isa.instructions.vector_reduce import Axis, OperandPlace, Reduction, VectorReduce
from isa.memory_map import REQUANT_RECORD
from isa.spec import ElementType, greatest
from isa.support.diagnostics import Diagnostic
from isa.support.records import Frozen, replace

MAX_EXTENT: Final = greatest(VectorReduce, "h")
MAX_CHANNELS: Final = greatest(VectorReduce, "ips")
MAX_ROW: Final = greatest(VectorReduce, "irs")
FUNCTIONS: Final = {
    "mean": Reduction.MEAN,
    "sum": Reduction.SUM,
    "meanf": Reduction.MEANF,
    "max": Reduction.MAX,
}
AXES: Final[dict[tuple[int, ...], Axis]] = {(1, 2): Axis.HW, (3,): Axis.C, (2,): Axis.W, (1,): Axis.H}
RANK: Final = 4


@tiles_of(QReduce)
def plan_reduce(b: Builder, node: Node, operation: QReduce, view: Views, out: Tensor, budget: int) -> None:
    """A reduction: tiles over what is left; a sum over more than an instruction takes in parts."""
    given = view(0)
    axes = _reduced_axes(node, operation.axes)
    x, wanted = _canonical(given, axes)
    size = None if wanted is None else _fitting(x, wanted, 0 if x.tensor.resident else 1, budget)
    if wanted is not None and size is not None:
        instr = VectorReduce(
            fn=FUNCTIONS[operation.function], axis=AXES[wanted], h=1, w=1, c=1, ot=element(node)
        )
        record = b.parameters(_record(node, operation), "record") if "prm" not in instr.unused() else None
        _plan_tiles(b, node, x, out, wanted, size, instr, record)
    elif operation.function in PARTS:
        columns, x = _as_rows(given, axes)
        PARTS[operation.function](b, node, operation, _Parts.of(b, x, columns, budget), out)
    elif wanted is None:
        raise _unsupported(node, operation.axes)
    else:
        least = [n if d in wanted else 1 for d, n in enumerate(x.shape)]
        raise does_not_fit(node, int(np.prod(least[1:])) + SLACK, budget)


def _plan_tiles(
    b: Builder,
    node: Node,
    x: View,
    out: Tensor,
    axes: tuple[int, ...],
    size: tuple[int, int, int],
    instr: VectorReduce,
    record: Ref | None,
) -> None:
    """A reduction in tiles over what is left, each as `instr` says."""
    for n, h, w, c in tiles(b, x.shape, size):
        source = b.fetch(x, n, h, w, c, "input")
        rows, columns, channels = (Span(0, 1) if i in axes else s for i, s in enumerate((h, w, c), 1))
        place = Span(channels.start * out.item, channels.stop * out.item)
        target = b.result(out, n, rows, columns, place, "output")
        tile = replace(
            instr,
            h=h.extent,
            w=w.extent,
            c=c.extent,
            ips=source.pixel_pitch,
            irs=source.row_pitch,
            ops=target.pixel_pitch,
            ors=target.row_pitch,
            xt=element(node.inputs[0]),
        )
        bind = {"inp": source.ref, "out": target.ref} | ({} if record is None else {"prm": record})
        b.emit(tile, bind, stored=stored(out, n, rows, columns, channels))
        b.deliver(out, target, n, rows, columns, place)


@tiles_of(ArgMax)
def plan_arg_max(b: Builder, node: Node, operation: ArgMax, view: Views, out: Tensor, budget: int) -> None:
    """Indices along one axis, int32: tiles over what is left."""
    x, axis = view(0), operation.axis + 4 - len(node.shape)
    copies = (not x.tensor.resident) + -(-out.item // x.shape[axis])
    size = _fitting(x, (axis,), copies, budget)
    if size is None:
        least = [d if i == axis else 1 for i, d in enumerate(x.shape)]
        raise does_not_fit(node, (copies + 1) * int(np.prod(least[1:])) + SLACK, budget)
    last, index = int(operation.last), ElementType.S32
    instr = VectorReduce(fn=Reduction.ARGMAX, axis=AXES[axis,], h=1, w=1, c=1, ot=index, last=last)
    _plan_tiles(b, node, x, out, (axis,), size, instr, None)


def _reduced_axes(node: Node, axes: Sequence[int]) -> tuple[int, ...]:
    """The axes (of n, h, w, c) that are reduced, those between them that are of extent 1 among them.

    Raises:
        CompileError: they are no neighbours.
    """
    shape = node.inputs[0].shape
    several = [a for a in axes if shape[a] > 1]
    if not several:
        return (max(axes) + RANK - len(shape),)
    wanted = range(several[0], several[-1] + 1)
    if any(a not in axes and shape[a] > 1 for a in wanted):
        raise _unsupported(node, axes)
    return tuple(a + RANK - len(shape) for a in wanted)


def _unsupported(node: Node, axes: Sequence[int]) -> CompileError:
    return CompileError(
        Diagnostic(
            "model.unsupported",
            f"a reduction over axes {list(axes)} of {list(node.inputs[0].shape)} is not supported",
            node.loc,
            "axes that are neighbours",
        )
    )


def _canonical(x: View, axes: tuple[int, ...]) -> tuple[View, tuple[int, ...] | None]:
    """The operand under a shape in which what is reduced is an axis of the instruction, if there is one."""
    n, h, w, c = x.shape
    match axes:
        case (1,) | (2,) | (3,) | (1, 2):
            return x, axes
        case (2, 3):
            return View(x.tensor, (n, h, 1, w * c)), (3,)
        case (1, 2, 3):
            return View(x.tensor, (n, 1, 1, h * w * c)), (3,)
        case (0, 1, 2, 3):
            return View(x.tensor, (1, 1, 1, n * h * w * c)), (3,)
        case _:
            return x, None


def _as_rows(x: View, axes: tuple[int, ...]) -> tuple[int, View]:
    """How many columns are left, and the operand as images whose rows are reduced: (left, rows, columns, c).

    Where one column is left, rows are made (rows, columns) of as many columns as an instruction takes.
    """
    shape, last = x.shape, axes[-1]
    left, reduced = math.prod(shape[: axes[0]]), math.prod(shape[axes[0] : last + 1])
    channels = shape[3] if last < RANK - 1 else 1
    columns = math.prod(shape[last + 1 : RANK - 1]) if last < RANK - 1 else 1
    if columns > 1:
        return columns, View(x.tensor, (left, reduced, columns, channels))
    wide = largest_divisor(reduced, MAX_EXTENT)
    return 1, View(x.tensor, (left, reduced // wide, wide, channels))


def _fitting(x: View, axes: tuple[int, ...], copies: int, budget: int) -> tuple[int, int, int] | None:
    """The largest (rows, columns, channels), whole along the axes, that fits; None where none does."""
    size = list(x.shape[1:])
    free = [i for i in range(3) if i + 1 not in axes]
    while not _expressible(size) or (copies + 1) * int(np.prod(size)) + SLACK > budget:
        largest = max(free, key=lambda i: size[i])
        if size[largest] == 1:
            return None
        size[largest] = -(-size[largest] // 2)
    return size[0], size[1], size[2]


def _expressible(size: Sequence[int]) -> bool:
    h, w, c = size
    return max(h, w) <= MAX_EXTENT and c <= MAX_CHANNELS and w * c <= MAX_ROW


def _record(node: Node, operation: QReduce) -> bytes:
    low, high = node.type.dtype.bounds
    p = tuple(operation.constants([i.type for i in node.inputs], node.type))
    return QuantRecord(p, za=zero_of(node.inputs[0].type), zo=zero_of(node.type), lo=low, hi=high).pack()


class _Parts(Frozen):
    """How a long reduction is cut: the columns that are left, rows, columns and channels of a part."""

    x: View
    left: int
    rows: int
    columns: int
    lanes: int

    @staticmethod
    def of(b: Builder, x: View, left: int, budget: int) -> _Parts:
        """Parts that fit: `left` columns are reduced each by itself, or all with the rows where it is 1."""
        _, height, width, channels = x.shape
        columns = 1 if left > 1 else min(width, MAX_EXTENT)
        lanes = min(b.target.mx.cols, channels)
        while columns * lanes + SLACK > budget and columns > 1:
            columns = -(-columns // 2)
        rows = max(min(height, MAX_EXTENT, (budget - SLACK) // (columns * lanes)), 1)
        return _Parts(x, left, rows, columns, lanes)

    def results(self) -> Iterator[tuple[int, int, Span]]:
        """Every image, column that is left, and channels."""
        images, *_, channels = self.x.shape
        return itertools.product(range(images), range(self.left), spans(channels, self.lanes))

    def boxes(self, column: int) -> list[tuple[Span, Span]]:
        """The rows and columns of every part."""
        _, height, width, _ = self.x.shape
        across = [Span(column, column + 1)] if self.left > 1 else spans(width, self.columns)
        return list(itertools.product(spans(height, self.rows), across))


def _plan_sum_in_parts(b: Builder, node: Node, operation: QReduce, parts: _Parts, out: Tensor) -> None:
    """Part by part into the accumulators, then requantized."""
    record = b.parameters(_record(node, operation), "record")
    m = np.zeros(1, REQUANT_RECORD)
    m["m"] = operation.constants([i.type for i in node.inputs], node.type)[0]
    multiplier = b.parameters(m.tobytes(), "multiplier")
    for n, column, c in parts.results():
        acc = Ref(b.buffer("acc", Memory.ACC, 1, 1))
        for index, (h, w) in enumerate(parts.boxes(column)):
            b.tile = (n, h.start, w.start, c.start)
            source = b.fetch(parts.x, n, h, w, c, "input")
            instr = _sum_of_part(node, (h, w, c), source, accum=index > 0)
            b.emit(instr, {"inp": source.ref, "out": acc, "prm": record})
        place = _place(n * parts.left + column, c, out)
        target = b.result(out, *place, "output")
        bind = {"acc": acc, "out": target.ref, "prm": multiplier}
        b.emit(_requantized_sum(node, c, target), bind, stored=stored(out, *place))
        b.deliver(out, target, *place)


def _plan_maximum_in_parts(b: Builder, node: Node, operation: QReduce, parts: _Parts, out: Tensor) -> None:
    """The maxima of parts side by side, then their maximum."""
    del operation
    kind = element(node)
    for n, column, c in parts.results():
        boxes = parts.boxes(column)
        found = b.buffer("maxima", Memory.SPM, len(boxes) * c.extent)
        if len(boxes) > MAX_EXTENT:
            raise does_not_fit(node, len(boxes) * c.extent, 0)
        for index, (h, w) in enumerate(boxes):
            b.tile = (n, h.start, w.start, c.start)
            source = b.fetch(parts.x, n, h, w, c, "input")
            of_part = VectorReduce(
                fn=Reduction.MAX,
                axis=Axis.HW,
                h=h.extent,
                w=w.extent,
                c=c.extent,
                ips=source.pixel_pitch,
                irs=source.row_pitch,
                ops=c.extent,
                ors=c.extent,
                xt=kind,
                ot=kind,
            )
            b.emit(of_part, {"inp": source.ref, "out": Ref(found, index * c.extent)})
        place = _place(n * parts.left + column, c, out)
        target = b.result(out, *place, "output")
        of_parts = VectorReduce(
            fn=Reduction.MAX,
            axis=Axis.H,
            h=len(boxes),
            w=1,
            c=c.extent,
            ips=c.extent,
            irs=c.extent,
            ops=target.pixel_pitch,
            ors=target.row_pitch,
            xt=kind,
            ot=kind,
        )
        b.emit(of_parts, {"inp": Ref(found), "out": target.ref}, stored=stored(out, *place))
        b.deliver(out, target, *place)


PARTS: Final = {"mean": _plan_sum_in_parts, "sum": _plan_sum_in_parts, "max": _plan_maximum_in_parts}
"""How each function is worked out in parts; a float32 sum has one order, and none."""


def _place(index: int, channels: Span, out: Tensor) -> tuple[int, Span, Span, Span]:
    """The pixel of the result with that number, all images counted through, and its channels."""
    _, height, width, _ = out.shape
    rest, column = divmod(index, width)
    image, row = divmod(rest, height)
    return image, Span(row, row + 1), Span(column, column + 1), channels


def _sum_of_part(node: Node, box: tuple[Span, Span, Span], source: Piece, *, accum: bool) -> VectorReduce:
    """The sum of a part of the map, in the accumulators."""
    h, w, c = box
    return VectorReduce(
        fn=Reduction.SUM,
        axis=Axis.HW,
        osp=OperandPlace.ACC,
        h=h.extent,
        w=w.extent,
        c=c.extent,
        ips=source.pixel_pitch,
        irs=source.row_pitch,
        xt=element(node.inputs[0]),
        ot=ElementType.S32,
        accum=int(accum),
    )


def _requantized_sum(node: Node, c: Span, target: Piece) -> Requantize:
    """The way of a sum out of the accumulators."""
    low, high = node.type.dtype.bounds
    return Requantize(
        h=1,
        w=1,
        c=c.extent,
        ops=target.pixel_pitch,
        ors=target.row_pitch,
        lo=low,
        hi=high,
        zp=zero_of(node.type),
        ot=element(node),
    )
