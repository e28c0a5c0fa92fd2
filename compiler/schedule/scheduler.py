"""From a device graph to placed and ordered tile operations: plan, times, addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from compiler.errors import FitError
from compiler.ir.graph import Graph
from compiler.schedule.allocate import Allocation, AllocationError, allocate, limits_of
from compiler.schedule.order import NoRoomError, Timing, Touch, overlapped, serial, touches
from compiler.schedule.plan import Plan, plan
from compiler.schedule.techniques import Techniques
from compiler.schedule.tiles import TileOp
from isa.diagnostics import Diagnostic
from isa.locations import UNKNOWN
from isa.target import Target


@dataclass(frozen=True, slots=True)
class Schedule:
    """A planned, ordered and placed program, before its tokens."""

    plan: Plan
    order: list[TileOp]
    allocation: Allocation


def best_schedule(graph: Graph, target: Target, allowed: Techniques) -> Schedule:
    """The schedule of a graph of stage device.

    Raises:
        FitError: the target is too small for a layer.
        CompileError: an operation that no tile expresses.
    """
    try:
        return _placed(plan(graph, target, allowed), target, allowed)
    except (AllocationError, FitError):
        pass  # what stays in the scratchpad may be what a layer lacks
    try:
        return _placed(plan(graph, target, replace(allowed, residency=False, fusion=False)), target, allowed)
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
    """The plan's operations in order, with addresses; they run ahead less where addresses do not suffice.

    Raises:
        AllocationError: not even one operation after another fits.
    """
    ops = planned.tiles.ops
    touched = touches(ops, target)
    if allowed.overlap:
        try:
            timing = overlapped(ops, touched, target, limits_of(target))
            return _schedule(planned, touched, timing, target)
        except NoRoomError:
            pass  # one operation after another may fit
    return _schedule(planned, touched, serial(ops), target)


def _schedule(planned: Plan, touched: Sequence[Sequence[Touch]], timing: Timing, target: Target) -> Schedule:
    ops = planned.tiles.ops
    names = {layer.id: layer.name for layer in planned.tiles.layers}
    allocation = allocate(ops, touched, timing, planned.tiles.tensors, names, target)
    return Schedule(planned, [ops[i] for i in timing.row], allocation)
