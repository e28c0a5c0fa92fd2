"""Profiles: where the cycles of a program go, beside the least that any schedule needs.

Lower bounds come from the least work of each layer, which the compiler has written into the binary: the
array's passes, the vector unit's lanes, the bytes of constants and interface. No schedule on the target
needs fewer cycles than the greatest of the three, for the whole program or for a layer by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from isa.program import OpRow, Program
from isa.spec import WORD_BYTES, Engine
from isa.support.records import Frozen
from isa.support.tables import html_table
from isa.target import Target
from isa.timing.core import Timeline
from isa.timing.model import simulate
from isa.timing.shares import NO_LAYER, Share, shares

RESOURCES: Final = ("MX", "VX", "DRAM")
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


class Profile(Frozen):
    """What the cycle model says of a program."""

    target: str
    opt_level: int | None
    cycles: int
    milliseconds: float
    """At the target's clock."""
    inferences_per_second: float
    """Runs of the program, one after another."""
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
    timeline: Timeline

    def __repr__(self) -> str:
        bound = f", {self.bound_ratio:.2f} times the bound" if self.bound_ratio else ""
        return f"<Profile: {self.cycles:,} cycles on {self.target}, {len(self.per_layer)} layers{bound}>"

    def _repr_html_(self) -> str:
        """The table of layers, for notebooks."""
        shown = ("name", "cycles", "begin", "end", "bound_cycles", "bound_by", "mac_utilization", "hidden")
        rows = [[getattr(layer, name) for name in shown] for layer in self.per_layer]
        return html_table(repr(self).strip("<>"), shown, rows)


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
    return Profile(
        program.target.name,
        int(level) if level.isdecimal() else None,
        timeline.cycles,
        round(timeline.cycles / (program.target.clock_mhz * CYCLES_PER_MS), 6),
        round(program.target.clock_mhz * 1e6 / timeline.cycles, 3) if timeline.cycles else 0.0,
        1,
        timeline.cycles,
        _macs(timeline, everything),
        _array_utilization(timeline, everything, timeline.cycles, program.target),
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


def _bound(ops: tuple[OpRow, ...] | list[OpRow], t: Target) -> Bound:
    needed = (
        sum(o.mx_cycles for o in ops),
        round(sum(o.vx_lanes for o in ops) / t.vx.lanes),
        round(sum(o.dram_bytes for o in ops) / t.dram.bytes_per_cycle),
    )
    cycles = max(needed)
    return Bound(cycles, RESOURCES[needed.index(cycles)] if cycles else "")


def _array_utilization(timeline: Timeline, members: Iterable[int], cycles: int, t: Target) -> float:
    """The share of the array's multipliers that some of its instructions keep busy."""
    costs = timeline.costs
    macs = sum(costs.macs[k] for k in members if costs.engine[k] == Engine.MX)
    return round(macs / (cycles * t.mx.rows * t.mx.cols), 4) if cycles else 0.0
