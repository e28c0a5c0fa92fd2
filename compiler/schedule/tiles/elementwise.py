"""Tiles of operations that combine two tensors element by element, and of per-channel functions."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ops.add import QAdd
from compiler.ops.binary import QMul, QReal
from compiler.ops.prelu import QAffine, QPRelu
from compiler.ops.sliding_window import zero_of
from compiler.schedule.builder import (
    Builder,
    Span,
    TileMaker,
    View,
    Views,
    element,
    same_rows,
    stored,
    tiles_of,
)
from compiler.schedule.tile_graph import Memory, Piece, Ref, Tensor
from compiler.schedule.tiles.boxes import dense, fit_box, tiles
from compiler.schedule.tiles.moves import move
from isa.instructions.records import QuantRecord
from isa.instructions.vector_elementwise import Elementwise, VectorElementwise
from isa.memory_map import GRANULE_BYTES, Q_GRANULES
from isa.spec import greatest

GRANULE_VALUES: Final = GRANULE_BYTES // np.dtype(np.float32).itemsize
"""Values of a channel that a granule of the parameter memory holds."""
MAX_ROWS: Final = greatest(VectorElementwise, "h")
MAX_CHANNELS: Final = greatest(VectorElementwise, "c")
MAX_ROW: Final = greatest(VectorElementwise, "ars")
MAX_PIXEL: Final = greatest(VectorElementwise, "aps")
REAL: Final = {
    "sub": Elementwise.FSUB,
    "div": Elementwise.FDIV,
    "max": Elementwise.FMAX,
    "min": Elementwise.FMIN,
}


def binary_tiles(b: Builder, node: Node, view: Views, out: Tensor) -> TileMaker:
    """Makes tiles of a quantized function of two operands."""
    return pair_tiles(b, node, view, out, _function(node), b.parameters(_record(node).pack(), "record"))


def pair_tiles(
    b: Builder, node: Node, view: Views, out: Tensor, function: Elementwise, record: Ref
) -> TileMaker:
    """Makes tiles: rows and pixels are broadcast by pitches of 0, channels of B by `bc`, of A by copies."""
    left, right = view(0), view(1)
    c = out.shape[3]

    def emit(n: int, rs: Span, cs: Span, ch: Span) -> None:
        a = _operand(b, left, n, rs, cs, ch, "a")
        if left.shape[3] == 1 and c > 1:
            a = _over_channels(b, a, rs, cs, ch)
        other = _operand(b, right, n, rs, cs, ch, "b")
        target = b.result(out, n, rs, cs, ch, "output")
        instr = VectorElementwise(
            fn=function,
            h=rs.extent,
            w=cs.extent,
            c=ch.extent,
            aps=a.pixel_pitch,
            ars=a.row_pitch,
            bps=other.pixel_pitch,
            brs=other.row_pitch,
            ops=target.pixel_pitch,
            ors=target.row_pitch,
            at=element(node.inputs[0]),
            bt=element(node.inputs[1]),
            ot=element(node),
            bc=int(right.shape[3] == 1 and c > 1),
        )
        bind = {"a": a.ref, "b": other.ref, "out": target.ref, "prm": record}
        b.emit(instr, bind, stored=stored(out, n, rs, cs, ch))
        b.deliver(out, target, n, rs, cs, ch)

    return emit


@tiles_of(QAdd, QMul, QReal, reads=same_rows, single=binary_tiles)
def plan_binary(
    b: Builder, node: Node, operation: QAdd | QMul | QReal, view: Views, out: Tensor, budget: int
) -> None:
    """Two operands, tile by tile."""
    del operation
    plan_pairs(b, node, view, out, budget, binary_tiles(b, node, view, out))


def plan_pairs(b: Builder, node: Node, view: Views, out: Tensor, budget: int, emit: TileMaker) -> None:
    """Every tile of a function of two operands."""
    left, right = view(0), view(1)
    copied = left.shape[3] == 1 and out.shape[3] > 1
    copies = (not left.tensor.resident) + (not right.tensor.resident) + (not out.resident) + copied
    size = fit_box(node, (b.height(out.shape[1]), *out.shape[2:]), dense(copies), map_limits, budget)
    for n, rs, cs, ch in tiles(b, out.shape, size):
        emit(n, rs, cs, ch)


def _operand(b: Builder, x: View, n: int, h: Span, w: Span, c: Span, role: str) -> Piece:
    """The part of an operand that a tile needs, with a pitch of 0 along what is broadcast."""
    one = Span(0, 1)
    _, height, width, channels = x.shape
    box = [one if extent == 1 else span for extent, span in ((height, h), (width, w), (channels, c))]
    piece = b.fetch(x, 0 if x.shape[0] == 1 else n, box[0], box[1], box[2], role)
    return Piece(
        piece.ref,
        0 if width == 1 and w.extent > 1 else piece.pixel_pitch,
        0 if height == 1 and h.extent > 1 else piece.row_pitch,
    )


def _over_channels(b: Builder, x: Piece, h: Span, w: Span, c: Span) -> Piece:
    """A piece of one channel, copied to as many as a tile has."""
    buffer = b.buffer("a.spread", Memory.SPM, h.extent * w.extent * c.extent)
    pixel, row = c.extent, w.extent * c.extent
    levels = [(c.extent, 0, 1), (w.extent, x.pixel_pitch, pixel), (h.extent, x.row_pitch, row)]
    b.emit(move(1, levels), {"src": x.ref, "dst": Ref(buffer)})
    return Piece(Ref(buffer), pixel, row)


def _function(node: Node) -> Elementwise:
    match node.op:
        case QAdd():
            return Elementwise.ADD
        case QMul():
            return Elementwise.MUL
        case QReal(function=function):
            return REAL[function]
        case other:
            raise AssertionError(f"{other.name} is not element by element")


def _record(node: Node) -> QuantRecord:
    operation: Any = node.op
    p = tuple(operation.constants([i.type for i in node.inputs], node.type))
    low, high = getattr(operation, "bounds", node.type.dtype.bounds)
    if isinstance(operation, QAdd):
        return QuantRecord(p, lo=low, hi=high)
    za, zb = (zero_of(i.type) for i in node.inputs[:2])
    return QuantRecord(p, za=za, zb=zb, zo=zero_of(node.type), lo=low, hi=high)


@tiles_of(QPRelu, QAffine, reads=same_rows)
def plan_per_channel(
    b: Builder, node: Node, operation: QPRelu | QAffine, view: Views, out: Tensor, budget: int
) -> None:
    """A function with float32 rows, one value per channel, behind its record."""
    x = view(0)
    assert getattr(operation, "axis", -1) == len(node.shape) - 1
    sx, sy = operation.constants([i.type for i in node.inputs], node.type)
    low, high = node.type.dtype.bounds
    record = QuantRecord(
        (sx, np.float32(0), sy), za=zero_of(node.inputs[0].type), zo=zero_of(node.type), lo=low, hi=high
    )
    rows = [i.constant for i in node.inputs[1:]]
    granules = b.target.prm.bytes // GRANULE_BYTES - Q_GRANULES
    most = GRANULE_VALUES * granules // len(rows) - GRANULE_VALUES  # one to spare: the last is not full
    copies = (not x.tensor.resident) + (not out.resident)
    size = fit_box(
        node,
        (b.height(out.shape[1]), *out.shape[2:]),
        dense(copies),
        lambda th, tw, tc: tc <= most and map_limits(th, tw, tc),
        budget,
    )
    for n, rs, cs, ch in tiles(b, out.shape, size):
        values = b"".join(np.ascontiguousarray(r[ch.start : ch.stop], "<f4").tobytes() for r in rows)
        params = b.parameters(record.pack() + values, "record")
        source = b.fetch(x, n, rs, cs, ch, "a")
        target = b.result(out, n, rs, cs, ch, "output")
        instr = VectorElementwise(
            fn=Elementwise.PRELU if isinstance(operation, QPRelu) else Elementwise.AFFINE,
            h=rs.extent,
            w=cs.extent,
            c=ch.extent,
            aps=source.pixel_pitch,
            ars=source.row_pitch,
            ops=target.pixel_pitch,
            ors=target.row_pitch,
            at=element(node.inputs[0]),
            ot=element(node),
        )
        bind = {"a": source.ref, "out": target.ref, "prm": params}
        b.emit(instr, bind, stored=stored(out, n, rs, cs, ch))
        b.deliver(out, target, n, rs, cs, ch)


def map_limits(th: int, tw: int, tc: int) -> bool:
    """Whether instructions on maps can express a tile."""
    return max(th, tw) <= MAX_ROWS and tc <= MAX_CHANNELS and tw * tc <= MAX_ROW
