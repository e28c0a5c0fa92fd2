"""Tiles of pooling, element-wise operations, softmax and transposes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from compiler.errors import CompileError
from compiler.ir.graph import Node
from compiler.ops.activation import QTable
from compiler.ops.add import QAdd
from compiler.ops.average_pool import QAveragePool
from compiler.ops.max_pool import MaxPool
from compiler.ops.shapes import Transpose
from compiler.ops.softmax import QSoftmax, divisor, exponentials
from compiler.schedule.builder import Builder, Piece, Span, View, element, spans, stored
from compiler.schedule.limits import Window, does_not_fit, require_expressible
from compiler.schedule.tiles import TABLE, Memory, Ref, Stored, Tensor
from isa.diagnostics import Diagnostic
from isa.instructions.dma import merge_rows
from isa.instructions.records import QuantRecord
from isa.instructions.vector import Pool, Pooling, Softmax, VectorMove
from isa.instructions.vector_elementwise import Elementwise, VectorElementwise
from isa.spec import greatest

MAX_POOL_EXTENT: Final = greatest(Pooling, "oh")
MAX_POOL_INPUT: Final = greatest(Pooling, "ih")
MAX_POOL_ROW: Final = greatest(Pooling, "irs")
MAX_ROWS: Final = greatest(VectorElementwise, "h")
MAX_CHANNELS: Final = greatest(VectorElementwise, "c")
MAX_ROW: Final = greatest(VectorElementwise, "ars")
MAX_SOFTMAX_CHANNELS: Final = greatest(Softmax, "ips")
MAX_SOFTMAX_ROW: Final = greatest(Softmax, "irs")
MAX_RUN: Final = greatest(VectorMove, "n0")
MAX_MOVE: Final = tuple(greatest(VectorMove, f"n{level}") for level in (1, 2, 3))
MAX_MOVE_PITCH: Final = greatest(VectorMove, "ss1")
SLACK: Final = 256
"""Bytes kept for the alignment of a tile's buffers."""


def plan_pool(b: Builder, node: Node, x: View, out: Tensor, budget: int) -> None:
    """Pooling: tiles over rows, columns and channels."""
    operation = node.op
    assert isinstance(operation, (MaxPool, QAveragePool))
    _, h, w, channels = x.shape
    require_expressible(
        node, Pooling, kernel=operation.kernel, strides=operation.strides, pads=operation.pads[:2]
    )
    rows = Window(h, operation.kernel[0], operation.strides[0], 1, operation.pads[0])
    columns = Window(w, operation.kernel[1], operation.strides[1], 1, operation.pads[1])
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

    th, tw, tc = _fit_box(node, (oh, ow, channels), needed, allowed, budget)
    average = isinstance(operation, QAveragePool)
    record = b.parameters(_average_record(node), "record") if average else None
    for n, rs, cs, ch in _tiles(b, out.shape, (th, tw, tc)):
        box_h, top = rows.valid(rs, Span(0, rows.taps))
        box_w, left = columns.valid(cs, Span(0, columns.taps))
        source = b.fetch(x, n, box_h, box_w, ch, "input")
        target = b.result(out, n, rs, cs, ch, "output")
        instr = Pooling(
            fn=Pool.AVG if average else Pool.MAX,
            oh=rs.extent,
            ow=cs.extent,
            c=ch.extent,
            kh=rows.taps,
            kw=columns.taps,
            sh=rows.stride,
            sw=columns.stride,
            ips=source.pixel_pitch,
            irs=source.row_pitch,
            ih=box_h.extent,
            iw=box_w.extent,
            pt=top,
            pl=left,
            ops=target.pixel_pitch,
            ors=target.row_pitch,
            cip=int(isinstance(operation, QAveragePool) and operation.count_include_pad),
            xt=element(node.inputs[0]),
            ot=element(node),
        )
        bind = {"inp": source.ref, "out": target.ref} | ({"prm": record} if record is not None else {})
        b.emit(instr, bind, ("out",), stored=stored(out, n, rs, cs, ch))
        b.deliver(out, target, n, rs, cs, ch)


def plan_add(b: Builder, node: Node, inputs: list[View], out: Tensor, budget: int) -> None:
    """Addition: tiles over rows, columns and channels."""
    operation = node.op
    assert isinstance(operation, QAdd)
    p = operation.constants([i.type for i in node.inputs], node.type)
    low, high = operation.bounds
    record = QuantRecord(tuple(p), lo=low, hi=high)
    params = b.parameters(record.pack(), "record")
    _, h, w, c = out.shape
    copies = sum(not v.tensor.resident for v in inputs) + (not out.resident)
    th, tw, tc = _fit_box(node, (h, w, c), _dense(copies), _elementwise_limits, budget)
    for n, rs, cs, ch in _tiles(b, out.shape, (th, tw, tc)):
        left, right = (b.fetch(v, n, rs, cs, ch, role) for v, role in zip(inputs, ("a", "b"), strict=True))
        target = b.result(out, n, rs, cs, ch, "output")
        instr = VectorElementwise(
            fn=Elementwise.ADD,
            h=rs.extent,
            w=cs.extent,
            c=ch.extent,
            aps=left.pixel_pitch,
            ars=left.row_pitch,
            bps=right.pixel_pitch,
            brs=right.row_pitch,
            ops=target.pixel_pitch,
            ors=target.row_pitch,
            at=element(node.inputs[0]),
            bt=element(node.inputs[1]),
            ot=element(node),
        )
        b.emit(
            instr,
            {"a": left.ref, "b": right.ref, "out": target.ref, "prm": params},
            ("out",),
            stored=stored(out, n, rs, cs, ch),
        )
        b.deliver(out, target, n, rs, cs, ch)


def plan_table(b: Builder, node: Node, x: View, out: Tensor, budget: int) -> None:
    """A function of one value: every byte through a table."""
    operation = node.op
    assert isinstance(operation, QTable)
    codes = operation.codes(node.inputs[0].quant, node.quant)
    table = b.parameters(codes.tobytes(), "table", align=TABLE)
    table = Ref(table.buffer, 0, TABLE)
    _, h, w, c = out.shape
    copies = (not x.tensor.resident) + (not out.resident)
    th, tw, tc = _fit_box(node, (h, w, c), _dense(copies), _move_limits, budget)
    for n, rs, cs, ch in _tiles(b, out.shape, (th, tw, tc)):
        source = b.fetch(x, n, rs, cs, ch, "input")
        target = b.result(out, n, rs, cs, ch, "output")
        instr = _move(
            ch.extent,
            [
                (cs.extent, source.pixel_pitch, target.pixel_pitch),
                (rs.extent, source.row_pitch, target.row_pitch),
            ],
        )
        b.emit(
            instr,
            {"src": source.ref, "dst": target.ref, "lut": table},
            ("dst",),
            stored=stored(out, n, rs, cs, ch, "dst"),
        )
        b.deliver(out, target, n, rs, cs, ch)


def plan_softmax(b: Builder, node: Node, x: View, out: Tensor, budget: int) -> None:
    """Softmax over the last dimension: tiles over pixels, never over channels."""
    operation = node.op
    assert isinstance(operation, QSoftmax)
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
    th, tw, _ = _fit_box(
        node,
        (h, w, c),
        _dense(copies),
        lambda th, tw, tc: tc == c and max(th, tw) <= MAX_ROWS and tw * c <= MAX_SOFTMAX_ROW,
        budget,
    )
    whole = Span(0, c)
    for n, rs, cs in itertools.product(range(out.shape[0]), spans(h, th), spans(w, tw)):
        b.tile = (n, rs.start, cs.start)
        source = b.fetch(x, n, rs, cs, whole, "input")
        target = b.result(out, n, rs, cs, whole, "output")
        instr = Softmax(
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
            ("out",),
            stored=stored(out, n, rs, cs, whole),
        )
        b.deliver(out, target, n, rs, cs, whole)


def plan_transpose(b: Builder, node: Node, x: View, out: Tensor, budget: int) -> None:
    """A transpose by strided copies within the scratchpad; the first input dimension is a loop."""
    operation = node.op
    assert isinstance(operation, Transpose)
    perm = (*range(4 - len(operation.perm)), *(p + 4 - len(operation.perm) for p in operation.perm))
    assert not x.tensor.resident
    assert not out.resident
    sizes = x.shape[1:]
    th, tw, tc = _fit_box(node, sizes, _dense(2), _transpose_limits, budget)
    for n, rs, cs, ch in _tiles(b, x.shape, (th, tw, tc)):
        source = b.fetch(x, n, rs, cs, ch, "input")
        box = (Span(n, n + 1), rs, cs, ch)
        _emit_transpose(b, out, source, box, perm)


def _emit_transpose(
    b: Builder, out: Tensor, source: Piece, box: tuple[Span, ...], perm: tuple[int, ...]
) -> None:
    extents = [box[p].extent for p in perm]
    buffer = b.buffer("output", Memory.SPM, math.prod(extents))
    source_pitch = [0, source.row_pitch, source.pixel_pitch, 1]
    dense = [math.prod(extents[i + 1 :]) for i in range(4)]
    levels = [(extents[i], source_pitch[perm[i]], dense[i]) for i in range(4) if extents[i] > 1]
    run = 1
    if levels and levels[-1][1:] == (1, 1):
        run = levels.pop()[0]
    place = tuple((box[p].start, box[p].stop) for p in perm)
    b.emit(
        _move(run, levels[::-1]),
        {"src": source.ref, "dst": Ref(buffer)},
        ("dst",),
        stored=Stored(out.id, place, "dst"),
    )
    pitches = [math.prod(out.shape[i + 1 :]) for i in range(4)]
    offset = sum(start * pitch for (start, _), pitch in zip(place, pitches, strict=True))
    b.store(
        Ref(buffer),
        Ref(out.home, offset),
        extents[3],
        [(extents[i], pitches[i], dense[i]) for i in (2, 1, 0)],
    )


def _move(run: int, levels: list[tuple[int, int, int]]) -> VectorMove:
    """A copy of runs; levels are (count, source pitch, destination pitch), innermost first."""
    run, rest = merge_rows(run, levels, MAX_RUN)
    (n1, ss1, dd1), (n2, ss2, dd2), (n3, ss3, dd3) = [*rest, (1, 0, 0), (1, 0, 0), (1, 0, 0)][:3]
    return VectorMove(n0=run, n1=n1, n2=n2, n3=n3, ss1=ss1, ss2=ss2, ss3=ss3, dd1=dd1, dd2=dd2, dd3=dd3)


def _tiles(
    b: Builder, shape: tuple[int, int, int, int], size: tuple[int, int, int]
) -> Iterator[tuple[int, Span, Span, Span]]:
    """Every tile of an image (batch index, rows, columns, channels); the builder is told which."""
    n, h, w, c = shape
    th, tw, tc = size
    for index, rows, columns, channels in itertools.product(
        range(n), spans(h, th), spans(w, tw), spans(c, tc)
    ):
        b.tile = (index, rows.start, columns.start, channels.start)
        yield index, rows, columns, channels


def _average_record(node: Node) -> bytes:
    x, y = node.inputs[0].quant, node.quant
    low, high = y.dtype.bounds
    scales = (np.float32(x.scale), np.float32(y.scale))
    return QuantRecord(scales, za=x.zero_point, zo=y.zero_point, lo=low, hi=high).pack()


def _dense(copies: int) -> Callable[[int, int, int], int]:
    """Bytes of a tile that is in the scratchpad so many times."""
    return lambda th, tw, tc: copies * th * tw * tc


def _elementwise_limits(th: int, tw: int, tc: int) -> bool:
    return th <= MAX_ROWS and tw <= MAX_ROWS and tc <= MAX_CHANNELS and tw * tc <= MAX_ROW


def _move_limits(th: int, tw: int, tc: int) -> bool:
    return tc <= MAX_RUN and tw <= MAX_MOVE[0] and th <= MAX_MOVE[1] and tw * tc <= MAX_MOVE_PITCH


def _transpose_limits(th: int, tw: int, tc: int) -> bool:
    return max(th, tw, tc) <= MAX_MOVE[2] and th * tw * tc <= MAX_MOVE_PITCH


def _fit_box(
    node: Node,
    extents: tuple[int, int, int],
    needed: Callable[[int, int, int], int],
    allowed: Callable[[int, int, int], bool],
    budget: int,
) -> tuple[int, int, int]:
    """The largest (rows, columns, channels) that fits: rows shrink first, then columns, then channels.

    Raises:
        FitError: not even one element fits.
    """
    h, w, c = extents
    for tc, tw, th in itertools.chain(
        ((c, w, _cut(h, i)) for i in _pieces(h)),
        ((c, _cut(w, i), 1) for i in _pieces(w)),
        ((_cut(c, i), 1, 1) for i in _pieces(c)),
    ):
        if allowed(th, tw, tc) and needed(th, tw, tc) + SLACK <= budget:
            return th, tw, tc
    raise does_not_fit(node, needed(1, 1, 1 if allowed(1, 1, 1) else c) + SLACK, budget)


def _pieces(extent: int) -> list[int]:
    return sorted({-(-extent // -(-extent // p)) for p in range(1, min(extent, 4096) + 1)} | {extent})


def _cut(extent: int, pieces: int) -> int:
    return -(-extent // pieces)
