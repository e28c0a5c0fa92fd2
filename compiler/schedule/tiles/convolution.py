"""Tiles of convolutions.

A convolution is cut over output channels, rows and columns so that a tile fits into the
accumulators, and over input channels and kernel rows so that its operands fit into the
scratchpad; the parts of a sum follow one another with `accum`. Groups become convolutions of some of
the channels: several small groups one of block-diagonal weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Node
from compiler.ir.op import Op
from compiler.ir.types import Shape
from compiler.ops.conv2d import QConv2d
from compiler.ops.sliding_window import Pads, Pair, zero_of
from compiler.schedule.builder import (
    Builder,
    Place,
    Span,
    View,
    Views,
    Window,
    element,
    packed_bytes,
    spans,
    stored,
    tiles_of,
)
from compiler.schedule.tile_graph import Buffer, Memory, Piece, Ref, Tensor, aligned
from compiler.schedule.tiles.depthwise import is_depthwise, plan_depthwise
from compiler.schedule.tiles.limits import does_not_fit, require_expressible
from compiler.schedule.tiles.products import (
    ACC_PARTS,
    MAX_GROUP_ROWS,
    SeenWindow,
    TileExit,
    code_zero,
    convolution_windows,
    cuts,
    record_groups,
    requant_records,
    requantize,
    seen_window,
    waiting_cycles,
)
from isa.instructions.matrix import Conv, Count, array_overhead, depth_passes, pass_cycles
from isa.memory_map import Space, address_unit
from isa.spec import greatest
from isa.support.records import Frozen
from isa.target import Target

MAX_EXTENT: Final = greatest(Conv, "oh")
MAX_INPUT_EXTENT: Final = greatest(Conv, "ih")
MAX_INPUT_ROW: Final = greatest(Conv, "irs")
MAX_CHANNELS: Final = greatest(Conv, "cin")
RAMP: Final = 64
"""Divides the work of one tile that counts besides the longest of array, copies and vector unit in all.

What fills and ends has nothing beside it. A compromise: a smaller figure makes tiles smaller, so that
they begin and end sooner; a larger one makes fewer, so that less is filled and drained.
"""
TILES_KEPT: Final = 1024
"""Choices of a tile that are remembered: more than a network has, in all the schedules that are tried."""


class ConvTile(Frozen):
    """The sizes of a tile: output rows, columns and channels, input channels, kernel rows."""

    oh: int
    ow: int
    cout: int
    cin: int
    kh: int


class ConvShape(Frozen):
    """What the choice of a tile depends on."""

    rows: Window
    columns: Window
    oh: int
    ow: int
    cin: int
    cout: int
    input_resident: bool
    output_resident: bool
    copies: int
    """Tiles of the result that are in the scratchpad, beside those that are there as a whole."""
    weights_resident: bool
    """Whether the weights come once, for many tiles."""
    overlap: bool
    """Whether array, vector unit and copies work side by side: on halves of the accumulators, then."""
    packing: bool
    """Whether the columns of the kernel may be laid side by side on the rows of the array."""

    def pixels(self, t: ConvTile) -> int:
        """Pixels of the input that a tile reads."""
        return self.rows.reach(t.oh, t.kh) * self.columns.reach(t.ow, self.columns.taps)

    def bytes_needed(self, t: ConvTile, cols: int) -> int:
        """Scratchpad bytes of a tile."""
        needed = aligned(-(-t.cout // cols) * cols * t.kh * self.columns.taps * t.cin)
        if not self.input_resident:
            needed += aligned(self.pixels(t) * t.cin)
        return needed + self.copies * aligned(t.oh * t.ow * t.cout)

    def packs(self, kh: Count, cin: Count, rows: int) -> Any:
        """Whether laying the columns of the kernel side by side makes fewer passes."""
        together, apart = depth_passes(kh, self.columns.taps, cin, rows)
        whole = (cin == self.cin) | (not self.input_resident)
        return (self.packing and self.columns.dilation == 1) & whole & (together < apart)

    def costs(self, tiles: Sequence[ConvTile], target: Target) -> NDArray[np.float64]:
        """Cycles with each tile, roughly: the longest of copies, array and vector work, or their sum."""
        sizes = [(t.oh, t.ow, t.cout, t.cin, t.kh, self.pixels(t)) for t in tiles]
        columns: list[NDArray[np.int64]] = list(np.array(sizes, np.int64).T)
        oh, ow, cout, cin, kh, pixels = columns
        cols, rows, taps = target.mx.cols, target.mx.rows, self.columns.taps
        channel_tiles, image_tiles = -(-self.cout // cout), -(-self.oh // oh) * -(-self.ow // ow)
        parts = -(-self.cin // cin) * -(-self.rows.taps // kh)
        groups = -(-cout // cols)
        tiles_made = channel_tiles * image_tiles
        loads = tiles_made * parts * (0 if self.input_resident else pixels * cin)
        if not self.weights_resident:
            weights = groups * cols * kh * taps * cin
            loads += channel_tiles * parts * weights * np.where(parts > 1, image_tiles, 1)
        stores = 0 if self.output_resident else self.oh * self.ow * self.cout
        packed: NDArray[np.bool_] = self.packs(kh, cin, rows)
        passes: NDArray[np.int64] = groups * np.where(packed, *depth_passes(kh, taps, cin, rows))
        # As if the next weights always arrived under a pass, also where wload_double is false.
        each = passes * pass_cycles(target, oh * ow) + array_overhead(target)
        array = tiles_made * parts * each
        copies = (loads + stores) / target.dram.bytes_per_cycle
        if self.overlap:
            vector = tiles_made * groups * cols * oh * ow / target.vx.lanes
            beats = tiles_made * oh * ow * -(-groups * cols // target.spm.port_bytes)
            works = np.stack([array, copies, vector, beats])
            return works.max(axis=0) + (array + copies + vector + beats) / RAMP / tiles_made
        return copies + array + waiting_cycles(tiles_made, parts, target)


class ConvGroup(Frozen):
    """A convolution of some channels of a grouped one, not grouped itself: its weights (out, in, kh, kw)."""

    first_in: int
    first_out: int
    shape: Shape
    weights: NDArray[Any] | None = None
    """What the compiler knows of them."""
    offset: int = 0
    """Where they begin in their image."""


class ConvKind:
    """Where weights of a convolution come from, and how sums become codes: constants, a scale each."""

    def geometry(self, node: Node) -> tuple[Pair, Pair, Pads]:
        """Strides, dilations and pads."""
        operation = node.op
        assert isinstance(operation, QConv2d)
        return operation.strides, operation.dilations, operation.pads

    def is_depthwise(self, node: Node) -> bool:
        """Whether the lanes compute it, a channel each."""
        return is_depthwise(node)

    def groups(self, node: Node, cols: int) -> Iterator[ConvGroup]:
        """The groups, as many at a time as fill the columns of the array."""
        operation, weights = node.op, node.inputs[1].constant
        assert isinstance(operation, QConv2d)
        cout, cin = weights.shape[0] // operation.groups, weights.shape[1]
        if operation.groups == 1:
            yield ConvGroup(0, 0, weights.shape, weights)
            return
        for groups in spans(operation.groups, max(cols // cout, 1)):
            shape = (groups.extent * cout, groups.extent * cin, *weights.shape[2:])
            diagonal = np.full(shape, zero_of(node.inputs[1].type), weights.dtype)
            for index in range(groups.extent):
                first = (groups.start + index) * cout
                rows, columns = (
                    slice(index * cout, (index + 1) * cout),
                    slice(index * cin, (index + 1) * cin),
                )
                diagonal[rows, columns] = weights[first : first + cout]
            yield ConvGroup(groups.start * cin, groups.start * cout, shape, diagonal)

    def image(self, b: Builder, node: Node, group: ConvGroup, view: Views) -> Buffer:
        """The weights in DRAM as `[group][kh][kw][cin][C]`, padded lanes 0."""
        del view
        assert group.weights is not None
        return _packed_weights(b, node.inputs[1].name, group.weights)

    def records(self, b: Builder, node: Node, channels: Span, view: Views) -> Ref:
        """The records of a channel range, in PRM."""
        del view
        return requant_records(b, node, channels)

    def leave(self, b: Builder, node: Node, acc: Buffer, way: TileExit) -> None:
        """Take a tile out of the accumulators."""
        requantize(b, node, acc, way)


KINDS: Final[dict[type[Op], ConvKind]] = {QConv2d: ConvKind()}
"""Of every operation that is a convolution on the array."""


def _convolved_rows(node: Node, index: int) -> Window:
    """The rows under the windows of some rows of the result."""
    del index
    return convolution_windows(node, *KINDS[type(node.op)].geometry(node))[0]


@tiles_of(QConv2d, reads=_convolved_rows)
def plan_conv(b: Builder, node: Node, operation: QConv2d, view: Views, out: Tensor, budget: int) -> None:
    """A convolution with constant weights."""
    del operation
    convolve(b, node, view, out, budget)


def convolve(b: Builder, node: Node, view: Views, out: Tensor, budget: int) -> None:
    """A convolution: tiles over channels, rows and columns; each a sum of parts, then requantized."""
    kind = KINDS[type(node.op)]
    if b.once("depthwise", lambda: kind.is_depthwise(node)):
        plan_depthwise(b, node, view(0), out, budget)
        return
    b.once("expressible", lambda: _require_expressible(node, kind))
    for group in kind.groups(node, b.target.mx.cols):
        _plan_group(b, node, view, out, group, kind, budget)


def _require_expressible(node: Node, kind: ConvKind) -> None:
    strides, dilations, pads = kind.geometry(node)
    kernel = node.inputs[1].shape[2:]
    require_expressible(node, Conv, kernel=kernel, strides=strides, dilations=dilations, pads=pads[:2])


class ConvPlan(Frozen):
    """What the tiles of a convolution, or of one of its groups, have in common."""

    b: Builder
    node: Node
    x: View
    out: Tensor
    group: ConvGroup
    shape: ConvShape
    tile: ConvTile
    image: Buffer
    """The packed weights in DRAM."""
    kind: ConvKind


class ConvPart(Frozen):
    """One of the sums that a tile consists of: some rows of the kernel, some input channels."""

    taps: Span
    cin: Span


def _plan_group(
    b: Builder, node: Node, view: Views, out: Tensor, group: ConvGroup, kind: ConvKind, budget: int
) -> None:
    x = view(0)
    shape = _conv_shape(b, node, x, out, group)
    tile = b.once(("tile", shape), lambda: choose_conv_tile(node, shape, b.target, budget))
    image = b.once(("image", group.first_out), lambda: kind.image(b, node, group, view))
    plan = ConvPlan(b, node, x, out, group, shape, tile, image, kind)
    for channels in spans(shape.cout, tile.cout):
        params = kind.records(b, node, channels.shifted(group.first_out), view)
        held: Buffer | None = None
        for n, h, w in itertools.product(
            b.images(x.shape[0]), b.rows(out.shape[1], tile.oh), spans(shape.ow, tile.ow)
        ):
            b.tile = (n, h.start, w.start, group.first_out + channels.start)
            held = _conv_tile(plan, (n, h, w, channels), params, held)


def choose_conv_tile(node: Node, shape: ConvShape, target: Target, budget: int) -> ConvTile:
    """The cheapest tile that fits.

    Raises:
        FitError: not even the smallest does.
    """
    best = _best_tile(shape, target, budget)
    if best is None:
        least = ConvTile(1, 1, min(shape.cout, target.mx.cols), min(shape.cin, target.mx.rows), 1)
        raise does_not_fit(node, shape.bytes_needed(least, target.mx.cols), budget)
    return best


@lru_cache(maxsize=TILES_KEPT)
def _best_tile(shape: ConvShape, target: Target, budget: int) -> ConvTile | None:
    """The cheapest tile that fits, if one does; networks repeat their layers."""
    tiles = list(_conv_tiles(shape, target, budget))
    return tiles[int(shape.costs(tiles, target).argmin())] if tiles else None


def _conv_tiles(shape: ConvShape, target: Target, budget: int) -> Iterator[ConvTile]:
    cols = target.mx.cols
    acc = min(target.acc.rows // (ACC_PARTS if shape.overlap else 1), MAX_GROUP_ROWS)
    groups = min(-(-shape.cout // cols), MAX_CHANNELS // cols, record_groups(target))
    for g, ow, cin, kh in itertools.product(
        cuts(groups),
        cuts(min(shape.ow, MAX_EXTENT)),
        _channel_cuts(shape.cin, target.mx.rows),
        cuts(shape.rows.taps),
    ):
        cout = min(g * cols, shape.cout)
        reach = shape.columns.reach(ow, shape.columns.taps)
        if g * ow > acc or reach > MAX_INPUT_EXTENT or reach * cin > MAX_INPUT_ROW:
            continue
        most = min(shape.oh, acc // (g * ow), MAX_EXTENT)
        for oh in cuts(most):
            balanced = -(-shape.oh // -(-shape.oh // oh))
            tile = ConvTile(balanced, ow, cout, cin, kh)
            if shape.bytes_needed(tile, cols) <= budget and shape.rows.reach(oh, kh) <= MAX_INPUT_EXTENT:
                yield tile
                break


def _channel_cuts(channels: int, rows: int) -> list[int]:
    """Input channels of a part: all, or whole multiples of the array's rows."""
    if channels <= min(rows, MAX_CHANNELS):
        return [channels]
    blocks = -(-channels // rows)
    sizes = {min(c * rows, channels) for c in cuts(blocks)}
    return sorted((s for s in sizes if s <= MAX_CHANNELS), reverse=True)


def _conv_shape(b: Builder, node: Node, x: View, out: Tensor, part: ConvGroup) -> ConvShape:
    cout, cin = part.shape[:2]
    copies = (0 if out.resident else 1) + (b.joined.copies if b.joined is not None else 0)
    rows, columns = b.once("windows", lambda: convolution_windows(node, *KINDS[type(node.op)].geometry(node)))
    _, oh, ow, _ = out.shape
    return ConvShape(
        rows,
        columns,
        b.height(oh),
        ow,
        cin,
        cout,
        x.tensor.resident,
        out.resident,
        copies,
        b.stripe is not None,
        b.options.overlap,
        b.options.packing,
    )


def _conv_tile(plan: ConvPlan, at: Place, params: Ref, held: Buffer | None) -> Buffer | None:
    """One tile; `held` is the weight buffer of the tile before, kept where the sum has one part."""
    b, shape, tile, group = plan.b, plan.shape, plan.tile, plan.group
    n, h, w, channels = at
    groups = -(-channels.extent // b.target.mx.cols)
    acc = b.buffer("acc", Memory.ACC, groups * h.extent * w.extent, 1)
    cuts_of_sum = itertools.product(spans(shape.rows.taps, tile.kh), spans(shape.cin, tile.cin))
    parts = [ConvPart(taps, cin) for taps, cin in cuts_of_sum]
    started = False
    for part in parts:
        window = seen_window(shape.rows, shape.columns, h, w, part.taps)
        if window is None:
            continue  # this part sees padding alone
        source = b.fetch(plan.x, n, window.rows, window.columns, part.cin.shifted(group.first_in), "input")
        if held is None or len(parts) > 1:
            held = _load_weights(plan, channels, part)
        instr = _conv(plan, at, part, window, source, accum=started)
        b.emit(instr, {"inp": source.ref, "wgt": Ref(held), "acc": Ref(acc)})
        started = True
    if not started:
        b.fill(Ref(acc), address_unit(b.target, Space.ACC), acc.size)
    place = n, h, w, channels.shifted(group.first_out)
    piece = b.result(plan.out, *place, "output")
    plan.kind.leave(b, plan.node, acc, TileExit(piece, params, at, stored(plan.out, *place)))
    b.deliver(plan.out, piece, *place)
    return held


def _conv(
    plan: ConvPlan, at: Place, part: ConvPart, window: SeenWindow, source: Piece, *, accum: bool
) -> Conv:
    """The instruction of a part of a tile."""
    shape, (x, weights, *_) = plan.shape, plan.node.inputs
    _, h, w, channels = at
    dense = source.pixel_pitch == part.cin.extent
    return Conv(
        oh=h.extent,
        ow=w.extent,
        cin=part.cin.extent,
        cout=channels.extent,
        kh=part.taps.extent,
        kw=shape.columns.taps,
        sh=shape.rows.stride,
        sw=shape.columns.stride,
        dh=shape.rows.dilation if part.taps.extent > 1 else 1,
        dw=shape.columns.dilation if shape.columns.taps > 1 else 1,
        ips=source.pixel_pitch,
        irs=source.row_pitch,
        ih=window.rows.extent,
        iw=window.columns.extent,
        pt=window.top,
        pl=window.left,
        zx=code_zero(x.type),
        zw=code_zero(weights.type),
        xt=element(x),
        wt=element(weights),
        accum=int(accum),
        pack=int(dense and shape.packs(part.taps.extent, part.cin.extent, plan.b.target.mx.rows)),
        ags=h.extent * w.extent if channels.extent > plan.b.target.mx.cols else 0,
    )


def _packed_weights(b: Builder, name: str, weights: NDArray[Any]) -> Buffer:
    """The weights in DRAM as `[group][kh][kw][cin][C]`, padded lanes 0."""
    cols = b.target.mx.cols
    cout, cin, kh, kw = weights.shape
    groups = -(-cout // cols)
    padded = np.zeros((groups * cols, cin, kh, kw), weights.dtype)
    padded[:cout] = weights
    packed = padded.reshape(groups, cols, cin, kh, kw).transpose(0, 3, 4, 2, 1)
    return b.image(Memory.WEIGHTS, packed_bytes(packed), name)


def _load_weights(plan: ConvPlan, channels: Span, part: ConvPart) -> Buffer:
    """The weights of a part, gathered from the packed image."""
    key = plan.group.first_out, channels, part.taps, part.cin
    return plan.b.once(key, lambda: _gathered(plan, channels, part))


def _gathered(plan: ConvPlan, channels: Span, part: ConvPart) -> Buffer:
    b, taps, cin = plan.b, part.taps, part.cin
    cols = b.target.mx.cols
    _, all_cin, kh, kw = plan.group.shape
    groups = -(-channels.extent // cols)
    row = cin.extent * cols
    buffer = b.buffer("weights", Memory.SPM, groups * taps.extent * kw * row)
    offset = ((channels.start // cols * kh + taps.start) * kw * all_cin + cin.start) * cols
    levels = [
        (taps.extent * kw, all_cin * cols, row),
        (groups, kh * kw * all_cin * cols, taps.extent * kw * row),
    ]
    b.load(Ref(plan.image, plan.group.offset + offset), Ref(buffer), row, levels)
    return buffer
