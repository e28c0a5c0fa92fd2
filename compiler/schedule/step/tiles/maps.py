"""Tiles of a step's maps: errors of pooling, masks, sums of maps, maps from phases."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from compiler.ir.graph import Node
from compiler.schedule.builder import (
    Builder,
    Place,
    Span,
    View,
    Views,
    element,
    same_rows,
    spans,
    stored,
    tiles_of,
)
from compiler.schedule.step.builder import ACC_SHARE, StepBuilder, step_of
from compiler.schedule.step.tiles.exits import plain_record, requantize_shifted
from compiler.schedule.tile_graph import UNPLACED, Buffer, Memory, Piece, Ref, Tensor
from compiler.schedule.tiles.boxes import SLACK, dense, fit_box, tiles
from compiler.schedule.tiles.elementwise import map_limits, pair_tiles, plan_pairs
from compiler.schedule.tiles.limits import does_not_fit
from compiler.schedule.tiles.moves import move
from compiler.schedule.tiles.products import TileExit
from compiler.train.integer.convolution import Interleave
from compiler.train.integer.pooling import Mask, MaxPoolErrors
from compiler.train.integer.sums import StepAdd
from isa.instructions.dma import Fill, OnChip
from isa.instructions.records import QuantRecord
from isa.instructions.vector_elementwise import Elementwise
from isa.instructions.vector_gradient import PoolBack, PoolingGradient
from isa.instructions.vector_training import MapSum, VectorSum
from isa.instructions.vector_words import Function32
from isa.spec import greatest

MAX_CHANNELS: Final = greatest(PoolingGradient, "c")
NOTHING: Final = 31
"""A shift that leaves nothing of 8-bit codes."""


@tiles_of(Mask, reads=same_rows)
def plan_mask(b: Builder, node: Node, operation: Mask, view: Views, out: Tensor, budget: int) -> None:
    """Element by element."""
    least, most = node.type.dtype.bounds
    record = step_of(b).constant(QuantRecord(za=operation.low, zb=operation.high, lo=least, hi=most).pack())
    plan_pairs(b, node, view, out, budget, pair_tiles(b, node, view, out, Elementwise.MASK, record))


@tiles_of(MaxPoolErrors)
def plan_max_pool_errors(
    b: Builder, node: Node, operation: MaxPoolErrors, view: Views, out: Tensor, budget: int
) -> None:
    """Channels, and rows of windows where these do not overlap: what lies under no window becomes 0 too."""
    x, g = view(0), view(1)
    n, height, width, channels = out.shape
    oh, ow = node.inputs[1].shape[1:3]
    copies = (not x.tensor.resident) + (not out.resident)
    most, rows = 0, list[tuple[Span, Span]]()
    for rows in ([(Span(0, height), Span(0, oh))], _rows_of_windows(operation, height, oh)):
        pixels = max(r.extent for r, _ in rows) * width * copies
        pixels += (not g.tensor.resident) * max(o.extent for _, o in rows) * ow
        most = min(channels, MAX_CHANNELS, (budget - SLACK) // pixels if pixels else channels)
        if most == channels:
            break
    if most < 1:
        raise does_not_fit(node, height * width * copies + SLACK, budget)
    whole, across = Span(0, width), Span(0, ow)
    for image, c, (taken, given) in itertools.product(b.images(n), spans(channels, most), rows):
        b.tile = (image, taken.start, 0, c.start)
        values = b.fetch(x, image, taken, whole, c, "values")
        target = b.result(out, image, taken, whole, c, "output")
        if values.pixel_pitch != target.pixel_pitch or values.row_pitch != target.row_pitch:
            values = _repitched(b, values, target, taken.extent, width, c.extent)
        errors = b.fetch(g, image, given, across, c, "errors")
        instr = PoolingGradient(
            fn=PoolBack.MAXB,
            oh=given.extent,
            ow=ow,
            c=c.extent,
            kh=operation.kernel[0],
            kw=operation.kernel[1],
            sh=operation.strides[0],
            sw=operation.strides[1],
            ips=target.pixel_pitch,
            irs=target.row_pitch,
            gps=errors.pixel_pitch,
            grs=errors.row_pitch,
            ih=taken.extent,
            iw=width,
            pt=operation.pads[0] if taken.start == 0 else 0,
            pl=operation.pads[1],
            relu=int(operation.rectified),
            shift=operation.shift,
            xt=element(node.inputs[0]),
        )
        place = image, taken, whole, c
        bind = {"x": values.ref, "g": errors.ref, "dx": target.ref}
        b.emit(instr, bind, stored=stored(out, *place, "dx"))
        b.deliver(out, target, *place)


def _rows_of_windows(operation: MaxPoolErrors, height: int, oh: int) -> list[tuple[Span, Span]]:
    """Rows of the image and of the windows over them: all, or each row of windows by itself."""
    kernel, stride = operation.kernel[0], operation.strides[0]
    if kernel > stride or operation.pads[0]:
        return [(Span(0, height), Span(0, oh))]
    ends = [*(i * stride for i in range(1, oh)), height]
    return [(Span(i * stride, end), Span(i, i + 1)) for i, end in enumerate(ends)]


def _repitched(b: Builder, values: Piece, like: Piece, height: int, width: int, channels: int) -> Piece:
    """A piece copied so that its pitches are those of another."""
    buffer = b.buffer("values", Memory.SPM, (height - 1) * like.row_pitch + width * like.pixel_pitch)
    made = Piece(Ref(buffer), like.pixel_pitch, like.row_pitch)
    copied(b, values, made, height, width, channels)
    return made


@tiles_of(StepAdd, reads=same_rows)
def plan_add(b: Builder, node: Node, operation: StepAdd, view: Views, out: Tensor, budget: int) -> None:
    """Two operands at a time into accumulators, these added, then shifted."""
    s = step_of(b)
    maps = [view(i) for i in range(operation.count)]
    copies = sum(not m.tensor.resident for m in maps) + (not out.resident)
    rows = s.target.acc.rows // ACC_SHARE

    def allowed(th: int, tw: int, tc: int) -> bool:
        return map_limits(th, tw, tc) and th * tw * -(-tc // s.cols) <= rows

    size = fit_box(node, (b.height(out.shape[1]), *out.shape[2:]), dense(copies), allowed, budget)
    for place in tiles(b, out.shape, size):
        _, h, w, c = place
        count = h.extent * w.extent * -(-c.extent // s.cols)
        total = _pair(s, node, maps, place, 0)
        for index in range(2, operation.count, 2):
            more = _pair(s, node, maps, place, index)
            s.words(Function32.IADD, Ref(total), Ref(total), Ref(more), rows=count,
                    lanes=min(c.extent, s.cols))  # fmt: skip
        target = b.result(out, *place, "output")
        way = TileExit(target, plain_record(s, node), place, stored(out, *place), per_channel=False)
        requantize_shifted(s, node, total, way)
        b.deliver(out, target, *place)


def _pair(s: StepBuilder, node: Node, maps: Sequence[View], place: Place, index: int) -> Buffer:
    """The sum of a map and of the next, if there is one, in accumulators."""
    count = len(maps)
    if index + 1 < count:
        shifts = node.inputs[count + index], node.inputs[count + index + 1]
        return shifted_pair(s, (maps[index], maps[index + 1]), place, shifts, *node.inputs[index : index + 2])
    return shifted_pair(
        s, (maps[index], maps[index]), place, (node.inputs[count + index], None), node.inputs[index]
    )


def shifted_pair(
    s: StepBuilder, maps: tuple[View, View], place: Place, shifts: tuple[Node, Node | None], *kinds: Node
) -> Buffer:
    """The sum of two maps by their shifts in accumulators; of the first alone where the second has none."""
    _, h, w, c = place
    a = s.fetch(maps[0], *place, "a")
    b = s.fetch(maps[1], *place, "b") if shifts[1] is not None else a
    acc = s.rows_of("sum", h.extent * w.extent * -(-c.extent // s.cols))
    left = s.numbers.read(shifts[0])
    right = s.number_of(NOTHING) if shifts[1] is None else s.numbers.read(shifts[1])
    instr = VectorSum(
        fn=MapSum.SADD,
        h=h.extent,
        w=w.extent,
        c=c.extent,
        aps=a.pixel_pitch,
        ars=a.row_pitch,
        bps=b.pixel_pitch,
        brs=b.row_pitch,
        ags=h.extent * w.extent if c.extent > s.cols else 0,
        at=element(kinds[0]),
        bt=element(kinds[-1]),
        sra=UNPLACED,
        srb=UNPLACED,
    )
    s.emit(instr, {"a": a.ref, "b": b.ref, "acc": Ref(acc), "sra": left, "srb": right})
    return acc


@tiles_of(Interleave)
def plan_interleave(
    b: Builder, node: Node, operation: Interleave, view: Views, out: Tensor, budget: int
) -> None:
    """Every phase's pixels to their places."""
    del budget
    n, height, width, channels = out.shape
    (sh, sw), whole = operation.strides, Span(0, channels)
    for image in b.images(n):
        b.tile = (image,)
        box = image, Span(0, height), Span(0, width), whole
        target = b.result(out, *box, "output")
        if len(operation.phases) < sh * sw:
            cleared(b, target, height, width, channels)
        for index, (py, px) in enumerate(operation.phases):
            rows, columns = node.inputs[index].shape[1:3]
            source = b.fetch(view(index), image, Span(0, rows), Span(0, columns), whole, "phase")
            to = target.ref.shifted(py * target.row_pitch + px * target.pixel_pitch)
            every = Piece(to, sw * target.pixel_pitch, sh * target.row_pitch)
            copied(b, source, every, rows, columns, channels)
        b.deliver(out, target, *box)


def copied(b: Builder, source: Piece, target: Piece, height: int, width: int, channels: int) -> None:
    """Copy a piece to another place in the scratchpad, pixel by pixel."""
    levels = [(width, source.pixel_pitch, target.pixel_pitch), (height, source.row_pitch, target.row_pitch)]
    b.emit(move(channels, levels), {"src": source.ref, "dst": target.ref})


def cleared(b: Builder, target: Piece, height: int, width: int, channels: int) -> None:
    """Fill a piece with zeros."""
    fill = Fill(
        space=OnChip.SPM,
        n0=channels,
        n1=width,
        n2=height,
        ls1=target.pixel_pitch if width > 1 else 0,
        ls2=target.row_pitch if height > 1 else 0,
    )
    b.emit(fill, {"loc": target.ref}, "load")
