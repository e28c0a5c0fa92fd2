"""Layers that work stripe by stripe: what could go wrong between them is planted, and found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from compiler import driver
from compiler.ir.graph import Graph, Node
from compiler.ir.types import DType
from compiler.ops.activation import Clamp
from compiler.ops.add import Add
from compiler.ops.conv2d import Conv2d
from compiler.ops.max_pool import MaxPool
from compiler.schedule.builder import Span, Window
from compiler.schedule.options import schedule_options
from compiler.schedule.segments import cascade as fused
from compiler.schedule.segments import stripes
from compiler.schedule.segments.plan import _Planner  # pyright: ignore[reportPrivateUsage]
from compiler.schedule.segments.stripes import LayerWork
from compiler.schedule.tile_graph import LineBuffer, Rows, TileOp
from isa.target import load_target
from tests.networks import quantized, random_inputs
from x1 import api
from x1.lab.verification import verify

MACHINE = load_target("edge32", ["spm.bytes=65536", "dram.bytes_per_cycle=2"])


def branched(seed: int) -> Graph:
    """Convolutions, a pool and a residual addition on images too large for the scratchpad."""
    generator = np.random.default_rng(seed)
    graph = Graph(f"branched{seed}")
    size, channels = int(generator.choice([40, 47, 56])), int(generator.choice([16, 24]))
    x = graph.input("x", DType.F32, (1, size, size, channels))

    def conv(value: Node, kernel: int, name: str) -> Node:
        shape = (channels, channels, kernel, kernel)
        w = graph.const(
            generator.standard_normal(shape).astype(np.float32) / np.float32(kernel * 4), f"w{name}"
        )
        b = graph.const(np.zeros(channels, np.float32), f"b{name}")
        pad = kernel // 2
        operation = Conv2d((1, 1), (pad, pad, pad, pad), (1, 1), "NHWC")
        return graph.add(operation, (value, w, b), name=name)

    first = conv(x, 3, "first")
    second = conv(first, int(generator.choice([1, 3, 5])), "second")
    third = conv(second, 3, "third")
    added = graph.add(Add(), (third, first), name="added")
    pooled = graph.add(MaxPool((3, 3), (1, 1), (1, 1, 1, 1), "NHWC"), (added,), name="pooled")
    graph.set_outputs([conv(pooled, 3, "last")], ["y"])
    return graph


def model_of(graph: Graph) -> api.Model:
    return quantized(graph, 1)


def is_found(graph: Graph) -> bool:
    """Whether something is wrong with the schedule: the compiler, the checker, or the bits say so."""
    model = model_of(graph)
    try:
        binary = api.compile(model, MACHINE, search=1)
    except AssertionError:
        return True
    return verify(model, binary, random_inputs(graph, 1, seed=3)).mismatches > 0


@pytest.mark.parametrize("seed", range(4))
def test_layers_work_band_by_band_and_give_onnx_runtimes_bits(seed: int) -> None:
    graph = branched(seed)
    planner = _Planner(driver.lower(model_of(graph).integers()), MACHINE, schedule_options(3), 0.92)
    assert max(len(s.layers) for s in planner.partition.segments if s.rows) >= 3
    assert not is_found(graph)


def test_rows_taken_from_a_later_buffer_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the latest buffer that holds the rows, before they have been copied there."""

    def latest(self: LineBuffer, start: int, stop: int) -> Rows:
        return next(b for b in reversed(self.stripes) if b.base <= start and stop <= b.stop)

    monkeypatch.setattr(LineBuffer, "find", latest)
    assert any(is_found(branched(seed)) for seed in range(4))


def test_operations_of_a_round_in_another_order_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the second half of the operations of a round comes before the first."""

    def mixed(lists: Sequence[Sequence[TileOp]]) -> list[TileOp]:
        turns = [((i + 0.5) / len(ops), op) for ops in lists for i, op in enumerate(ops)]
        return [op for later in (True, False) for place, op in turns if (place > 0.5) is later]

    monkeypatch.setattr(fused, "taking_turns", mixed)
    assert any(is_found(branched(seed)) for seed in range(4))


def test_a_layer_that_does_not_wait_for_its_operands_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every layer makes its stripe in the round in which its operands are made, turns taken."""

    def none(layers: Sequence[LayerWork]) -> dict[int, int]:
        return {layer.node.id: 0 for layer in layers}

    monkeypatch.setattr(stripes, "delays", none)
    assert any(is_found(branched(seed)) for seed in range(4))


@pytest.mark.parametrize("wrong", ["a row less", "a row late"])
def test_rows_of_a_window_that_are_forgotten_are_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a window reads one row less at its end, or begins a row late."""
    read = Window.read

    def less(self: Window, out: Span) -> Span:
        span = read(self, out)
        if span.extent < 2 or self.field == 1:
            return span
        return Span(span.start + (wrong == "a row late"), span.stop - (wrong == "a row less"))

    monkeypatch.setattr(Window, "read", less)
    assert any(is_found(branched(seed)) for seed in range(4))


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize(
    ("kernel", "pads"),
    [
        ((1, 3), (1, 2, 2, 0)),
        ((1, 1), (0, 0, 40, 0)),
        ((3, 3), (2, 2, 25, 30)),
        ((2, 1), (9, 0, 3, 12)),
        ((3, 2), (1, 9, 9, 20)),
    ],
)
@pytest.mark.parametrize("level", [0, 3])
def test_windows_that_see_padding_alone_give_onnx_runtimes_bits(
    groups: int, kernel: tuple[int, int], pads: tuple[int, int, int, int], level: int
) -> None:
    generator = np.random.default_rng(5)
    graph = Graph("padding")
    x = graph.input("x", DType.F32, (1, 8, 12, 8))
    w = generator.standard_normal((8, 8 // groups, *kernel)).astype(np.float32)
    b = generator.standard_normal(8).astype(np.float32)
    operation = Conv2d((1, 1), pads, (1, 1), "NHWC", None, groups)
    y = graph.add(operation, (x, graph.const(w, "w"), graph.const(b, "b")), name="y")
    graph.set_outputs([graph.add(Clamp(-1.0, 1.5), (graph.add(Add(), (y, y), name="z"),), name="r")], ["r"])
    model = model_of(graph)
    for kept in (4096, 16384):
        machine = load_target("tiny8", [f"spm.bytes={kept}"])
        binary = api.compile(model, machine, opt_level=level, search=1)
        assert verify(model, binary, random_inputs(graph, 1, seed=3)).mismatches == 0
