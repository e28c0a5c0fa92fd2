"""Profiles: where the cycles of a program go, beside the least that any schedule needs.

Lower bounds come from the least work of each layer, which the compiler has written into the binary: the
array's passes, the vector unit's lanes, the bytes of constants and interface. No schedule on the target
needs fewer cycles than the greatest of the three, for the whole program or for a layer by itself.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

from isa.program import OpRow, Program
from isa.spec import Engine, Space
from isa.target import Target
from runtime.timing import PRIORITY, Timeline, simulate

RESOURCES: Final = ("MX", "VX", "DRAM")
NO_LAYER: Final = -1


@dataclass(frozen=True, slots=True)
class Bound:
    """The least cycles, and which resource needs them; 0 where the binary says nothing of its layers."""

    cycles: int
    resource: str


@dataclass(frozen=True, slots=True)
class LayerProfile:
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


@dataclass(frozen=True)
class Profile:
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
    """Cycles in which an engine did no work, by cause: see `runtime.timing`."""
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
    macs = sum(i.macs() for i in program.instructions)
    read, written = _traffic(program, range(len(program.instructions)))
    return Profile(
        program.target.name,
        int(level) if level.isdecimal() else None,
        timeline.cycles,
        macs,
        _utilization(macs, timeline.cycles, program.target),
        timeline.busy(Engine.MX),
        timeline.busy(Engine.VX),
        timeline.bus_busy(),
        {e.name: dict(sorted(causes.items())) for e, causes in timeline.stalls.items()},
        read,
        written,
        32 * len(program.instructions),
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
    layers = [NO_LAYER] * len(program.instructions)
    for row in program.debug.rows:
        layers[row.first : row.first + row.count] = [row.op] * row.count
    return layers


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
    engine, bus = timeline.costs.engine, timeline.costs.bus
    busy = {
        e: sum(timeline.end[k] - timeline.start[k] - timeline.waited[k] for k in members if engine[k] == e)
        for e in (Engine.MX, Engine.VX)
    }
    macs = sum(program.instructions[k].macs() for k in members)
    bound = _bound([op], program.target)
    return LayerProfile(
        op.id,
        op.name,
        op.op_types,
        cycles,
        macs,
        _utilization(macs, cycles, program.target),
        busy[Engine.MX],
        busy[Engine.VX],
        sum(timeline.end[k] - timeline.start[k] for k in members if bus[k]),
        *_traffic(program, members),
        bound.cycles,
        bound.resource,
        len(members),
    )


def _traffic(program: Program, members: range | list[int]) -> tuple[int, int]:
    """Bytes of DRAM that instructions read and write."""
    moved = [0, 0]
    for pc in members:
        for access in program.instructions[pc].accesses(program.target):
            if access.space is Space.DRAM:
                moved[access.write] += access.size()
    return moved[0], moved[1]


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


def binding(layer: LayerProfile | Profile) -> str:
    """The resource that was busy longest."""
    busy = (layer.mx_busy_cycles, layer.vx_busy_cycles, layer.dram_busy_cycles)
    return RESOURCES[busy.index(max(busy))]


def percent(part: float, whole: float) -> str:
    """A share, for people."""
    return f"{math.floor(1000 * part / whole + 0.5) / 10:.1f} %" if whole else "-"
