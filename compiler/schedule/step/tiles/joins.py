"""Tiles of a step's maps that are averaged, joined or padded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.schedule.builder import (
    Builder,
    Place,
    Span,
    View,
    Views,
    Window,
    element,
    spans,
    stored,
    tiles_of,
)
from compiler.schedule.step.builder import ACC_SHARE, StepBuilder, step_of
from compiler.schedule.step.tiles.exits import plain_record, requantize_shifted
from compiler.schedule.step.tiles.maps import cleared, copied, shifted_pair
from compiler.schedule.step.tiles.sums import MAX_CHANNELS, MAX_MAP, ones_of
from compiler.schedule.tile_graph import Ref, Tensor
from compiler.schedule.tiles.boxes import SLACK, dense, fit_box, tiles
from compiler.schedule.tiles.elementwise import map_limits
from compiler.schedule.tiles.limits import does_not_fit
from compiler.schedule.tiles.moves import move
from compiler.schedule.tiles.products import SeenWindow, TileExit
from compiler.train.integer.maps import (
    AveragePoolErrors,
    BorderErrors,
    PadCodes,
    PixelSums,
    SpreadCodes,
    StepAveragePool,
    StepConcat,
)
from isa.instructions.records import QuantRecord
from isa.instructions.vector import Pool, Pooling, Requant, Requantize
from isa.instructions.vector_depthwise_sums import DepthwiseGradient
from isa.instructions.vector_gradient import PoolBack, PoolingGradient
from isa.memory_map import REQUANT_RECORD
from isa.spec import ElementType
from isa.support.records import replace


@tiles_of(PixelSums)
def plan_pixel_sums(
    b: Builder, node: Node, operation: PixelSums, view: Views, out: Tensor, budget: int
) -> None:
    """Ones times pixels, channel by channel, then shifted."""
    del operation
    s = step_of(b)
    n, height, width, channels = node.inputs[0].shape
    rows = max(min(MAX_MAP, (budget - SLACK) // (2 * min(width, MAX_MAP) * channels)), 1)
    one = Span(0, 1)
    for image in b.images(n):
        for c in spans(channels, MAX_CHANNELS // s.cols * s.cols):
            s.tile = (image, c.start)
            ones = s.once(("ones", c.extent), lambda c=c: ones_of(s, c.extent))
            acc = s.rows_of("pixels", -(-c.extent // s.cols))
            started = False
            for h in spans(height, rows):
                for w in spans(width, MAX_MAP):
                    source = b.fetch(view(0), image, h, w, c, "input")
                    instr = DepthwiseGradient(
                        oh=h.extent, ow=w.extent, c=c.extent, ih=h.extent, iw=w.extent,
                        gps=source.pixel_pitch, grs=source.row_pitch, accum=int(started),
                        xt=ElementType.U8, gt=element(node.inputs[0]),
                    )  # fmt: skip
                    s.emit(instr, {"x": Ref(ones), "g": source.ref, "acc": Ref(acc)})
                    started = True
            place = image, one, one, c
            piece = s.result(out, *place, "output")
            way = TileExit(piece, plain_record(s, node), place, stored(out, *place), per_channel=False)
            requantize_shifted(s, node, acc, way)
            s.deliver(out, piece, *place)


@tiles_of(SpreadCodes)
def plan_spread(
    b: Builder, node: Node, operation: SpreadCodes, view: Views, out: Tensor, budget: int
) -> None:
    """One pixel copied to all."""
    del operation
    size = fit_box(node, out.shape[1:], dense(1 - int(out.resident)), map_limits, max(budget, SLACK))
    one = Span(0, 1)
    for image, h, w, c in tiles(b, out.shape, size):
        source = b.fetch(view(0), image, one, one, c, "pixel")
        target = b.result(out, image, h, w, c, "output")
        levels = [(w.extent, 0, target.pixel_pitch), (h.extent, 0, target.row_pitch)]
        bind = {"src": source.ref, "dst": target.ref}
        b.emit(move(c.extent, levels), bind, stored=stored(out, image, h, w, c, "dst"))
        b.deliver(out, target, image, h, w, c)


def _windows(node: Node, extents: Sequence[int]) -> tuple[Window, Window]:
    operation = node.op
    assert isinstance(operation, (StepAveragePool, AveragePoolErrors))
    rows, columns = (
        Window(extents[i], operation.kernel[i], operation.strides[i], 1, operation.pads[i]) for i in (0, 1)
    )
    return rows, columns


@tiles_of(StepAveragePool)
def plan_average_pool(
    b: Builder, node: Node, operation: StepAveragePool, view: Views, out: Tensor, budget: int
) -> None:
    """As averages of inference, with scales of 1."""
    rows, columns = _windows(node, node.inputs[0].shape[1:3])
    low, high = node.type.dtype.bounds
    record = step_of(b).constant(QuantRecord((np.float32(1), np.float32(1)), lo=low, hi=high).pack())
    x = view(0)

    def needed(th: int, tw: int, tc: int) -> int:
        box = rows.reach(th, rows.taps) * columns.reach(tw, columns.taps)
        return (0 if x.tensor.resident else box * tc) + (0 if out.resident else th * tw * tc)

    def allowed(th: int, tw: int, tc: int) -> bool:
        return map_limits(rows.reach(th, rows.taps), columns.reach(tw, columns.taps), tc)

    size = fit_box(node, (b.height(out.shape[1]), *out.shape[2:]), needed, allowed, budget)
    for place in tiles(b, out.shape, size):
        image, h, w, c = place
        box_h, top = rows.valid(h, Span(0, rows.taps))
        box_w, left = columns.valid(w, Span(0, columns.taps))
        window = SeenWindow(box_h, box_w, top, left)
        source = b.fetch(x, image, window.rows, window.columns, c, "input")
        target = b.result(out, *place, "output")
        kind = element(node)
        instr = Pooling(
            fn=Pool.AVG, oh=h.extent, ow=w.extent, c=c.extent, kh=rows.taps, kw=columns.taps, sh=rows.stride,
            sw=columns.stride, ips=source.pixel_pitch, irs=source.row_pitch, ih=box_h.extent,
            iw=box_w.extent, pt=top, pl=left, ops=target.pixel_pitch, ors=target.row_pitch,
            cip=int(operation.count_include_pad), xt=kind, ot=kind,
        )  # fmt: skip
        b.emit(instr, {"inp": source.ref, "out": target.ref, "prm": record}, stored=stored(out, *place))
        b.deliver(out, target, *place)


@tiles_of(BorderErrors)
def plan_border_errors(
    b: Builder, node: Node, operation: BorderErrors, view: Views, out: Tensor, budget: int
) -> None:
    """Boxes of windows of as many valid taps, each by its factor."""
    s, x = step_of(b), view(0)
    n, height, width, channels = node.shape
    rows = s.target.acc.rows // ACC_SHARE
    boxes = list(itertools.product(*(_alike(operation.valid(i, node.shape[i + 1])) for i in (0, 1))))
    most = max(h.extent for h, _ in boxes), max(w.extent for _, w in boxes), channels

    def allowed(th: int, tw: int, tc: int) -> bool:
        return map_limits(th, tw, tc) and th * tw * -(-tc // s.cols) <= rows

    copies = (not x.tensor.resident) + (not out.resident)
    size = fit_box(node, most, dense(copies), allowed, budget)
    for image, (down, across) in itertools.product(b.images(n), boxes):
        taps = operation.valid(0, height)[down.start], operation.valid(1, width)[across.start]
        record = s.constant(np.array((0, operation.factor(*taps)), REQUANT_RECORD).tobytes())
        for h, w, c in itertools.product(
            _within(down, size[0]), _within(across, size[1]), spans(channels, size[2])
        ):
            s.tile = (image, h.start, w.start, c.start)
            place = image, h, w, c
            acc = shifted_pair(s, (x, x), place, (node.inputs[1], None), node.inputs[0])
            target = s.result(out, *place, "output")
            instr = Requantize(
                mode=Requant.SHR, h=h.extent, w=w.extent, c=c.extent,
                ags=h.extent * w.extent if c.extent > s.cols else 0, aws=w.extent if h.extent > 1 else 0,
                ops=target.pixel_pitch, ors=target.row_pitch, lo=-127, hi=127,
            )  # fmt: skip
            bind = {"acc": Ref(acc), "out": target.ref, "prm": record}
            s.emit(instr, bind, stored=stored(out, *place))
            s.deliver(out, target, *place)


def _alike(values: Sequence[int]) -> list[Span]:
    """Neighbours that are equal."""
    ends = [i for i in range(1, len(values)) if values[i] != values[i - 1]]
    return [Span(a, z) for a, z in zip([0, *ends], [*ends, len(values)], strict=True)]


def _within(span: Span, most: int) -> list[Span]:
    return [part.shifted(span.start) for part in spans(span.extent, most)]


@tiles_of(AveragePoolErrors)
def plan_average_pool_errors(
    b: Builder, node: Node, operation: AveragePoolErrors, view: Views, out: Tensor, budget: int
) -> None:
    """Whole images, as many channels at a time as fit."""
    n, height, width, channels = out.shape
    oh, ow = node.inputs[0].shape[1:3]
    pixels = height * width * (not out.resident) + oh * ow * (not view(0).tensor.resident)
    most = min(channels, MAX_CHANNELS, (budget - SLACK) // pixels if pixels else channels)
    if most < 1:
        raise does_not_fit(node, pixels + SLACK, budget)
    whole, across = (Span(0, height), Span(0, width)), (Span(0, oh), Span(0, ow))
    for image in b.images(n):
        for c in spans(channels, most):
            b.tile = (image, c.start)
            errors = b.fetch(view(0), image, *across, c, "errors")
            target = b.result(out, image, *whole, c, "output")
            instr = PoolingGradient(
                fn=PoolBack.AVGB, oh=oh, ow=ow, c=c.extent, kh=operation.kernel[0], kw=operation.kernel[1],
                sh=operation.strides[0], sw=operation.strides[1], ips=target.pixel_pitch,
                irs=target.row_pitch, gps=errors.pixel_pitch, grs=errors.row_pitch, ih=height, iw=width,
                pt=operation.pads[0], pl=operation.pads[1], shift=operation.shift,
            )  # fmt: skip
            place = image, *whole, c
            b.emit(instr, {"g": errors.ref, "dx": target.ref}, stored=stored(out, *place, "dx"))
            b.deliver(out, target, *place)


@tiles_of(StepConcat)
def plan_concat(b: Builder, node: Node, operation: StepConcat, view: Views, out: Tensor, budget: int) -> None:
    """Each map by its shift into accumulators, then to its channels of the result."""
    s = step_of(b)
    rows = s.target.acc.rows // ACC_SHARE

    def allowed(th: int, tw: int, tc: int) -> bool:
        return map_limits(th, tw, tc) and th * tw * -(-tc // s.cols) <= rows

    first = 0
    for index in range(operation.count):
        x = view(index)
        channels = x.shape[3]
        copies = (not x.tensor.resident) + (not out.resident)
        shape = (*out.shape[:3], channels)
        size = fit_box(node, (b.height(out.shape[1]), out.shape[2], channels), dense(copies), allowed, budget)
        for place in tiles(b, shape, size):
            _join(s, node, x, index, place, first, out)
        first += channels


def _join(s: StepBuilder, node: Node, x: View, index: int, place: Place, first: int, out: Tensor) -> None:
    """A tile of one map."""
    operation = node.op
    assert isinstance(operation, StepConcat)
    image, h, w, c = place
    acc = shifted_pair(s, (x, x), place, (node.inputs[operation.count + index], None), node.inputs[index])
    there = image, h, w, c.shifted(first)
    target = s.result(out, *there, "output")
    way = TileExit(target, plain_record(s, node), there, stored(out, *there), per_channel=False)
    requantize_shifted(s, node, acc, way)
    s.deliver(out, target, *there)


@tiles_of(PadCodes)
def plan_pad(b: Builder, node: Node, operation: PadCodes, view: Views, out: Tensor, budget: int) -> None:
    """Zeros, then the image at its place; as many channels at a time as fit."""
    n, height, width, channels = out.shape
    inner = node.inputs[0].shape[1:3]
    pixels = height * width * (not out.resident) + inner[0] * inner[1] * (not view(0).tensor.resident)
    most = min(channels, (budget - SLACK) // pixels if pixels else channels)
    if most < 1:
        raise does_not_fit(node, pixels + SLACK, budget)
    top, left, *_ = operation.pads
    for image in b.images(n):
        for c in spans(channels, most):
            b.tile = (image, c.start)
            box = image, Span(0, height), Span(0, width), c
            source = b.fetch(view(0), image, Span(0, inner[0]), Span(0, inner[1]), c, "input")
            target = b.result(out, *box, "output")
            cleared(b, target, height, width, c.extent)
            to = target.ref.shifted(top * target.row_pitch + left * target.pixel_pitch)
            copied(b, source, replace(target, ref=to), inner[0], inner[1], c.extent)
            b.deliver(out, target, *box)
