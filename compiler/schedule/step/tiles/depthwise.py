"""Depthwise convolutions of a step: codes of kernels as the lanes read them, sums for their gradients."""

from __future__ import annotations

from functools import partial
from typing import Final

from compiler.ir.graph import Node
from compiler.ir.types import Shape
from compiler.schedule.builder import Span, View, Views, Window, element, spans, stored
from compiler.schedule.step.builder import ACC_SHARE, StepBuilder
from compiler.schedule.step.rows import StateRows
from compiler.schedule.step.tiles.exits import bias_records, factor_of, requantize_shifted
from compiler.schedule.tile_graph import Buffer, Memory, Ref, Tensor, aligned
from compiler.schedule.tiles.boxes import fit_box, tiles
from compiler.schedule.tiles.limits import require_expressible
from compiler.schedule.tiles.products import TileExit, convolution_windows, seen_window
from compiler.train.integer.convolution import Conv2dWeightSums, StepConv2d, TurnWeights
from compiler.train.integer.weights import QuantizeWeights
from isa.instructions.dma import Fill, OnChip
from isa.instructions.vector import Requantize
from isa.instructions.vector_depthwise_sums import DepthwiseSums
from isa.spec import greatest

MAX_OUTPUT: Final = greatest(DepthwiseSums, "oh")
MAX_INPUT: Final = greatest(DepthwiseSums, "ih")
MAX_CHANNELS: Final = greatest(DepthwiseSums, "c")
MAX_ROW: Final = greatest(DepthwiseSums, "irs")


def is_depthwise(node: Node) -> bool:
    """Whether an operation has a kernel of its own for every channel: on the lanes, not on the array."""
    operation = node.op
    if isinstance(operation, StepConv2d):
        weights = node.inputs[1].shape
    elif isinstance(operation, Conv2dWeightSums):
        weights = operation.shape
    else:
        return False
    return operation.groups > 1 and weights[:2] == (operation.groups, 1)


def on_lanes(weights: Node) -> bool:
    """Whether codes of weights lie as `vdwa` reads them: `[kh * kw][c]`."""
    users = [*weights.graph.users(weights), weights]
    return any(is_depthwise(u) or _turns_lanes(u) for u in users)


def _turns_lanes(node: Node) -> bool:
    operation = node.op
    if not isinstance(operation, TurnWeights):
        return False
    return operation.groups > 1 and node.inputs[0].shape[:2] == (operation.groups, 1)


def groups_in(node: Node) -> int:
    """The groups of codes of weights, or of sums for them, where each lies by itself."""
    operation = node.op
    if isinstance(operation, QuantizeWeights):
        users = [u.op for u in node.graph.users(node)]
        found = {u.groups for u in users if isinstance(u, (StepConv2d, TurnWeights))}
    else:
        found = {operation.groups} if isinstance(operation, (TurnWeights, Conv2dWeightSums)) else set[int]()
    return max(found, default=1) if not (is_depthwise(node) or on_lanes(node)) else 1


def stored_shape(node: Node) -> Shape:
    """The shape of codes of weights, or of sums for them, as they lie: of a grouped kernel groups apart."""
    groups, shape = groups_in(node), node.shape
    return shape if groups == 1 else (groups, shape[0] // groups, *shape[1:])


def quantize_lanes(s: StepBuilder, node: Node, out: Tensor, rows: StateRows) -> None:
    """Rows of the state, a group of channels after another, to codes of all channels, tap after tap."""
    channels, _, kh, kw = rows.shape
    taps = kh * kw
    acc = s.rows_of("words", rows.count)
    s.load_words(s.homes[node.inputs[0].id], Ref(acc), rows.count)
    codes = s.buffer("codes", Memory.SPM, taps * channels)
    shape = Requantize(
        h=taps, w=1, c=channels, ags=taps if rows.groups > 1 else 0, aws=1 if taps > 1 else 0, ops=channels,
        ors=channels,
    )  # fmt: skip
    s.quantize(shape, Ref(acc), Ref(codes), s.numbers.read(node.inputs[1]))
    s.store(Ref(codes), Ref(out.home), taps * channels, [])


def turn_lanes(s: StepBuilder, node: Node, view: View, out: Tensor) -> None:
    """The taps in another order."""
    operation = node.op
    assert isinstance(operation, TurnWeights)
    channels, _, _, kw = node.inputs[0].shape
    source = view.tensor.home
    for y, ky in enumerate(operation.rows):
        for x, kx in enumerate(operation.columns):
            held = s.buffer("tap", Memory.SPM, channels)
            if min(ky, kx) < 0:
                s.emit(Fill(space=OnChip.SPM, n0=channels), {"loc": Ref(held)}, "load")
            else:
                s.load(Ref(source, (ky * kw + kx) * channels), Ref(held), channels, [])
            at = (y * len(operation.columns) + x) * channels
            s.store(Ref(held), Ref(out.home, at), channels, [])


def plan_depthwise(s: StepBuilder, node: Node, view: Views, out: Tensor, budget: int) -> None:
    """Tiles over channels, rows and columns; sums in accumulators, then shifted."""
    operation, x = node.op, view(0)
    assert isinstance(operation, StepConv2d)
    geometry = operation.strides, operation.dilations, operation.pads
    kernel = node.inputs[1].shape[2:]
    require_expressible(
        node, DepthwiseSums, kernel=kernel, strides=operation.strides, pads=operation.pads[:2]
    )
    rows, columns = convolution_windows(node, *geometry)
    _, _, ow, channels = out.shape
    most = s.target.acc.rows // ACC_SHARE

    def needed(th: int, tw: int, tc: int) -> int:
        box = rows.reach(th, rows.taps) * columns.reach(tw, columns.taps)
        moved = 0 if x.tensor.resident else aligned(box * tc)
        moved += 0 if out.resident else aligned(th * tw * tc)
        return moved + aligned(kernel[0] * kernel[1] * tc)

    def allowed(th: int, tw: int, tc: int) -> bool:
        height, width = rows.reach(th, rows.taps), columns.reach(tw, columns.taps)
        return (
            max(th, tw) <= MAX_OUTPUT
            and max(height, width) <= MAX_INPUT
            and tc <= MAX_CHANNELS
            and width * tc <= MAX_ROW
            and th * tw * -(-tc // s.cols) <= most
            and (tc == channels or tc % s.cols == 0)
        )

    size = fit_box(node, (s.height(out.shape[1]), ow, channels), needed, allowed, budget)
    for c in spans(channels, size[2]):
        held = s.once(("kernels", c), partial(_kernels, s, node, view(1), c))
        params = s.once(("records", c), partial(bias_records, s, node.inputs[2], c, view, factor_of(node)))
        shape = (*out.shape[:3], c.extent)
        for n, h, w, _ in tiles(s, shape, (size[0], size[1], c.extent)):
            _tile(s, node, (x, out), (n, h, w, c), (rows, columns), (held, params))


def _kernels(s: StepBuilder, node: Node, weights: View, channels: Span) -> Buffer:
    """The kernels of some channels in the scratchpad."""
    every, _, kh, kw = node.inputs[1].shape
    held = s.buffer("kernels", Memory.SPM, kh * kw * channels.extent)
    levels = [(kh * kw, every, channels.extent)]
    s.load(Ref(weights.tensor.home, channels.start), Ref(held), channels.extent, levels)
    return held


def _tile(
    s: StepBuilder,
    node: Node,
    maps: tuple[View, Tensor],
    at: tuple[int, Span, Span, Span],
    windows: tuple[Window, Window],
    held: tuple[Buffer, Ref],
) -> None:
    (x, out), (n, h, w, c), (rows, columns) = maps, at, windows
    count = h.extent * w.extent
    window = seen_window(rows, columns, h, w, Span(0, rows.taps))
    if window is None:  # padding alone
        acc = s.zeroed("sums", -(-c.extent // s.cols) * count)
    else:
        acc = s.rows_of("sums", -(-c.extent // s.cols) * count)
        source = s.fetch(x, n, window.rows, window.columns, c, "input")
        dilation = max(rows.dilation if rows.taps > 1 else 1, columns.dilation if columns.taps > 1 else 1)
        instr = DepthwiseSums(
            oh=h.extent, ow=w.extent, c=c.extent, kh=rows.taps, kw=columns.taps, sh=rows.stride,
            sw=columns.stride, d=dilation if rows.taps * columns.taps > 1 else 1, ips=source.pixel_pitch,
            irs=source.row_pitch, ih=window.rows.extent, iw=window.columns.extent, pt=window.top,
            pl=window.left, ags=count if c.extent > s.cols else 0, xt=element(node.inputs[0]),
        )  # fmt: skip
        s.emit(instr, {"inp": source.ref, "wgt": Ref(held[0]), "acc": Ref(acc)})
    piece = s.result(out, *at, "output")
    requantize_shifted(s, node, acc, TileExit(piece, held[1], at, stored(out, *at)))
    s.deliver(out, piece, *at)
