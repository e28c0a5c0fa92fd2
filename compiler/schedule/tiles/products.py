"""What convolutions and matrix products have in common: cuts, parameters, the way out of the accumulators."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ops.conv2d import QConv2d
from compiler.schedule.builder import Builder, Span, Window, device_shape, element
from compiler.schedule.tile_graph import Buffer, Piece, Ref, Stored
from isa.instructions.matrix import Conv
from isa.instructions.vector import Requantize
from isa.memory_map import REQUANT_RECORD
from isa.spec import greatest

MAX_GROUP_ROWS: Final = min(greatest(Conv, "ags"), greatest(Requantize, "aws"))


def convolution_windows(node: Node) -> tuple[Window, Window]:
    """The windows of a convolution over rows and over columns."""
    operation = node.op
    assert isinstance(operation, QConv2d)
    extents, kernel = device_shape(node.inputs[0].shape)[1:3], node.inputs[1].shape[2:]
    rows, columns = (
        Window(extents[i], kernel[i], operation.strides[i], operation.dilations[i], operation.pads[i])
        for i in (0, 1)
    )
    return rows, columns


@cache
def cuts(extent: int) -> tuple[int, ...]:
    """Sizes that cut an extent into 1, 2, 3, ... nearly equal pieces, largest first."""
    pieces = [*range(1, 9), *(2**i for i in range(4, 12))]
    return tuple(sorted({-(-extent // p) for p in pieces if p <= extent} | {1}, reverse=True))


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


def requantize(
    b: Builder,
    node: Node,
    acc: Buffer,
    piece: Piece,
    params: Ref,
    h: int,
    w: int,
    c: int,
    mark: Stored,
    *,
    per_channel: bool = True,
) -> None:
    """Take a tile out of the accumulators."""
    operation: Any = node.op
    low, high = operation.bounds
    instr = Requantize(
        h=h,
        w=w,
        c=c,
        ags=h * w if c > b.target.mx.cols else 0,
        aws=w if h > 1 else 0,
        ops=piece.pixel_pitch,
        ors=piece.row_pitch,
        lo=low,
        hi=high,
        zp=node.quant.zero_point,
        ot=element(node),
        perch=int(per_channel),
    )
    b.emit(instr, {"acc": Ref(acc), "out": piece.ref, "prm": params}, stored=mark)
