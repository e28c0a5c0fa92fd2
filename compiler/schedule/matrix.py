"""Tiles of convolutions and matrix products.

A convolution is cut over output channels, rows and columns so that a tile fits into the
accumulators, and over input channels and kernel rows so that its operands fit into the
scratchpad; the parts of a sum follow one another with `accum`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ops import conv2d as conv_op
from compiler.ops import gemm as gemm_op
from compiler.ops.spatial import zero_of
from compiler.schedule.builder import Builder, Piece, Span, View, element, packed_bytes, spans, stored
from compiler.schedule.limits import Window, does_not_fit, require_expressible
from compiler.schedule.tiles import Buffer, Memory, Ref, Stored, Tensor, aligned
from isa.instructions.matrix import Conv, Gemm
from isa.instructions.records import REQUANT_RECORD
from isa.instructions.vector import Requantize
from isa.spec import greatest
from isa.target import Target

MAX_EXTENT: Final = greatest(Conv, "oh")
MAX_INPUT_EXTENT: Final = greatest(Conv, "ih")
MAX_INPUT_ROW: Final = greatest(Conv, "irs")
MAX_CHANNELS: Final = greatest(Conv, "cin")
MAX_GROUP_ROWS: Final = min(greatest(Conv, "ags"), greatest(Requantize, "aws"))
MAX_DEPTH: Final = greatest(Gemm, "k")
MAX_COLUMNS: Final = greatest(Requantize, "c")


@dataclass(frozen=True, slots=True)
class ConvTile:
    """The sizes of a tile: output rows, columns and channels, input channels, kernel rows."""

    oh: int
    ow: int
    cout: int
    cin: int
    kh: int


@dataclass(frozen=True, slots=True)
class ConvShape:
    """What the choice of a tile depends on."""

    rows: Window
    columns: Window
    oh: int
    ow: int
    cin: int
    cout: int
    input_resident: bool
    output_resident: bool

    def bytes_needed(self, t: ConvTile, cols: int) -> int:
        """Scratchpad bytes of a tile."""
        weights = -(-t.cout // cols) * cols * t.kh * self.columns.taps * t.cin
        pixels = self.rows.reach(t.oh, t.kh) * self.columns.reach(t.ow, self.columns.taps)
        needed = aligned(weights)
        needed += 0 if self.input_resident else aligned(pixels * t.cin)
        return needed + (0 if self.output_resident else aligned(t.oh * t.ow * t.cout))

    def cost(self, t: ConvTile, target: Target) -> float:
        """Cycles of all tiles one after another, roughly: DMA, array and vector work."""
        cols, rows = target.mx.cols, target.mx.rows
        channel_tiles, image_tiles = -(-self.cout // t.cout), -(-self.oh // t.oh) * -(-self.ow // t.ow)
        parts = -(-self.cin // t.cin) * -(-self.rows.taps // t.kh)
        groups = -(-t.cout // cols)
        weights = groups * cols * t.kh * self.columns.taps * t.cin
        pixels = self.rows.reach(t.oh, t.kh) * self.columns.reach(t.ow, self.columns.taps) * t.cin
        tiles = channel_tiles * image_tiles
        loads = tiles * parts * (0 if self.input_resident else pixels)
        loads += channel_tiles * parts * weights * (image_tiles if parts > 1 else 1)
        stores = 0 if self.output_resident else self.oh * self.ow * self.cout
        passes = groups * t.kh * self.columns.taps * -(-t.cin // rows)
        array = tiles * parts * (passes * max(t.oh * t.ow, rows) + 2 * rows + cols)
        latency = tiles * (parts * 2 + 1) * target.dram.latency_read
        return (loads + stores) / target.dram.bytes_per_cycle + array + latency


def plan_conv(b: Builder, node: Node, x: View, out: Tensor, budget: int) -> None:
    """A convolution: tiles over channels, rows and columns; each a sum of parts, then requantized."""
    operation = node.op
    assert isinstance(operation, conv_op.QConv2d)
    weights = node.inputs[1]
    shape = _conv_shape(node, operation, x, out)
    kernel = node.inputs[1].shape[2:]
    require_expressible(
        node,
        Conv,
        kernel=kernel,
        strides=operation.strides,
        dilations=operation.dilations,
        pads=operation.pads[:2],
    )
    tile = choose_conv_tile(node, shape, b.target, budget)
    image = _packed_weights(b, weights)
    for channels in spans(shape.cout, tile.cout):
        params = _requant_records(b, node, channels)
        held: Buffer | None = None
        for n, h, w in itertools.product(
            range(x.shape[0]), spans(shape.oh, tile.oh), spans(shape.ow, tile.ow)
        ):
            b.tile = (n, h.start, w.start, channels.start)
            held = _conv_tile(b, node, x, out, shape, tile, image, (n, h, w, channels), params, held)


def choose_conv_tile(node: Node, shape: ConvShape, target: Target, budget: int) -> ConvTile:
    """The cheapest tile that fits.

    Raises:
        FitError: not even the smallest does.
    """
    best: tuple[float, ConvTile] | None = None
    for tile in _conv_tiles(shape, target, budget):
        cost = shape.cost(tile, target)
        if best is None or cost < best[0]:
            best = (cost, tile)
    if best is None:
        least = ConvTile(1, 1, min(shape.cout, target.mx.cols), min(shape.cin, target.mx.rows), 1)
        raise does_not_fit(node, shape.bytes_needed(least, target.mx.cols), budget)
    return best[1]


def _conv_tiles(shape: ConvShape, target: Target, budget: int) -> Iterator[ConvTile]:
    cols, acc = target.mx.cols, min(target.acc.rows, MAX_GROUP_ROWS)
    record_limit = max(target.prm.bytes // 8 // cols, 1)
    groups = min(-(-shape.cout // cols), MAX_CHANNELS // cols, record_limit)
    for g, ow, cin, kh in itertools.product(
        _cuts(groups),
        _cuts(min(shape.ow, MAX_EXTENT)),
        _channel_cuts(shape.cin, target.mx.rows),
        _cuts(shape.rows.taps),
    ):
        cout = min(g * cols, shape.cout)
        reach = shape.columns.reach(ow, shape.columns.taps)
        if g * ow > acc or reach > MAX_INPUT_EXTENT or reach * cin > MAX_INPUT_ROW:
            continue
        most = min(shape.oh, acc // (g * ow), MAX_EXTENT)
        for oh in _cuts(most):
            balanced = -(-shape.oh // -(-shape.oh // oh))
            tile = ConvTile(balanced, ow, cout, cin, kh)
            if shape.bytes_needed(tile, cols) <= budget and shape.rows.reach(oh, kh) <= MAX_INPUT_EXTENT:
                yield tile
                break


def _cuts(extent: int) -> list[int]:
    """Sizes that cut an extent into 1, 2, 3, ... nearly equal pieces, largest first."""
    pieces = [*range(1, 9), *(2**i for i in range(4, 12))]
    return sorted({-(-extent // p) for p in pieces if p <= extent} | {1}, reverse=True)


def _channel_cuts(channels: int, rows: int) -> list[int]:
    """Input channels of a part: all, or whole multiples of the array's rows."""
    if channels <= min(rows, MAX_CHANNELS):
        return [channels]
    blocks = -(-channels // rows)
    sizes = {min(c * rows, channels) for c in _cuts(blocks)}
    return sorted((s for s in sizes if s <= MAX_CHANNELS), reverse=True)


def _conv_shape(node: Node, operation: conv_op.QConv2d, x: View, out: Tensor) -> ConvShape:
    _, h, w, cin = x.shape
    kernel = node.inputs[1].shape[2:]
    rows = Window(h, kernel[0], operation.strides[0], operation.dilations[0], operation.pads[0])
    columns = Window(w, kernel[1], operation.strides[1], operation.dilations[1], operation.pads[1])
    _, oh, ow, cout = out.shape
    return ConvShape(rows, columns, oh, ow, cin, cout, x.tensor.resident, out.resident)


def _conv_tile(
    b: Builder,
    node: Node,
    x: View,
    out: Tensor,
    shape: ConvShape,
    tile: ConvTile,
    image: Buffer,
    at: tuple[int, Span, Span, Span],
    params: Ref,
    held: Buffer | None,
) -> Buffer | None:
    """One tile; `held` is the weight buffer of the tile before, kept where the sum has one part."""
    n, h, w, channels = at
    groups = -(-channels.extent // b.target.mx.cols)
    acc = b.buffer("acc", Memory.ACC, groups * h.extent * w.extent, 1)
    parts = list(itertools.product(spans(shape.rows.taps, tile.kh), spans(shape.cin, tile.cin)))
    started = False
    for taps, cin in parts:
        rows, top = shape.rows.valid(h, taps)
        columns, left = shape.columns.valid(w, Span(0, shape.columns.taps))
        if rows.extent <= 0 or columns.extent <= 0:
            continue  # this part sees padding alone
        piece = b.fetch(x, n, rows, columns, cin, "input")
        if held is None or len(parts) > 1:
            held = _load_weights(b, node, image, channels, taps, cin)
        _emit_conv(b, node, shape, at, piece, held, acc, taps, cin, (rows, columns, top, left), accum=started)
        started = True
    if not started:
        b.fill(Ref(acc), 4 * b.target.mx.cols, acc.size)
    piece = b.result(out, n, h, w, channels, "output")
    _requantize(
        b, node, acc, piece, params, h.extent, w.extent, channels.extent, stored(out, n, h, w, channels)
    )
    b.deliver(out, piece, n, h, w, channels)
    return held


def _emit_conv(
    b: Builder,
    node: Node,
    shape: ConvShape,
    at: tuple[int, Span, Span, Span],
    piece: Piece,
    weights: Buffer,
    acc: Buffer,
    taps: Span,
    cin: Span,
    box: tuple[Span, Span, int, int],
    *,
    accum: bool,
) -> None:
    _, h, w, channels = at
    rows, columns, top, left = box
    area = h.extent * w.extent
    several = channels.extent > b.target.mx.cols
    instr = Conv(
        oh=h.extent,
        ow=w.extent,
        cin=cin.extent,
        cout=channels.extent,
        kh=taps.extent,
        kw=shape.columns.taps,
        sh=shape.rows.stride,
        sw=shape.columns.stride,
        dh=shape.rows.dilation if taps.extent > 1 else 1,
        dw=shape.columns.dilation if shape.columns.taps > 1 else 1,
        ips=piece.pixel_pitch,
        irs=piece.row_pitch,
        ih=rows.extent,
        iw=columns.extent,
        pt=top,
        pl=left,
        zx=node.inputs[0].quant.zero_point,
        zw=zero_of(node.inputs[1].type),
        xt=element(node.inputs[0]),
        wt=element(node.inputs[1]),
        accum=int(accum),
        ags=area if several else 0,
    )
    b.emit(
        instr,
        {"inp": piece.ref, "wgt": Ref(weights), "acc": Ref(acc)},
        ("acc",),
        extra_reads=(acc,) if accum else (),
    )


def _packed_weights(b: Builder, weights: Node) -> Buffer:
    """The weights in DRAM as `[group][kh][kw][cin][C]`, padded lanes 0."""
    cols = b.target.mx.cols
    cout, cin, kh, kw = weights.shape
    groups = -(-cout // cols)
    padded = np.zeros((groups * cols, cin, kh, kw), weights.type.dtype.numpy)
    padded[:cout] = weights.constant
    packed = padded.reshape(groups, cols, cin, kh, kw).transpose(0, 3, 4, 2, 1)
    return b.image(Memory.WEIGHTS, packed_bytes(packed), weights.name)


def _load_weights(b: Builder, node: Node, image: Buffer, channels: Span, taps: Span, cin: Span) -> Buffer:
    """The weights of a part, gathered from the packed image."""
    cols = b.target.mx.cols
    _, all_cin, kh, kw = node.inputs[1].shape
    groups = -(-channels.extent // cols)
    row = cin.extent * cols
    buffer = b.buffer("weights", Memory.SPM, groups * taps.extent * kw * row)
    offset = ((channels.start // cols * kh + taps.start) * kw * all_cin + cin.start) * cols
    levels = [
        (taps.extent * kw, all_cin * cols, row),
        (groups, kh * kw * all_cin * cols, taps.extent * kw * row),
    ]
    b.load(Ref(image, offset), Ref(buffer), row, levels)
    return buffer


def _requant_records(b: Builder, node: Node, channels: Span) -> Ref:
    """The {bias, m} records of a channel range, in PRM."""
    m = node.op.constants([i.type for i in node.inputs], node.type)
    records = np.zeros(channels.extent, REQUANT_RECORD)
    part = slice(channels.start, channels.stop)
    records["bias"], records["m"] = (
        node.inputs[2].constant[part],
        np.broadcast_to(m, node.inputs[2].shape)[part],
    )
    return b.parameters(records.tobytes(), "records")


def _requantize(
    b: Builder, node: Node, acc: Buffer, piece: Piece, params: Ref, h: int, w: int, c: int, mark: Stored
) -> None:
    operation = node.op
    assert isinstance(operation, (conv_op.QConv2d, gemm_op.QGemm))
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
        perch=1,
    )
    b.emit(instr, {"acc": Ref(acc), "out": piece.ref, "prm": params}, ("out",), stored=mark)


@dataclass(frozen=True, slots=True)
class GemmTile:
    """The sizes of a tile: rows, columns, depth."""

    m: int
    n: int
    k: int


def plan_gemm(b: Builder, node: Node, x: View, out: Tensor, budget: int) -> None:
    """A matrix product with constant weights: tiles over columns and rows, sums over depth."""
    weights = node.inputs[1]
    depth, columns = weights.shape
    rows = out.shape[2]
    tile = choose_gemm_tile(node, (rows, columns, depth), b.target, budget, x.tensor.resident)
    image = _packed_matrix(b, weights)
    for n in spans(columns, tile.n):
        params = _requant_records(b, node, n)
        held: Buffer | None = None
        for m in spans(rows, tile.m):
            b.tile = (m.start, n.start)
            acc = b.buffer("acc", Memory.ACC, -(-n.extent // b.target.mx.cols) * m.extent, 1)
            parts = spans(depth, tile.k)
            for index, k in enumerate(parts):
                piece = b.fetch(x, 0, Span(0, 1), m, k, "input")
                if held is None or len(parts) > 1:
                    held = _load_matrix(b, image, depth, n, k)
                _emit_gemm(b, node, piece, held, acc, (m, n, k), accum=index > 0)
            whole = Span(0, 1)
            piece = b.result(out, 0, whole, m, n, "output")
            _requantize(b, node, acc, piece, params, 1, m.extent, n.extent, stored(out, 0, whole, m, n))
            b.deliver(out, piece, 0, whole, m, n)


def choose_gemm_tile(
    node: Node,
    size: tuple[int, int, int],
    target: Target,
    budget: int,
    resident: bool,
) -> GemmTile:
    """The tile that moves the fewest bytes and needs the fewest instructions.

    Raises:
        FitError: not even the smallest fits.
    """
    rows, columns, depth = size
    cols = target.mx.cols
    groups = min(-(-columns // cols), max(target.prm.bytes // 8 // cols, 1), MAX_COLUMNS // cols)
    best: tuple[float, GemmTile] | None = None
    for g, k in itertools.product(_cuts(groups), _depth_cuts(depth, target.mx.rows)):
        n = min(g * cols, columns)
        per_row = (0 if resident else k) + n
        weights = g * cols * k
        m = min(
            rows, target.acc.rows // g, MAX_GROUP_ROWS, max(budget - aligned(weights) - 128, 0) // per_row
        )
        if m < 1:
            continue
        tile = GemmTile(-(-rows // -(-rows // m)), n, k)
        cost = _gemm_cost(tile, size, target)
        if best is None or cost < best[0]:
            best = (cost, tile)
    if best is None:
        k = min(depth, target.mx.rows)
        least = aligned(cols * k) + 128 + (0 if resident else k) + min(cols, columns)
        raise does_not_fit(node, least, budget)
    return best[1]


def _gemm_cost(t: GemmTile, size: tuple[int, int, int], target: Target) -> float:
    rows, columns, depth = size
    m_tiles, n_tiles, parts = -(-rows // t.m), -(-columns // t.n), -(-depth // t.k)
    weights = columns * depth * (m_tiles if parts > 1 else 1)
    moved = weights + n_tiles * rows * depth
    return (
        moved / target.dram.bytes_per_cycle + m_tiles * n_tiles * (parts * 2 + 1) * target.dram.latency_read
    )


def _depth_cuts(depth: int, rows: int) -> list[int]:
    blocks = -(-depth // rows)
    return sorted({min(c * rows, depth) for c in _cuts(blocks) if c * rows <= MAX_DEPTH}, reverse=True)


def _packed_matrix(b: Builder, weights: Node) -> Buffer:
    """The weights in DRAM as `[group][k][C]`, padded columns 0."""
    cols = b.target.mx.cols
    depth, columns = weights.shape
    groups = -(-columns // cols)
    padded = np.zeros((depth, groups * cols), weights.type.dtype.numpy)
    padded[:, :columns] = weights.constant
    return b.image(
        Memory.WEIGHTS, packed_bytes(padded.reshape(depth, groups, cols).transpose(1, 0, 2)), weights.name
    )


def _load_matrix(b: Builder, image: Buffer, depth: int, n: Span, k: Span) -> Buffer:
    cols = b.target.mx.cols
    groups = -(-n.extent // cols)
    run = k.extent * cols
    buffer = b.buffer("weights", Memory.SPM, groups * run)
    offset = (n.start // cols * depth + k.start) * cols
    b.load(Ref(image, offset), Ref(buffer), run, [(groups, depth * cols, run)])
    return buffer


def _emit_gemm(
    b: Builder, node: Node, piece: Piece, weights: Buffer, acc: Buffer, tile: Sequence[Span], *, accum: bool
) -> None:
    m, n, k = (s.extent for s in tile)
    several = n > b.target.mx.cols
    instr = Gemm(
        m=m,
        n=n,
        k=k,
        ap=piece.pixel_pitch,
        bp=b.target.mx.cols,
        bg=k * b.target.mx.cols if several else 0,
        zx=node.inputs[0].quant.zero_point,
        zw=zero_of(node.inputs[1].type),
        xt=element(node.inputs[0]),
        wt=element(node.inputs[1]),
        accum=int(accum),
        ags=m if several else 0,
    )
    b.emit(
        instr,
        {"a": piece.ref, "b": Ref(weights), "acc": Ref(acc)},
        ("acc",),
        extra_reads=(acc,) if accum else (),
    )
