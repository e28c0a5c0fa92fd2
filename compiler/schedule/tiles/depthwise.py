"""Tiles of depthwise convolutions: `vdwc`, tiles over channels, rows and columns."""

from __future__ import annotations

import itertools
from typing import Final

from compiler.ir.graph import Node
from compiler.ops.conv2d import QConv2d
from compiler.ops.sliding_window import zero_of
from compiler.schedule.builder import Builder, Place, Span, View, Window, element, packed_bytes, spans, stored
from compiler.schedule.tile_graph import Buffer, Memory, Piece, Ref, Tensor, aligned
from compiler.schedule.tiles.boxes import fit_box
from compiler.schedule.tiles.products import SeenWindow, convolution_windows, records_of, seen_window
from isa.instructions.dma import Fill, OnChip
from isa.instructions.records import QuantRecord
from isa.instructions.vector_depthwise import DepthwiseConv
from isa.memory_map import GRANULE_BYTES, Q_GRANULES
from isa.spec import greatest
from isa.support.records import Frozen

MAX_OUTPUT: Final = greatest(DepthwiseConv, "oh")
MAX_INPUT: Final = greatest(DepthwiseConv, "ih")
MAX_CHANNELS: Final = greatest(DepthwiseConv, "c")
MAX_ROW: Final = greatest(DepthwiseConv, "irs")
MAX_PIXEL: Final = greatest(DepthwiseConv, "ips")


def is_depthwise(node: Node) -> bool:
    """Whether `vdwc` can express a convolution: a kernel for every channel, within its fields."""
    assert isinstance(node.op, QConv2d)
    return node.op.fits_lanes(node.inputs[1].shape)


class DepthwisePlan(Frozen):
    """What the tiles of a depthwise convolution have in common."""

    b: Builder
    node: Node
    x: View
    out: Tensor
    rows: Window
    columns: Window


def plan_depthwise(b: Builder, node: Node, x: View, out: Tensor, budget: int) -> None:
    """A depthwise convolution; weights and records of a channel tile stay while its images pass."""
    operation = node.op
    assert isinstance(operation, QConv2d)
    kh, kw = node.inputs[1].shape[2:]
    geometry = operation.strides, operation.dilations, operation.pads
    rows, columns = b.once("windows", lambda: convolution_windows(node, *geometry))
    _, oh, ow, channels = out.shape
    most = min(MAX_CHANNELS, b.target.prm.bytes // GRANULE_BYTES - Q_GRANULES)

    def needed(th: int, tw: int, tc: int) -> int:
        box = rows.reach(th, kh) * columns.reach(tw, kw)
        moved = (0 if x.tensor.resident else aligned(box * tc)) + (
            0 if out.resident else aligned(th * tw * tc)
        )
        return moved + aligned(kh * kw * tc)

    def allowed(th: int, tw: int, tc: int) -> bool:
        width, height = columns.reach(tw, kw), rows.reach(th, kh)
        return (
            max(th, tw) <= MAX_OUTPUT
            and max(width, height) <= MAX_INPUT
            and tc <= most
            and (x.tensor.resident or (tc <= MAX_PIXEL and width * tc <= MAX_ROW))
            and (out.resident or tw * tc <= MAX_ROW)
        )

    height = b.height(oh)
    th, tw, tc = b.once(
        ("box", height), lambda: fit_box(node, (height, ow, channels), needed, allowed, budget)
    )
    weights = node.inputs[1]
    image = b.once("image", lambda: _packed_kernels(b, weights))
    for ch in spans(channels, tc):
        held = b.once(ch, lambda ch=ch: _load_kernels(b, image, (kh * kw, channels), ch))
        params = _parameters(b, node, ch)
        for n, h, w in itertools.product(b.images(x.shape[0]), b.rows(oh, th), spans(ow, tw)):
            b.tile = (n, h.start, w.start, ch.start)
            _tile(DepthwisePlan(b, node, x, out, rows, columns), (n, h, w, ch), held, params)


def _packed_kernels(b: Builder, weights: Node) -> Buffer:
    """The weights in DRAM as `[kh * kw][channels]`."""
    return b.image(Memory.WEIGHTS, packed_bytes(weights.constant[:, 0].transpose(1, 2, 0)), weights.name)


def _load_kernels(b: Builder, image: Buffer, size: tuple[int, int], channels: Span) -> Buffer:
    taps, all_channels = size
    held = b.buffer("weights", Memory.SPM, taps * channels.extent)
    b.load(Ref(image, channels.start), Ref(held), channels.extent, [(taps, all_channels, channels.extent)])
    return held


def _parameters(b: Builder, node: Node, channels: Span) -> Ref:
    """Record Q, then {bias, m} of every channel, in PRM."""
    return b.once(("records", channels), lambda: b.parameters(_records(node, channels), "records"))


def _records(node: Node, channels: Span) -> bytes:
    operation = node.op
    assert isinstance(operation, QConv2d)
    low, high = operation.bounds
    x, weights = node.inputs[0], node.inputs[1]
    record = QuantRecord(
        za=x.quant.zero_point, zb=zero_of(weights.type), zo=node.quant.zero_point, lo=low, hi=high
    )
    return record.pack() + records_of(node, channels)


def _tile(plan: DepthwisePlan, at: Place, weights: Buffer, params: Ref) -> None:
    b, node, rows, columns = plan.b, plan.node, plan.rows, plan.columns
    n, h, w, ch = at
    window = seen_window(rows, columns, h, w, Span(0, rows.taps))
    if window is not None:
        source = b.fetch(plan.x, n, window.rows, window.columns, ch, "input")
    else:  # padding alone: one tap, of zero points
        rows, columns = Window(h.extent), Window(w.extent)
        window = SeenWindow(Span(0, h.extent), Span(0, w.extent), 0, 0)
        source = _zero_points(b, node, ch)
    target = b.result(plan.out, *at, "output")
    instr = DepthwiseConv(
        oh=h.extent,
        ow=w.extent,
        c=ch.extent,
        kh=rows.taps,
        kw=columns.taps,
        sh=rows.stride,
        sw=columns.stride,
        d=max(rows.dilation if rows.taps > 1 else 1, columns.dilation if columns.taps > 1 else 1),
        ips=source.pixel_pitch,
        irs=source.row_pitch,
        ih=window.rows.extent,
        iw=window.columns.extent,
        pt=window.top,
        pl=window.left,
        ops=target.pixel_pitch,
        ors=target.row_pitch,
        xt=element(node.inputs[0]),
        wt=element(node.inputs[1]),
        ot=element(node),
    )
    bind = {"inp": source.ref, "wgt": Ref(weights), "out": target.ref, "prm": params}
    b.emit(instr, bind, stored=stored(plan.out, *at))
    b.deliver(plan.out, target, *at)


def _zero_points(b: Builder, node: Node, channels: Span) -> Piece:
    """An image of zero points of any size: one pixel, which every place names again."""
    held = b.buffer("padding", Memory.SPM, channels.extent)
    fill = Fill(space=OnChip.SPM, n0=channels.extent, fill=node.inputs[0].quant.zero_point & 0xFF)
    b.emit(fill, {"loc": Ref(held)}, "load")
    return Piece(Ref(held), 0, 0)
