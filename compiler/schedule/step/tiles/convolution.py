"""Convolutions of a step: weights and biases that the step has made itself, a shift that it is told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler.ir.graph import Node
from compiler.ops.sliding_window import Pads, Pair
from compiler.schedule.builder import Builder, Span, Views, Window, element, tiles_of
from compiler.schedule.step.builder import StepBuilder, step_of
from compiler.schedule.tile_graph import UNPLACED, Buffer, Memory, Ref, Tensor
from compiler.schedule.tiles.convolution import KINDS, ConvGroup, ConvKind, convolve
from compiler.schedule.tiles.products import TileExit, convolution_windows
from compiler.train.integer.convolution import StepConv2d
from compiler.train.lowering import code_bounds
from isa.instructions.vector import Requant, Requantize
from isa.memory_map import GRANULE_BYTES, REQUANT_RECORD


class StepConv(ConvKind):
    """Weights and records lie in the arena."""

    def geometry(self, node: Node) -> tuple[Pair, Pair, Pads]:
        """Strides, dilations and pads."""
        operation = node.op
        assert isinstance(operation, StepConv2d)
        return operation.strides, operation.dilations, operation.pads

    def is_depthwise(self, node: Node) -> bool:
        """Not yet."""
        return False

    def groups(self, node: Node, cols: int) -> Iterator[ConvGroup]:
        """All channels."""
        yield ConvGroup(0, 0, node.inputs[1].shape)

    def image(self, b: Builder, node: Node, group: ConvGroup, view: Views) -> Buffer:
        """What the step has quantized."""
        return view(1).tensor.home

    def records(self, b: Builder, node: Node, channels: Span, view: Views) -> Ref:
        """Of the biases."""
        return step_of(b).once(
            ("records", channels), lambda: bias_records(step_of(b), node.inputs[2], channels, view)
        )

    def leave(self, b: Builder, node: Node, acc: Buffer, way: TileExit) -> None:
        """By the shift of this step; what the next one's depends on is observed."""
        requantize_shifted(step_of(b), node, acc, way)


def bias_records(s: StepBuilder, bias: Node, channels: Span, view: Views) -> Ref:
    """The records {bias, 1} of a channel range, in PRM."""
    size = channels.extent * GRANULE_BYTES
    if bias.is_constant:
        record = np.zeros(channels.extent, REQUANT_RECORD)
        record["m"] = 1
        return s.parameters(record.tobytes(), "records")
    buffer = s.buffer("records", Memory.PRM, size, GRANULE_BYTES)
    s.load(Ref(view(2).tensor.home, channels.start * GRANULE_BYTES), Ref(buffer), size, [])
    return Ref(buffer, 0, GRANULE_BYTES)


def requantize_shifted(s: StepBuilder, node: Node, acc: Buffer, way: TileExit) -> None:
    """Take a tile out of the accumulators by the shift that is the node's last operand."""
    h, w, c = (span.extent for span in way.at[1:])
    low, high = code_bounds(node.type.dtype)
    observer = s.seen(node)
    shift = s.numbers.read(node.inputs[-1])
    instr = Requantize(
        mode=Requant.SHR,
        h=h,
        w=w,
        c=c,
        ags=h * w if c > s.cols else 0,
        aws=w if h > 1 else 0,
        ops=way.piece.pixel_pitch,
        ors=way.piece.row_pitch,
        lo=low,
        hi=high,
        ot=element(node),
        perch=int(way.per_channel),
        sreg=UNPLACED,
        obs=0 if observer is None else UNPLACED,
    )
    bind = {"acc": Ref(acc), "out": way.piece.ref, "prm": way.params, "sreg": shift}
    s.emit(instr, bind | ({} if observer is None else {"obs": observer}), stored=way.mark)


def _convolved_rows(node: Node, index: int) -> Window | None:
    return convolution_windows(node, *KINDS[StepConv2d].geometry(node))[0] if index == 0 else None


KINDS[StepConv2d] = StepConv()


@tiles_of(StepConv2d, reads=_convolved_rows)
def plan_step_conv(
    b: Builder, node: Node, operation: StepConv2d, view: Views, out: Tensor, budget: int
) -> None:
    """As convolutions of inference."""
    del operation
    convolve(b, node, view, out, budget)
