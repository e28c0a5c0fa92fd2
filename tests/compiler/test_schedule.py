"""Schedules: the plan's meaning is kept by every order, level and technique, and what is left out is worth something."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest

from compiler import driver
from compiler.ir.graph import Graph
from compiler.ir.types import DType
from compiler.ops.conv2d import Conv2d
from compiler.schedule.options import TECHNIQUES, ScheduleOptions, schedule_options
from compiler.schedule.order import list_scheduling as ordering
from compiler.schedule.order.history import LastTouch
from compiler.schedule.order.list_scheduling import Timing, overlapped, touches
from compiler.schedule.order.scratchpad import NoRoomError, limits_of
from compiler.schedule.segments.plan import plan
from compiler.schedule.segments.stripes import stripes_of, work_of
from compiler.schedule.tile_graph import Memory, TileOp, Touch
from isa.target import load_target
from isa.timing.profile import profile
from tests.networks import quantized, random_graph, random_inputs
from x1 import api
from x1.session import Session

Ops = list[TileOp]


def model_of(seed: int) -> api.Model:
    return quantized(random_graph(seed), 2)


def chain(layers: int, size: int = 24, channels: int = 16) -> Graph:
    """Convolutions of 3 x 3, one after another."""
    generator = np.random.default_rng(layers)
    graph = Graph("chain")
    x = graph.input("x", DType.F32, (1, size, size, channels))
    for index in range(layers):
        shape = (channels, channels, 3, 3)
        w = graph.const(generator.standard_normal(shape).astype(np.float32) / np.float32(12), f"w{index}")
        b = graph.const(np.zeros(channels, np.float32), f"b{index}")
        x = graph.add(Conv2d((1, 1), (1, 1, 1, 1), (1, 1), "NHWC"), (x, w, b), name=f"y{index}")
    graph.set_outputs([x], ["y"])
    return graph


def planned(
    model: api.Model, target: str, options: ScheduleOptions
) -> tuple[Ops, list[list[Touch]], frozenset[int]]:
    machine = load_target(target)
    made = plan(driver.lower(model.integers()), machine, options, 0.85)
    homes = frozenset(id(t.home) for t in made.tiles.tensors if t.home.memory is Memory.SPM)
    return made.tiles.ops, touches(made.tiles.ops, machine), homes


def conflicts(touched: list[list[Touch]]) -> list[tuple[int, int]]:
    """Every two operations of which one writes what the other touches, by looking at all pairs."""
    found: list[tuple[int, int]] = []
    for later, mine in enumerate(touched):
        found += [(e, later) for e in range(later) if any(clash(a, b) for a in mine for b in touched[e])]
    return found


def clash(a: Touch, b: Touch) -> bool:
    return a.buffer is b.buffer and a.low < b.high and b.low < a.high and (a.write or b.write)


def broken(ops: Ops, touched: list[list[Touch]], timing: Timing) -> list[tuple[int, int]]:
    """Conflicting operations whose order is not the plan's, or that are not over in time."""
    place = {index: number for number, index in enumerate(timing.issue_order)}
    return [
        (a, b)
        for a, b in conflicts(touched)
        if place[a] > place[b]
        or timing.start[b] < timing.start[a]
        or (ops[a].engine is not ops[b].engine and timing.start[b] < timing.done[a])
    ]


@pytest.mark.parametrize(("seed", "target"), [(2, "tiny8"), (3, "edge32"), (7, "tiny8"), (12, "edge16")])
def test_every_conflict_keeps_the_order_of_the_plan(seed: int, target: str) -> None:
    ops, touched, homes = planned(model_of(seed), target, schedule_options(3))
    timing = overlapped(ops, touched, load_target(target), homes, schedule_options(3))
    assert sorted(timing.issue_order) == list(range(len(ops)))
    assert not broken(ops, touched, timing)


def test_an_order_without_dependences_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: nothing depends on anything. Looking at all pairs must object."""
    model = quantized(chain(4), 1)
    ops, touched, homes = planned(model, "edge32", schedule_options(3))

    def independent(ops: Ops, touched: object) -> list[list[int]]:
        del touched
        return [[] for _ in ops]

    monkeypatch.setattr(ordering, "dependences", independent)
    assert broken(ops, touched, overlapped(ops, touched, load_target("edge32"), homes, schedule_options(3)))


@pytest.mark.parametrize(("seed", "target"), [(2, "tiny8"), (3, "edge32"), (5, "edge32"), (12, "edge16")])
def test_buffers_that_are_held_together_share_nothing_and_fit(seed: int, target: str) -> None:
    machine = load_target(target)
    ops, touched, homes = planned(model_of(seed), target, schedule_options(3))
    timing = overlapped(ops, touched, machine, homes, schedule_options(3))
    held: dict[int, tuple[Memory, int, int, int, int]] = {}
    for index, parts in enumerate(touched):
        for touch in parts:
            key = id(touch.buffer)
            if key in timing.addresses:
                address = timing.addresses[key]
                _, _, _, first, last = held.get(key, (0, 0, 0, 1 << 60, 0))
                first, last = min(first, timing.start[index]), max(last, timing.done[index])
                held[key] = touch.buffer.memory, address, address + touch.buffer.size, first, last
    found = sorted(held.values(), key=lambda h: (h[0].value, h[1]))
    for memory, _, end, _, _ in found:
        assert end <= limits_of(machine)[memory]
    for number, (memory, low, high, first, last) in enumerate(found):
        for other, other_low, other_high, other_first, other_last in found[:number]:
            apart = other_high <= low or high <= other_low or other_last <= first or last <= other_first
            assert other is not memory or apart


@pytest.mark.parametrize("seed", range(20))
def test_last_touch_equals_an_entry_for_every_address(seed: int) -> None:
    random = Random(seed)
    touched, entries = LastTouch(), [-1] * 64
    for number in range(200):
        low = random.randrange(63)
        high = random.randrange(low + 1, 65)
        assert touched.latest(low, high) == max(entries[low:high])
        if random.random() < 0.6:
            touched.touch(low, high, number)
            entries[low:high] = [number] * (high - low)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 23, 24])
@pytest.mark.parametrize("layers", [2, 3, 5])
def test_what_a_band_reads_was_made_in_an_earlier_round(rows: int, layers: int) -> None:
    graph = chain(layers)
    model = quantized(graph, 1)
    target = load_target("edge32")
    works = [
        work_of(n, target, {}) for n in driver.lower(model.integers()).nodes() if n.op.name == "q.conv2d"
    ]
    stripes = stripes_of(works, rows)
    for work in works:
        made = stripes.made[work.node.id]
        assert made[0].start == 0
        assert made[-1].stop == work.shape[1]
        assert all(a.stop == b.start for a, b in pairwise(made))
        for operand in work.operands:
            source = stripes.made.get(operand.node.id)
            if source is None:
                continue
            behind = stripes.delay[work.node.id] - stripes.delay[operand.node.id]
            assert behind >= 1
            for stripe, read in enumerate(stripes.read[work.node.id, operand.index]):
                assert read.stop <= source[min(stripe + behind - 1, len(source) - 1)].stop


@pytest.mark.parametrize(("seed", "target"), [(1, "tiny8"), (4, "edge32"), (9, "edge16"), (11, "tiny8")])
def test_every_level_and_technique_gives_the_same_bytes(seed: int, target: str) -> None:
    model = model_of(seed)
    (sample,) = random_inputs(random_graph(seed), 1, seed=5)
    variants = [(level, ()) for level in range(4)] + [(3, (name,)) for name in TECHNIQUES]
    outputs = {
        b"".join(y.tobytes() for y in Session(binary).run(None, sample))
        for level, without in variants
        for binary in (api.compile(model, target, opt_level=level, without=without).program,)
    }
    assert len(outputs) == 1


def test_levels_and_techniques_are_each_worth_cycles() -> None:
    graph = chain(6, size=56, channels=32)
    model = quantized(graph, 1)

    def cycles(level: int, *without: str) -> int:
        slow = ["dram.bytes_per_cycle=1"]
        return profile(api.compile(model, opt_level=level, without=without, overrides=slow).program).cycles

    assert cycles(3) < cycles(1) < cycles(0)
    assert cycles(3) < cycles(3, "overlap")
    assert cycles(3) < cycles(3, "prefetch")
    assert cycles(3) < cycles(3, "residency", "fusion")


def test_a_plan_without_room_is_refused_by_the_order_and_compiled_otherwise() -> None:
    model = quantized(chain(4), 1)
    ops, touched, homes = planned(model, "edge32", schedule_options(3))
    small = load_target("edge32", ["spm.bytes=16384"])
    with pytest.raises(NoRoomError):
        overlapped(ops, touched, small, homes, schedule_options(3))
    assert api.compile(model, small).program.instructions
