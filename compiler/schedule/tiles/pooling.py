"""Tiles of pooling and softmax."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np

from compiler.errors import CompileError
from compiler.ir.graph import Node
from compiler.ops.average_pool import QAveragePool
from compiler.ops.max_pool import MaxPool
from compiler.ops.softmax import QSoftmax, divisor, exponentials
from compiler.schedule.builder import (
    Builder,
    Place,
    Span,
    Views,
    Window,
    device_shape,
    element,
    same_rows,
    spans,
    stored,
    tiles_of,
)
from compiler.schedule.tile_graph import Piece, Tensor
from compiler.schedule.tiles.boxes import dense, fit_box, tiles
from compiler.schedule.tiles.limits import require_expressible
from compiler.schedule.tiles.products import SeenWindow
from isa.instructions.records import QuantRecord
from isa.instructions.vector import Pool, Pooling, VectorSoftmax
from isa.spec import greatest
from isa.support.diagnostics import Diagnostic

MAX_POOL_EXTENT: Final = greatest(Pooling, "oh")
MAX_POOL_INPUT: Final = greatest(Pooling, "ih")
MAX_POOL_ROW: Final = greatest(Pooling, "irs")
MAX_ROWS: Final = greatest(VectorSoftmax, "h")
MAX_CHANNELS: Final = greatest(Pooling, "c")
MAX_SOFTMAX_CHANNELS: Final = greatest(VectorSoftmax, "ips")
MAX_SOFTMAX_ROW: Final = greatest(VectorSoftmax, "irs")


def _windows(node: Node) -> tuple[Window, Window]:
    """The windows of a pooling over rows and over columns."""
    operation = node.op
    assert isinstance(operation, (MaxPool, QAveragePool))
    _, h, w, _ = device_shape(node.inputs[0].shape)
    rows = Window(h, operation.kernel[0], operation.strides[0], 1, operation.pads[0])
    return rows, Window(w, operation.kernel[1], operation.strides[1], 1, operation.pads[1])


def _pooled_rows(node: Node, index: int) -> Window:
    """The rows under the windows of some rows of the result."""
    del index
    return _windows(node)[0]


@tiles_of(MaxPool, QAveragePool, reads=_pooled_rows)
def plan_pool(
    b: Builder, node: Node, operation: MaxPool | QAveragePool, view: Views, out: Tensor, budget: int
) -> None:
    """Pooling: tiles over rows, columns and channels."""
    x = view(0)
    channels = x.shape[3]
    require_expressible(
        node, Pooling, kernel=operation.kernel, strides=operation.strides, pads=operation.pads[:2]
    )
    rows, columns = _windows(node)
    _, oh, ow, _ = out.shape

    def needed(th: int, tw: int, tc: int) -> int:
        box = rows.reach(th, rows.taps) * columns.reach(tw, columns.taps)
        return (0 if x.tensor.resident else box * tc) + (0 if out.resident else th * tw * tc)

    def allowed(th: int, tw: int, tc: int) -> bool:
        return (
            th <= MAX_POOL_EXTENT
            and tw <= MAX_POOL_EXTENT
            and tc <= MAX_CHANNELS
            and rows.reach(th, rows.taps) <= MAX_POOL_INPUT
            and columns.reach(tw, columns.taps) <= MAX_POOL_INPUT
            and max(columns.reach(tw, columns.taps), tw) * tc <= MAX_POOL_ROW
        )

    size = fit_box(node, (b.height(oh), ow, channels), needed, allowed, budget)
    average = isinstance(operation, QAveragePool)
    record = b.parameters(_average_record(node), "record") if average else None
    for place in tiles(b, out.shape, size):
        n, rs, cs, ch = place
        box_h, top = rows.valid(rs, Span(0, rows.taps))
        box_w, left = columns.valid(cs, Span(0, columns.taps))
        window = SeenWindow(box_h, box_w, top, left)
        source = b.fetch(x, n, box_h, box_w, ch, "input")
        target = b.result(out, *place, "output")
        instr = _pooling(node, operation, place, window, (source, target))
        bind = {"inp": source.ref, "out": target.ref} | ({"prm": record} if record is not None else {})
        b.emit(instr, bind, stored=stored(out, *place))
        b.deliver(out, target, *place)


def _pooling(
    node: Node,
    operation: MaxPool | QAveragePool,
    place: Place,
    window: SeenWindow,
    pieces: tuple[Piece, Piece],
) -> Pooling:
    """The instruction of a tile."""
    rows, columns = _windows(node)
    _, h, w, c = place
    source, target = pieces
    average = isinstance(operation, QAveragePool)
    return Pooling(
        fn=Pool.AVG if average else Pool.MAX,
        oh=h.extent,
        ow=w.extent,
        c=c.extent,
        kh=rows.taps,
        kw=columns.taps,
        sh=rows.stride,
        sw=columns.stride,
        ips=source.pixel_pitch,
        irs=source.row_pitch,
        ih=window.rows.extent,
        iw=window.columns.extent,
        pt=window.top,
        pl=window.left,
        ops=target.pixel_pitch,
        ors=target.row_pitch,
        cip=int(average and operation.count_include_pad),
        xt=element(node.inputs[0]),
        ot=element(node),
    )


@tiles_of(QSoftmax, reads=same_rows)
def plan_softmax(b: Builder, node: Node, operation: QSoftmax, view: Views, out: Tensor, budget: int) -> None:
    """Softmax over the last dimension: tiles over pixels, never over channels."""
    del operation
    x = view(0)
    _, h, w, c = out.shape
    if c > MAX_SOFTMAX_CHANNELS:
        raise CompileError(
            Diagnostic(
                "model.unsupported",
                f"softmax over {c} values is not supported",
                node.loc,
                f"at most {MAX_SOFTMAX_CHANNELS}",
            )
        )
    low, high = node.type.dtype.bounds
    record = QuantRecord((np.float32(divisor(node.quant.scale)),), zo=node.quant.zero_point, lo=low, hi=high)
    table = b.parameters(exponentials(node.inputs[0].quant.scale, c).tobytes(), "exponentials")
    params = b.parameters(record.pack(), "record")
    copies = (not x.tensor.resident) + (not out.resident)
    th, tw, _ = fit_box(
        node,
        (b.height(h), w, c),
        dense(copies),
        lambda th, tw, tc: tc == c and max(th, tw) <= MAX_ROWS and tw * c <= MAX_SOFTMAX_ROW,
        budget,
    )
    whole = Span(0, c)
    for n, rs, cs in itertools.product(b.images(out.shape[0]), b.rows(h, th), spans(w, tw)):
        b.tile = (n, rs.start, cs.start)
        source = b.fetch(x, n, rs, cs, whole, "input")
        target = b.result(out, n, rs, cs, whole, "output")
        instr = VectorSoftmax(
            h=rs.extent,
            w=cs.extent,
            c=c,
            ips=source.pixel_pitch,
            irs=source.row_pitch,
            ops=target.pixel_pitch,
            ors=target.row_pitch,
            xt=element(node.inputs[0]),
            ot=element(node),
        )
        b.emit(
            instr,
            {"inp": source.ref, "out": target.ref, "tab": table, "prm": params},
            stored=stored(out, n, rs, cs, whole),
        )
        b.deliver(out, target, n, rs, cs, whole)


def _average_record(node: Node) -> bytes:
    x, y = node.inputs[0].quant, node.quant
    low, high = y.dtype.bounds
    scales = (np.float32(x.scale), np.float32(y.scale))
    return QuantRecord(scales, za=x.zero_point, zo=y.zero_point, lo=low, hi=high).pack()
