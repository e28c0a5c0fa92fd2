"""From a device graph to placed and ordered tile operations: plan, times, addresses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from compiler.errors import FitError
from compiler.ir.graph import Graph
from compiler.schedule.options import ScheduleOptions
from compiler.schedule.order.allocate import AllocationError, allocate
from compiler.schedule.order.list_scheduling import is_long, overlapped, serial, touches
from compiler.schedule.order.scratchpad import NoRoomError
from compiler.schedule.segments.plan import Plan, plan
from compiler.schedule.tile_graph import Memory, TileOp
from isa.support.diagnostics import Diagnostic
from isa.support.locations import UNKNOWN
from isa.support.records import Frozen, replace
from isa.target import Target

FILLS: Final = (0.92, 0.85, 0.75, 0.6)
"""Parts of the scratchpad that a plan may hold, in the order in which they are tried.

The less, the surer that every buffer finds a place between the others, and the more goes through DRAM.
"""
FURTHER: Final = (0.97, 0.7, 0.88, 0.8)
"""Other parts that are worth trying, in this order.

The cycle model says which is best; each takes the time of a schedule.
"""


class Schedule(Frozen):
    """A planned, ordered and placed program, before its tokens."""

    plan: Plan
    order: list[TileOp]
    used: dict[Memory, int]
    """Bytes, or rows of the accumulators, of every memory."""


def schedules(graph: Graph, target: Target, options: ScheduleOptions) -> Iterator[Schedule]:
    """Schedules of a graph of stage device that are worth trying, at least one, the likeliest first.

    Raises:
        FitError: the target is too small for a layer.
        CompileError: an operation that no tile expresses.
    """
    holding = [(options, fill) for fill in FILLS] if options.residency or options.fusion else []
    found = False
    for schedule in _fitting(graph, target, holding):
        found = True
        yield schedule
    if found:
        others = [(options, fill) for fill in FURTHER] + [(less, FILLS[0]) for less in _without(options)]
        yield from _fitting(graph, target, others)
    else:  # what stays in the scratchpad may be what a layer lacks
        yield _sparing(graph, target, options)


def _without(options: ScheduleOptions) -> list[ScheduleOptions]:
    """The same without one technique whose worth is estimated."""
    estimated = ("fusion", "banks", "address")
    return [replace(options, **{name: False}) for name in estimated if getattr(options, name)]


def _fitting(
    graph: Graph, target: Target, proposals: Sequence[tuple[ScheduleOptions, float]]
) -> Iterator[Schedule]:
    """The schedules that may do so much and hold so much in the scratchpad; none for what does not fit."""
    for options, fill in proposals:
        planned: Plan | None = None
        try:
            planned = plan(graph, target, options, fill)
            schedule = placed(planned, target, options)
        except (AllocationError, FitError, NoRoomError):
            if planned is not None and is_long(planned.tiles.ops):
                return  # each proposal takes long, and the next ones hold hardly less
            continue
        yield schedule


def _sparing(graph: Graph, target: Target, options: ScheduleOptions) -> Schedule:
    """The schedule that holds as little as there may be in the scratchpad.

    Raises:
        FitError: the target is too small for a layer.
    """
    bare = replace(options, residency=False, fusion=False)
    for schedule in _fitting(graph, target, [(bare, 1.0)] if options.overlap else []):
        return schedule
    bare = replace(bare, overlap=False)  # one operation after another may fit
    try:
        return placed(plan(graph, target, bare), target, bare)
    except AllocationError as error:
        places = {n.name: n.loc for n in graph.nodes()}
        raise FitError(
            [
                Diagnostic(
                    "fit.memory",
                    f"'{s.layer}' needs {s.needed} {s.unit} of {s.memory.value}, "
                    f"{s.needed - s.available} more than the {s.available} available",
                    places.get(s.layer, UNKNOWN),
                    remedy=f"choose a target with more {s.memory.value}",
                )
                for s in error.shortages
            ]
        ) from None


def placed(
    planned: Plan, target: Target, options: ScheduleOptions, begin: Mapping[Memory, int] | None = None
) -> Schedule:
    """The plan's operations in order, with addresses; `begin` says where regions of the binary are free.

    Raises:
        NoRoomError: a buffer finds no place between the others.
        AllocationError: one operation after another does not fit.
    """
    ops = planned.tiles.ops
    touched = touches(ops, target)
    homes = frozenset(id(t.home) for t in planned.tiles.tensors if t.home.memory is Memory.SPM)
    timing = overlapped(ops, touched, target, homes, options) if options.overlap else serial(ops)
    names = {layer.id: layer.name for layer in planned.tiles.layers}
    used = allocate(ops, touched, timing, planned.tiles.homes(), names, target, begin)
    return Schedule(planned, [ops[i] for i in timing.issue_order], used)
