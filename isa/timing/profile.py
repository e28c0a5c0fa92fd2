"""Profiles: where the cycles of a program go, beside the least that any schedule needs.

Lower bounds come from the least work of each layer, which the compiler has written into the binary: the
array's passes, the vector unit's lanes, the bytes of constants and interface. No schedule on the target
needs fewer cycles than the greatest of the three, for the whole program or for a layer by itself.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from isa.program import OpRow, Program
from isa.spec import WORD_BYTES, Engine
from isa.support.records import Frozen
from isa.target import Target
from isa.timing.model import PRIORITY, Timeline, simulate

RESOURCES: Final = ("MX", "VX", "DRAM")
NO_LAYER: Final = -1


class Bound(Frozen):
    """The least cycles, and which resource needs them; 0 where the binary says nothing of its layers."""

    cycles: int
    resource: str


class LayerProfile(Frozen):
    """The share of one layer.

    Every cycle belongs to one layer: that of the instruction that executes on the first of MX, VX, LD, ST
    that is busy, or, where none is, of the next to start. `mac_utilization` is of these cycles.
    """

    id: int
    name: str
    op_types: tuple[str, ...]
    cycles: int
    macs: int
    mac_utilization: float
    mx_busy_cycles: int
    vx_busy_cycles: int
    dram_busy_cycles: int
    dram_read_bytes: int
    dram_write_bytes: int
    bound_cycles: int
    bound_by: str
    instructions: int


class Profile(Frozen):
    """What the cycle model says of a program."""

    target: str
    opt_level: int | None
    cycles: int
    macs: int
    mac_utilization: float
    """Share of the array's multipliers that work, over all cycles."""
    mx_busy_cycles: int
    vx_busy_cycles: int
    dram_busy_cycles: int
    stall_cycles: dict[str, dict[str, int]]
    """Cycles in which an engine did no work, by cause: see `isa.timing.model`."""
    dram_read_bytes: int
    dram_write_bytes: int
    code_bytes: int
    bound_cycles: int
    bound_by: str
    bound_ratio: float | None
    layer_bound_cycles: int
    """The sum of the bounds of all layers: the least of schedules that overlap no two of them."""
    instructions: int
    per_layer: tuple[LayerProfile, ...]
    timeline: Timeline


def profile(program: Program) -> Profile:
    """Run a program in the cycle model.

    Raises:
        MachineTrap: an instruction is not legal, or no engine can go on.
    """
    timeline = simulate(program)
    layers = _layers(program, timeline)
    least = _bound(program.operators.ops, program.target)
    options = dict(program.note.options)
    level = options.get("opt_level", "")
    everything = range(len(program.instructions))
    macs = _macs(timeline, everything)
    return Profile(
        program.target.name,
        int(level) if level.isdecimal() else None,
        timeline.cycles,
        macs,
        _utilization(macs, timeline.cycles, program.target),
        timeline.busy(Engine.MX),
        timeline.busy(Engine.VX),
        timeline.bus_busy(everything),
        {e.name: dict(sorted(causes.items())) for e, causes in timeline.stalls.items()},
        *_traffic(timeline, everything),
        WORD_BYTES * len(program.instructions),
        least.cycles,
        least.resource,
        round(timeline.cycles / least.cycles, 4) if least.cycles else None,
        sum(layer.bound_cycles for layer in layers),
        len(program.instructions),
        layers,
        timeline,
    )


def layer_of(program: Program) -> list[int]:
    """The layer of every instruction, or NO_LAYER."""
    return [NO_LAYER if row is None else row.op for row in program.row_of_each()]


def _layers(program: Program, timeline: Timeline) -> tuple[LayerProfile, ...]:
    owner = layer_of(program)
    members: dict[int, list[int]] = {op.id: [] for op in program.operators.ops}
    for pc, layer in enumerate(owner):
        if layer in members:
            members[layer].append(pc)
    cycles = _shares(timeline, owner)
    return tuple(
        _layer(program, timeline, op, members[op.id], cycles.get(op.id, 0)) for op in program.operators.ops
    )


def _layer(program: Program, timeline: Timeline, op: OpRow, members: list[int], cycles: int) -> LayerProfile:
    macs = _macs(timeline, members)
    bound = _bound([op], program.target)
    return LayerProfile(
        op.id,
        op.name,
        op.op_types,
        cycles,
        macs,
        _utilization(macs, cycles, program.target),
        timeline.busy(Engine.MX, members),
        timeline.busy(Engine.VX, members),
        timeline.bus_busy(members),
        *_traffic(timeline, members),
        bound.cycles,
        bound.resource,
        len(members),
    )


def _macs(timeline: Timeline, members: Iterable[int]) -> int:
    """Multiply-accumulate operations of instructions."""
    return sum(timeline.costs.macs[k] for k in members)


def _traffic(timeline: Timeline, members: Iterable[int]) -> tuple[int, int]:
    """Bytes of DRAM that instructions read and write."""
    moved = [timeline.costs.moved[k] for k in members]
    return sum(read for read, _ in moved), sum(written for _, written in moved)


def _bound(ops: tuple[OpRow, ...] | list[OpRow], t: Target) -> Bound:
    needed = (
        sum(o.mx_cycles for o in ops),
        round(sum(o.vx_lanes for o in ops) / t.vx.lanes),
        round(sum(o.dram_bytes for o in ops) / t.dram.bytes_per_cycle),
    )
    cycles = max(needed)
    return Bound(cycles, RESOURCES[needed.index(cycles)] if cycles else "")


def _utilization(macs: int, cycles: int, t: Target) -> float:
    return round(macs / (cycles * t.mx.rows * t.mx.cols), 4) if cycles else 0.0


def _shares(timeline: Timeline, owner: list[int]) -> dict[int, int]:
    """Cycles of every layer; they add up to all."""
    lanes: list[tuple[list[int], list[int], list[int]]] = []
    for engine in PRIORITY:
        mine = [k for k, e in enumerate(timeline.costs.engine) if e == engine and owner[k] != NO_LAYER]
        starts, ends = [timeline.start[k] for k in mine], [timeline.end[k] for k in mine]
        lanes.append((starts, ends, [owner[k] for k in mine]))
    edges = sorted({0, timeline.cycles, *itertools.chain(*(s + e for s, e, _ in lanes))})
    shares: dict[int, int] = {}
    idle = 0
    last = NO_LAYER
    for begin, end in itertools.pairwise(edges):
        layer = _executing(lanes, begin)
        if layer is None:
            idle += end - begin
            continue
        shares[layer] = shares.get(layer, 0) + end - begin + idle
        idle, last = 0, layer
    if last != NO_LAYER:
        shares[last] += idle
    return shares


def _executing(lanes: list[tuple[list[int], list[int], list[int]]], when: int) -> int | None:
    for starts, ends, owners in lanes:
        at = bisect_right(starts, when) - 1
        if at >= 0 and when < ends[at]:
            return owners[at]
    return None
