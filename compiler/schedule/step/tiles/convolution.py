"""Convolutions of a step: weights and biases that the step has made itself, a shift that it is told."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.ir.graph import Node
from compiler.ops.sliding_window import Pads, Pair
from compiler.schedule.builder import Builder, Span, Views, Window, tiles_of
from compiler.schedule.step.builder import step_of
from compiler.schedule.step.tiles.depthwise import is_depthwise, plan_depthwise
from compiler.schedule.step.tiles.exits import bias_records, factor_of, requantize_shifted
from compiler.schedule.tile_graph import Buffer, Ref, Tensor
from compiler.schedule.tiles.convolution import KINDS, ConvGroup, ConvKind, convolve
from compiler.schedule.tiles.products import TileExit, convolution_windows
from compiler.train.integer.convolution import StepConv2d


class StepConv(ConvKind):
    """Weights and records lie in the arena."""

    def geometry(self, node: Node) -> tuple[Pair, Pair, Pads]:
        """Strides, dilations and pads."""
        operation = node.op
        assert isinstance(operation, StepConv2d)
        return operation.strides, operation.dilations, operation.pads

    def is_depthwise(self, node: Node) -> bool:
        """These are planned apart."""
        return False

    def groups(self, node: Node, cols: int) -> Iterator[ConvGroup]:
        """One after another; the weights of each lie by themselves."""
        operation, (cout, cin, kh, kw) = node.op, node.inputs[1].shape
        assert isinstance(operation, StepConv2d)
        count = cout // operation.groups
        size = -(-count // cols) * cols * cin * kh * kw
        for group in range(operation.groups):
            yield ConvGroup(group * cin, group * count, (count, cin, kh, kw), None, group * size)

    def image(self, b: Builder, node: Node, group: ConvGroup, view: Views) -> Buffer:
        """What the step has quantized."""
        return view(1).tensor.home

    def records(self, b: Builder, node: Node, channels: Span, view: Views) -> Ref:
        """Of the biases."""
        return step_of(b).once(
            ("records", channels),
            lambda: bias_records(step_of(b), node.inputs[2], channels, view, factor_of(node)),
        )

    def leave(self, b: Builder, node: Node, acc: Buffer, way: TileExit) -> None:
        """By the shift of this step; what the next one's depends on is observed."""
        requantize_shifted(step_of(b), node, acc, way)


def _convolved_rows(node: Node, index: int) -> Window | None:
    return convolution_windows(node, *KINDS[StepConv2d].geometry(node))[0] if index == 0 else None


KINDS[StepConv2d] = StepConv()


@tiles_of(StepConv2d, reads=_convolved_rows)
def plan_step_conv(
    b: Builder, node: Node, operation: StepConv2d, view: Views, out: Tensor, budget: int
) -> None:
    """On the array as convolutions of inference, or on the lanes."""
    del operation
    if is_depthwise(node):
        plan_depthwise(step_of(b), node, view, out, budget)
    else:
        convolve(b, node, view, out, budget)
