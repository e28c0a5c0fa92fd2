"""Tiles of reductions: `vred`; a map that is too large is summed part by part in the accumulators."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np

from compiler.errors import CompileError
from compiler.ir.graph import Node
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
from isa.support.records import replace

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
WHOLE_MAP: Final = (1, 2)


@tiles_of(QReduce)
def plan_reduce(b: Builder, node: Node, operation: QReduce, view: Views, out: Tensor, budget: int) -> None:
    """A reduction: tiles over what is left."""
    x, axes = _canonical(node, view(0), operation.axes)
    size = _fitting(x, axes, 0 if x.tensor.resident else 1, budget)
    if size is None and axes == WHOLE_MAP and operation.function in ("mean", "sum"):
        _plan_in_parts(b, node, operation, x, out, budget)
        return
    if size is None:
        least = [n if d in axes else 1 for d, n in enumerate(x.shape)]
        raise does_not_fit(node, int(np.prod(least[1:])) + SLACK, budget)
    instr = VectorReduce(fn=FUNCTIONS[operation.function], axis=AXES[axes], h=1, w=1, c=1, ot=element(node))
    used = "prm" not in instr.unused()
    _plan_tiles(
        b, node, x, out, axes, size, instr, b.parameters(_record(node, operation), "record") if used else None
    )


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


def _canonical(node: Node, x: View, axes: Sequence[int]) -> tuple[View, tuple[int, ...]]:
    """The operand under a shape in which what is reduced is an axis of the instruction.

    Raises:
        CompileError: there is none.
    """
    n, h, w, c = x.shape
    rank = len(node.inputs[0].shape)
    several = [a + 4 - rank for a in axes if node.inputs[0].shape[a] > 1]
    wanted = tuple(range(several[0], several[-1] + 1)) if several else ()  # extents of 1 between count too
    single = tuple(a + 4 - rank for a in axes if a + 4 - rank > 0)[-1:]
    match wanted or single:
        case (1,) | (2,) | (3,) | (1, 2) as found:
            return x, found
        case (2, 3):
            return View(x.tensor, (n, h, 1, w * c)), (3,)
        case (1, 2, 3):
            return View(x.tensor, (n, 1, 1, h * w * c)), (3,)
        case _:
            raise CompileError(
                Diagnostic(
                    "model.unsupported",
                    f"a reduction over axes {list(axes)} of {list(node.inputs[0].shape)} is not supported",
                    node.loc,
                    "rows, columns, channels, or neighbours of these",
                )
            )


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


def _plan_in_parts(b: Builder, node: Node, operation: QReduce, x: View, out: Tensor, budget: int) -> None:
    """Sums over a map that does not fit: row by row into the accumulators, then requantized."""
    _, height, width, channels = x.shape
    columns = min(width, MAX_EXTENT)
    lanes = min(b.target.mx.cols, channels)
    while columns * lanes + SLACK > budget and columns > 1:
        columns = -(-columns // 2)
    rows = max(min(height, MAX_EXTENT, (budget - SLACK) // (columns * lanes)), 1)
    record = b.parameters(_record(node, operation), "record")
    m = np.zeros(1, REQUANT_RECORD)
    m["m"] = operation.constants([i.type for i in node.inputs], node.type)[0]
    multiplier = b.parameters(m.tobytes(), "multiplier")
    for n, c in itertools.product(range(x.shape[0]), spans(channels, lanes)):
        acc = Ref(b.buffer("acc", Memory.ACC, 1, 1))
        for index, (h, w) in enumerate(itertools.product(spans(height, rows), spans(width, columns))):
            b.tile = (n, h.start, w.start, c.start)
            source = b.fetch(x, n, h, w, c, "input")
            instr = _sum_of_part(node, (h, w, c), source, accum=index > 0)
            b.emit(instr, {"inp": source.ref, "out": acc, "prm": record})
        place = n, Span(0, 1), Span(0, 1), c
        target = b.result(out, *place, "output")
        bind = {"acc": acc, "out": target.ref, "prm": multiplier}
        b.emit(_requantized_sum(node, c, target), bind, stored=stored(out, *place))
        b.deliver(out, target, *place)


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
