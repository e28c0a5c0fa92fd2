"""Sums over a batch for the gradients of a step: image by image, or where they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from compiler.ir.graph import Node
from compiler.schedule.builder import Builder, Span, Views, element, spans, tiles_of
from compiler.schedule.step.builder import StepBuilder, step_of
from compiler.schedule.step.rows import StateRows
from compiler.schedule.step.tiles.depthwise import is_depthwise, stored_shape
from compiler.schedule.step.tiles.wide import BatchSums
from compiler.schedule.tile_graph import Buffer, Memory, Piece, Ref, Tensor
from compiler.train.integer.convolution import Conv2dWeightSums
from compiler.train.integer.sums import ChannelSums
from isa.instructions.matrix_gradient import WeightGradient
from isa.instructions.vector_depthwise_sums import DepthwiseGradient
from isa.spec import ElementType, Instruction, greatest
from isa.support.records import Frozen

MAX_MAP: Final = greatest(DepthwiseGradient, "oh")
MAX_CHANNELS: Final = greatest(DepthwiseGradient, "c")
LOADED_SHARE: Final = 0.2
"""The part of the scratchpad for what is loaded for one instruction."""


@tiles_of(ChannelSums)
def plan_channel_sums(
    b: Builder, node: Node, operation: ChannelSums, view: Views, out: Tensor, budget: int
) -> None:
    """Errors times 1, every channel for itself."""
    del operation, out
    s = step_of(b)
    g = view(0)
    n, height, width, channels = g.shape
    groups = -(-channels // s.cols)
    if node.id not in s.sums:
        s.sums[node.id] = s.zeroed("channel_sums", groups)
    pixels = max((budget - channels) // channels, 1)
    columns = min(width, MAX_MAP, pixels)
    rows = min(MAX_MAP, max(pixels // columns, 1))
    for c in spans(channels, MAX_CHANNELS // s.cols * s.cols):
        ones = s.once(("ones", c.extent), lambda c=c: ones_of(s, c.extent))
        for image in b.images(n):
            for h in b.rows(height, rows):
                for w in spans(width, columns):
                    s.tile = (image, h.start, w.start)
                    source = b.fetch(g, image, h, w, c, "errors")
                    instr = _channel_sum(s, h.extent, w.extent, c.extent, source)
                    acc = Ref(s.sums[node.id], c.start // s.cols)
                    s.emit(instr, {"x": Ref(ones), "g": source.ref, "acc": acc})


def _channel_sum(s: StepBuilder, height: int, width: int, channels: int, errors: Piece) -> Instruction:
    """Ones times errors, on the vector unit or on the array, which needs them for one channel only."""
    on_vector = DepthwiseGradient(
        oh=height, ow=width, c=channels, ih=height, iw=width, gps=errors.pixel_pitch, grs=errors.row_pitch,
        accum=1, xt=ElementType.U8,
    )  # fmt: skip
    on_array = WeightGradient(
        oh=height, ow=width, cin=1, cout=channels, ih=height, iw=width, gps=errors.pixel_pitch,
        grs=errors.row_pitch, accum=1, xt=ElementType.U8,
    )  # fmt: skip
    most = s.choices.array_for_sums * on_vector.cycles(s.target)
    return on_array if on_array.cycles(s.target) < most else on_vector


def ones_of(s: StepBuilder, count: int) -> Buffer:
    """So many bytes of 1 in the scratchpad."""
    buffer = s.buffer("ones", Memory.SPM, count)
    s.load(Ref(s.image(Memory.WEIGHTS, b"\1" * count, "ones")), Ref(buffer), count, [])
    return buffer


@tiles_of(Conv2dWeightSums)
def plan_weight_sums(
    b: Builder, node: Node, operation: Conv2dWeightSums, view: Views, out: Tensor, budget: int
) -> None:
    """Of every image that is made now; nothing where they are made later."""
    del out, budget
    s = step_of(b)
    if node.id in s.deferred:
        return
    rows = StateRows.of(stored_shape(node), s.cols)
    if node.id not in s.totals:
        s.totals[node.id] = BatchSums.of(s, node, rows.count, "weight_sums")
    boxes = list(_boxes(node, rows, Span(0, rows.count), whole=operation.dilations == (1, 1)))
    for image in b.images(node.inputs[0].shape[0]):
        s.tile = (image,)
        _add_image(s, node, view, image, s.totals[node.id], boxes)


def convolution_rows(s: StepBuilder, node: Node, view: Views, rows: StateRows, part: Span) -> BatchSums:
    """Some rows of `Conv2dWeightSums`, as the weights lie in the state: from all images in turn."""
    sums = BatchSums.of(s, node, part.extent, "gradient")
    boxes = list(_boxes(node, rows, part, whole=False))
    for image in range(node.inputs[0].shape[0]):
        _add_image(s, node, view, image, sums, boxes)
    return sums


Box = tuple[Span, Span, Span, Span]
"""Rows and columns of the kernel, inputs, outputs."""


def _boxes(node: Node, rows: StateRows, part: Span, *, whole: bool) -> Iterator[tuple[int, Box]]:
    """What one instruction sums, and its first row within the part: everything, or a tap of a group each."""
    cout, cin, kh, kw = node.shape
    groups = rows.parts or [rows]
    count = cout // len(groups)
    if whole:
        for index, each in enumerate(groups):
            channels = Span(0, cin).shifted(index * cin), Span(0, count).shifted(index * count)
            yield index * each.count, (Span(0, kh), Span(0, kw), *channels)
        return
    if is_depthwise(node):  # all groups of a tap, tap after tap
        for tap in range(part.start // rows.groups, part.stop // rows.groups):
            ky, kx = divmod(tap, kw)
            box = Span(ky, ky + 1), Span(kx, kx + 1), Span(0, cin), Span(0, cout)
            yield tap * rows.groups - part.start, box
        return
    at = part.start
    while at < part.stop:
        index, row = divmod(at, groups[0].count)
        lanes, rest = divmod(row, groups[0].each)
        tap, first = divmod(rest, cin)
        taken = min(cin - first, part.stop - at)
        ky, kx = divmod(tap, kw)
        channels = Span(lanes * rows.cols, min((lanes + 1) * rows.cols, count)).shifted(index * count)
        inputs = Span(first, first + taken).shifted(index * cin)
        yield at - part.start, (Span(ky, ky + 1), Span(kx, kx + 1), inputs, channels)
        at += taken


def _add_image(
    s: StepBuilder, node: Node, view: Views, image: int, sums: BatchSums, boxes: Sequence[tuple[int, Box]]
) -> None:
    """Products of an image: as many of its outputs at a time as one instruction and one part take."""
    n, oh, ow, _ = node.inputs[1].shape
    rows, columns = _outputs_at_once(s, node, view, sums.most)
    for h in spans(oh, rows):
        for w in spans(ow, columns):
            sums.expect(s, h.extent * w.extent)
            for at, box in boxes:
                _add_outputs(s, node, view, (image, h, w), Ref(sums.rows, at), box)
    if image == n - 1:
        sums.finish(s)


def _outputs_at_once(s: StepBuilder, node: Node, view: Views, most: int) -> tuple[int, int]:
    """Rows and columns of outputs: what operands hold, what the scratchpad does, so many products."""
    operation = node.op
    assert isinstance(operation, Conv2dWeightSums)
    kind = DepthwiseGradient if is_depthwise(node) else WeightGradient
    kernel = node.shape[2:]
    limits = [
        min(
            greatest(kind, name),
            (greatest(kind, f"i{name[1]}") - (taps - 1) * dilation - 1) // stride + 1,
        )
        for name, taps, stride, dilation in zip(
            ("oh", "ow"), kernel, operation.strides, operation.dilations, strict=True
        )
    ]
    columns = min(node.inputs[1].shape[2], limits[1])
    rows = max(min(limits[0], most // columns), 1)
    x, g = (v.tensor for v in (view(0), view(1)))
    loaded = [(t.line is None and not t.resident) * v.shape[3] for t, v in ((x, view(0)), (g, view(1)))]
    room = int(s.target.spm.bytes * LOADED_SHARE)
    across = (columns - 1) * operation.strides[1] + (kernel[1] - 1) * operation.dilations[1] + 1
    around = (kernel[0] - 1) * operation.dilations[0] + 1
    bytes_of_row = operation.strides[0] * across * loaded[0] + columns * loaded[1]
    if bytes_of_row:
        rows = max(min(rows, (room - around * across * loaded[0]) // bytes_of_row), 1)
    return rows, columns


def _add_outputs(
    s: StepBuilder, node: Node, view: Views, at: tuple[int, Span, Span], acc: Ref, box: Box
) -> None:
    """Products of some outputs for some taps, inputs and channels."""
    operation = node.op
    assert isinstance(operation, Conv2dWeightSums)
    (image, h, w), (ky, kx, cin, cout) = at, box
    lanes = is_depthwise(node)
    rows, columns = (
        _Seen.of(
            node.inputs[0].shape[i + 1],
            out,
            taps,
            operation.strides[i],
            operation.dilations[i],
            operation.pads[i],
        )
        for i, (out, taps) in enumerate(((h, ky), (w, kx)))
    )
    if min(rows.extent, columns.extent) <= 0:
        return  # padding alone
    seen = Span(rows.first, rows.first + rows.extent), Span(columns.first, columns.first + columns.extent)
    x = s.fetch(view(0), image, *seen, cout if lanes else cin, "input")
    g = s.fetch(view(1), image, h, w, cout, "errors")
    channels: dict[str, Any] = {"c": cout.extent} if lanes else {"cin": cin.extent, "cout": cout.extent}
    kind = DepthwiseGradient if lanes else WeightGradient
    instr = kind(
        **channels,
        oh=h.extent,
        ow=w.extent,
        kh=ky.extent,
        kw=kx.extent,
        sh=operation.strides[0],
        sw=operation.strides[1],
        ips=x.pixel_pitch,
        irs=x.row_pitch,
        gps=g.pixel_pitch,
        grs=g.row_pitch,
        ih=rows.extent,
        iw=columns.extent,
        pt=rows.pad,
        pl=columns.pad,
        accum=1,
        xt=element(node.inputs[0]),
    )
    s.emit(instr, {"x": x.ref, "g": g.ref, "acc": acc})


class _Seen(Frozen):
    """What the outputs see through some taps along one dimension: first element, how many, padding before."""

    first: int
    extent: int
    pad: int

    @staticmethod
    def of(extent: int, outputs: Span, taps: Span, stride: int, dilation: int, pad: int) -> _Seen:
        """Several taps are neighbours."""
        begin = outputs.start * stride + taps.start * dilation - pad
        end = begin + (outputs.extent - 1) * stride + taps.extent
        return _Seen(max(begin, 0), min(extent, end) - max(begin, 0), max(-begin, 0))
