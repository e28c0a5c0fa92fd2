"""Profiles: where the cycles of a program go, beside the least that any schedule needs.

Lower bounds come from the least work of each layer, which the compiler has written into the binary: the
array's passes, the vector unit's lanes, the bytes of constants and interface. No schedule on the target
needs fewer cycles than the greatest of the three, for the whole program or for a layer by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from isa.program import Box, OpRow, Program, hull
from isa.spec import WORD_BYTES, Engine
from isa.support.records import Frozen, replace
from isa.support.tables import html_table
from isa.target import Target
from isa.timing.core import Timeline
from isa.timing.model import cycles_per_run, simulate_devices
from isa.timing.shares import NO_LAYER, Share, shares

RESOURCES: Final = ("MX", "VX", "DRAM")
OF_TRANSFERS: Final = ("TX", "RX")
"""Engines that have work where there are several devices."""
CYCLES_PER_MS: Final = 1000
"""Of a clock of 1 MHz."""


class Bound(Frozen):
    """The least cycles, and which resource needs them; 0 where the binary says nothing of its layers."""

    cycles: int
    resource: str


class LayerProfile(Frozen):
    """The share of one layer: see `isa.timing.shares` for whose a cycle is.

    `mac_utilization` is the share of the array's multipliers that work in these cycles, `vx_utilization` that
    of the lanes in the cycles of the vector unit. `hidden` are cycles in which it executes under others, most
    of them under the layer `hidden_under`: so a layer may have fewer cycles of its own than its bound.
    """

    id: int
    name: str
    op_types: tuple[str, ...]
    cycles: int
    begin: int
    end: int
    hidden: int
    hidden_under: str
    macs: int
    mac_utilization: float
    vx_utilization: float
    mx_busy_cycles: int
    vx_busy_cycles: int
    dram_busy_cycles: int
    dram_read_bytes: int
    dram_write_bytes: int
    bound_cycles: int
    bound_by: str
    instructions: int
    mode: str = ""
    """How it is divided among devices: rows, channels, columns, batch, whole, or on which device."""


class Profile(Frozen):
    """What the cycle model says of a program."""

    target: str
    opt_level: int | None
    cycles: int
    milliseconds: float
    """At the target's clock."""
    inferences_per_second: float
    """Runs of the program, one after another, on each device."""
    devices: int
    cycles_per_image: int
    """Of a stream of runs; on one device all cycles of a run."""
    macs: int
    mac_utilization: float
    """Share of the array's multipliers that work, over all cycles; the vector unit's products left out."""
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
    timelines: tuple[Timeline, ...]
    """Of every device."""

    def __repr__(self) -> str:
        bound = f", {self.bound_ratio:.2f} times the bound" if self.bound_ratio else ""
        return f"<Profile: {self.cycles:,} cycles on {self.target}, {len(self.per_layer)} layers{bound}>"

    def _repr_html_(self) -> str:
        """The table of layers, for notebooks."""
        shown = ("name", "cycles", "begin", "end", "bound_cycles", "bound_by", "mac_utilization", "hidden")
        rows = [[getattr(layer, name) for name in shown] for layer in self.per_layer]
        return html_table(repr(self).strip("<>"), shown, rows)


def profile(programs: Program | Sequence[Program]) -> Profile:
    """Run a program, or those of several devices together, in the cycle model.

    Raises:
        MachineTrap: an instruction is not legal, or no engine can go on.
    """
    several = (programs,) if isinstance(programs, Program) else tuple(programs)
    timelines = simulate_devices(several)
    first, count = several[0], len(several)
    cycles = max(timeline.cycles for timeline in timelines)
    per_run = cycles if count == 1 else cycles_per_run(several)
    every = [range(len(p.instructions)) for p in several]
    by_device = [_layers(p, timeline) for p, timeline in zip(several, timelines, strict=True)]
    layers = by_device[0] if count == 1 else _together(several, by_device)
    least = _bound(first.operators.ops, first.target, count)
    options = dict(first.note.options)
    level = options.get("opt_level", "")
    traffic = [_traffic(timeline, each) for timeline, each in zip(timelines, every, strict=True)]
    macs = [_macs(timeline, each) for timeline, each in zip(timelines, every, strict=True)]
    on_array = sum(_array_macs(timeline, each) for timeline, each in zip(timelines, every, strict=True))
    return Profile(
        first.target.name,
        int(level) if level.isdecimal() else None,
        cycles,
        round(cycles / (first.target.clock_mhz * CYCLES_PER_MS), 6),
        round(first.target.clock_mhz * 1e6 / per_run, 3) if per_run else 0.0,
        count,
        per_run,
        sum(macs),
        _utilization(on_array, cycles * count, first.target),
        sum(timeline.busy(Engine.MX) for timeline in timelines),
        sum(timeline.busy(Engine.VX) for timeline in timelines),
        sum(timeline.bus_busy(each) for timeline, each in zip(timelines, every, strict=True)),
        _stalls(timelines),
        sum(read for read, _ in traffic),
        sum(written for _, written in traffic),
        WORD_BYTES * sum(len(p.instructions) for p in several),
        least.cycles,
        least.resource,
        round(cycles / least.cycles, 4) if least.cycles else None,
        sum(layer.bound_cycles for layer in layers),
        sum(len(p.instructions) for p in several),
        layers,
        tuple(timelines),
    )


def _stalls(timelines: Sequence[Timeline]) -> dict[str, dict[str, int]]:
    """Cycles in which an engine did no work, by cause: of all devices together."""
    found: dict[str, dict[str, int]] = {}
    for timeline in timelines:
        for engine, causes in timeline.stalls.items():
            mine = found.setdefault(engine.name, {})
            for cause, cycles in causes.items():
                mine[cause] = mine.get(cause, 0) + cycles
    return {
        engine: dict(sorted(causes.items()))
        for engine, causes in found.items()
        if engine not in OF_TRANSFERS or len(timelines) > 1
    }


def _together(
    programs: Sequence[Program], by_device: Sequence[Sequence[LayerProfile]]
) -> tuple[LayerProfile, ...]:
    """Of every layer what all devices do: the longest of their cycles, the sum of their work."""
    t, count, modes = programs[0].target, len(programs), _modes(programs)
    found: list[LayerProfile] = []
    for number, op in enumerate(programs[0].operators.ops):
        rows = [layers[number] for layers in by_device]
        busy = [r for r in rows if r.instructions]
        longest = max(rows, key=_cycles)
        bound = _bound([op], t, count)
        multiplying = sum(r.mac_utilization * r.cycles for r in rows) / count
        lanes = sum(r.vx_busy_cycles for r in rows) * t.vx.lanes
        found.append(
            replace(
                longest,
                begin=min((r.begin for r in busy), default=0),
                end=max((r.end for r in busy), default=0),
                macs=sum(r.macs for r in rows),
                mac_utilization=round(multiplying / longest.cycles, 4) if longest.cycles else 0.0,
                vx_utilization=round(op.vx_lanes / lanes, 4) if lanes else 0.0,
                mx_busy_cycles=sum(r.mx_busy_cycles for r in rows),
                vx_busy_cycles=sum(r.vx_busy_cycles for r in rows),
                dram_busy_cycles=sum(r.dram_busy_cycles for r in rows),
                dram_read_bytes=sum(r.dram_read_bytes for r in rows),
                dram_write_bytes=sum(r.dram_write_bytes for r in rows),
                bound_cycles=bound.cycles,
                bound_by=bound.resource,
                instructions=sum(r.instructions for r in rows),
                mode=modes.get(op.id, ""),
            )
        )
    return tuple(found)


def _cycles(layer: LayerProfile) -> int:
    return layer.cycles


AXES: Final = ("batch", "rows", "columns", "channels")


def _modes(programs: Sequence[Program]) -> dict[int, str]:
    """How every layer is divided, by the boxes that the devices complete of its results."""
    boxes: dict[int, dict[int, Box]] = {}
    for program in programs:
        for row in program.debug.rows:
            if row.box is not None:
                mine = boxes.setdefault(row.op, {})
                mine[program.device] = hull(mine.get(program.device), row.box)
    return {layer: _mode(found) for layer, found in boxes.items()}


def _mode(boxes: Mapping[int, Box]) -> str:
    """How a layer is divided of which devices complete these boxes."""
    if len(boxes) == 1:
        return f"device {next(iter(boxes))}"
    for name, ranges in zip(AXES, zip(*boxes.values(), strict=True), strict=False):
        if len(set(ranges)) > 1:
            return name
    return "whole"


def layer_of(program: Program) -> list[int]:
    """The layer of every instruction, or NO_LAYER."""
    return [NO_LAYER if row is None else row.op for row in program.row_of_each()]


def _layers(program: Program, timeline: Timeline) -> tuple[LayerProfile, ...]:
    owner = layer_of(program)
    members: dict[int, list[int]] = {op.id: [] for op in program.operators.ops}
    for pc, layer in enumerate(owner):
        if layer in members:
            members[layer].append(pc)
    found = shares(timeline, owner)
    names = {op.id: op.name for op in program.operators.ops}
    return tuple(
        _layer(program, timeline, op, members[op.id], found.get(op.id, Share()), names)
        for op in program.operators.ops
    )


def _layer(
    program: Program,
    timeline: Timeline,
    op: OpRow,
    members: list[int],
    share: Share,
    names: Mapping[int, str],
) -> LayerProfile:
    bound, busy = _bound([op], program.target), timeline.busy(Engine.VX, members)
    lanes = busy * program.target.vx.lanes
    return LayerProfile(
        op.id,
        op.name,
        op.op_types,
        share.cycles,
        share.begin,
        share.end,
        share.hidden,
        names.get(share.under, ""),
        _macs(timeline, members),
        _array_utilization(timeline, members, share.cycles, program.target),
        round(op.vx_lanes / lanes, 4) if lanes else 0.0,
        timeline.busy(Engine.MX, members),
        busy,
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


def _bound(ops: tuple[OpRow, ...] | list[OpRow], t: Target, devices: int = 1) -> Bound:
    needed = (
        round(sum(o.mx_cycles for o in ops) / devices),
        round(sum(o.vx_lanes for o in ops) / t.vx.lanes / devices),
        round(sum(o.dram_bytes for o in ops) / t.dram.bytes_per_cycle / devices),
    )
    cycles = max(needed)
    return Bound(cycles, RESOURCES[needed.index(cycles)] if cycles else "")


def _array_utilization(timeline: Timeline, members: Iterable[int], cycles: int, t: Target) -> float:
    """The share of the array's multipliers that some of its instructions keep busy."""
    return _utilization(_array_macs(timeline, members), cycles, t)


def _array_macs(timeline: Timeline, members: Iterable[int]) -> int:
    """Multiplications of the array alone."""
    costs = timeline.costs
    return sum(costs.macs[k] for k in members if costs.engine[k] == Engine.MX)


def _utilization(macs: int, cycles: int, t: Target) -> float:
    return round(macs / (cycles * t.mx.rows * t.mx.cols), 4) if cycles else 0.0
