"""What convolutions and matrix products have in common: cuts, parameters, the way out of the accumulators."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.types import TensorType
from compiler.ops.sliding_window import Pads, Pair
from compiler.schedule.builder import Builder, Place, Span, Window, device_shape, element
from compiler.schedule.tile_graph import Buffer, Piece, Ref, Stored
from isa.instructions.matrix import Conv, Count
from isa.instructions.vector import Requantize
from isa.memory_map import GRANULE_BYTES, REQUANT_RECORD
from isa.spec import greatest
from isa.support.records import Frozen
from isa.target import Target

MAX_GROUP_ROWS: Final = min(greatest(Conv, "ags"), greatest(Requantize, "aws"))
FINE_CUTS: Final = 8
"""Every number of pieces up to this is tried: one piece more changes the size of so few a lot."""
COARSE_CUTS: Final = tuple(2**i for i in range(4, 12))
"""Numbers of pieces that are tried beyond: few, for candidates are the product of several cuts."""
ACC_PARTS: Final = 2
"""Parts of the accumulators: the array fills one while the vector unit empties the other."""
LOADS_OF_PART: Final = 2
"""Loads that a part of a sum waits for: its input and its weights."""


def convolution_windows(node: Node, strides: Pair, dilations: Pair, pads: Pads) -> tuple[Window, Window]:
    """The windows of a convolution over rows and over columns."""
    extents, kernel = device_shape(node.inputs[0].shape)[1:3], node.inputs[1].shape[2:]
    rows, columns = (Window(extents[i], kernel[i], strides[i], dilations[i], pads[i]) for i in (0, 1))
    return rows, columns


def code_zero(kind: TensorType) -> int:
    """The zero point of codes; 0 where an exponent alone says what they stand for."""
    return 0 if kind.quant is None else kind.quant.zero_point


@cache
def cuts(extent: int) -> tuple[int, ...]:
    """Sizes that cut an extent into 1, 2, 3, ... nearly equal pieces, largest first."""
    pieces = [*range(1, FINE_CUTS + 1), *COARSE_CUTS]
    return tuple(sorted({-(-extent // p) for p in pieces if p <= extent} | {1}, reverse=True))


def record_groups(t: Target) -> int:
    """Column groups of the array whose records the parameter memory holds at once; at least one."""
    return max(t.prm.bytes // GRANULE_BYTES // t.mx.cols, 1)


def waiting_cycles(tiles: Count, parts: Count, t: Target) -> Count:
    """Cycles for which tiles wait, nothing else going on: for the loads of every part, and for the store."""
    return tiles * (parts * LOADS_OF_PART + 1) * t.dram.latency_read


def requant_records(b: Builder, node: Node, channels: Span) -> Ref:
    """The {bias, m} records of a channel range, in PRM."""
    return b.once(("records", channels), lambda: b.parameters(records_of(node, channels), "records"))


def records_of(node: Node, channels: Span) -> bytes:
    """The {bias, m} records of a channel range."""
    m = node.op.constants([i.type for i in node.inputs], node.type)
    records = np.zeros(channels.extent, REQUANT_RECORD)
    part = slice(channels.start, channels.stop)
    records["bias"], records["m"] = (
        node.inputs[2].constant[part],
        np.broadcast_to(m, node.inputs[2].shape)[part],
    )
    return records.tobytes()


class TileExit(Frozen):
    """How a tile leaves the accumulators: to which piece of the scratchpad, by which records, as what."""

    piece: Piece
    params: Ref
    at: Place
    mark: Stored
    per_channel: bool = True


def requantize(b: Builder, node: Node, acc: Buffer, way: TileExit) -> None:
    """Take a tile out of the accumulators."""
    operation: Any = node.op
    low, high = operation.bounds
    h, w, c = (span.extent for span in way.at[1:])
    instr = Requantize(
        h=h,
        w=w,
        c=c,
        ags=h * w if c > b.target.mx.cols else 0,
        aws=w if h > 1 else 0,
        ops=way.piece.pixel_pitch,
        ors=way.piece.row_pitch,
        lo=low,
        hi=high,
        zp=node.quant.zero_point,
        ot=element(node),
        perch=int(way.per_channel),
    )
    b.emit(instr, {"acc": Ref(acc), "out": way.piece.ref, "prm": way.params}, stored=way.mark)


class SeenWindow(Frozen):
    """The input that a tile of windows sees, and the padding above it and to its left."""

    rows: Span
    columns: Span
    top: int
    left: int


def seen_window(rows: Window, columns: Window, h: Span, w: Span, taps: Span) -> SeenWindow | None:
    """What outputs see through some rows of the kernel; None: padding alone."""
    seen_rows, top = rows.valid(h, taps)
    seen_columns, left = columns.valid(w, Span(0, columns.taps))
    if seen_rows.extent <= 0 or seen_columns.extent <= 0:
        return None
    return SeenWindow(seen_rows, seen_columns, top, left)
