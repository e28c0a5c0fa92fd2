"""From a device graph to placed and ordered tile operations: plan, times, addresses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from compiler.errors import FitError
from compiler.ir.graph import Graph
from compiler.schedule.allocate import Allocation, AllocationError, allocate
from compiler.schedule.order import overlapped, serial, touches
from compiler.schedule.plan import Plan, plan
from compiler.schedule.room import NoRoomError
from compiler.schedule.techniques import Techniques
from compiler.schedule.tiles import Memory, TileOp
from isa.diagnostics import Diagnostic
from isa.locations import UNKNOWN
from isa.target import Target

FILLS: Final = (0.92, 0.85, 0.75, 0.6)
"""Of the scratchpad, that a plan may hold; the less, the surer that every buffer finds a place."""
FURTHER: Final = (0.97, 0.7, 0.88, 0.8)
"""Others that are worth trying."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A planned, ordered and placed program, before its tokens."""

    plan: Plan
    order: list[TileOp]
    allocation: Allocation


def schedules(graph: Graph, target: Target, allowed: Techniques) -> Iterator[Schedule]:
    """Schedules of a graph of stage device that are worth trying, at least one, the likeliest first.

    Raises:
        FitError: the target is too small for a layer.
        CompileError: an operation that no tile expresses.
    """
    found = False
    if allowed.residency or allowed.fusion:
        for fill in FILLS:
            schedule = _tried(graph, target, allowed, fill)
            if schedule is not None:
                found = True
                yield schedule
    if not found:  # what stays in the scratchpad may be what a layer lacks
        yield _sparing(graph, target, allowed)
        return
    others = (*((allowed, fill) for fill in FURTHER), *((less, FILLS[0]) for less in _without(allowed)))
    for techniques, fill in others:
        schedule = _tried(graph, target, techniques, fill)
        if schedule is not None:
            yield schedule


def _without(allowed: Techniques) -> list[Techniques]:
    """The same without one technique whose worth is estimated."""
    estimated = ("fusion", "banks", "address")
    return [replace(allowed, **{name: False}) for name in estimated if getattr(allowed, name)]


def _tried(graph: Graph, target: Target, allowed: Techniques, fill: float) -> Schedule | None:
    """The schedule that holds so much in the scratchpad; None if it does not fit."""
    try:
        return _placed(plan(graph, target, allowed, fill), target, allowed)
    except (AllocationError, FitError, NoRoomError):
        return None


def _sparing(graph: Graph, target: Target, allowed: Techniques) -> Schedule:
    """The schedule that holds as little as there may be in the scratchpad.

    Raises:
        FitError: the target is too small for a layer.
    """
    bare = replace(allowed, residency=False, fusion=False)
    if allowed.overlap:
        try:
            return _placed(plan(graph, target, bare), target, bare)
        except (AllocationError, FitError, NoRoomError):
            pass  # one operation after another may fit
    bare = replace(bare, overlap=False)
    try:
        return _placed(plan(graph, target, bare), target, bare)
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


def _placed(planned: Plan, target: Target, allowed: Techniques) -> Schedule:
    """The plan's operations in order, with addresses.

    Raises:
        NoRoomError: a buffer finds no place between the others.
        AllocationError: one operation after another does not fit.
    """
    ops = planned.tiles.ops
    touched = touches(ops, target)
    homes = frozenset(id(t.home) for t in planned.tiles.tensors if t.home.memory is Memory.SPM)
    timing = overlapped(ops, touched, target, homes, allowed) if allowed.overlap else serial(ops)
    names = {layer.id: layer.name for layer in planned.tiles.layers}
    allocation = allocate(ops, touched, timing, planned.tiles.tensors, names, target)
    return Schedule(planned, [ops[i] for i in timing.row], allocation)
