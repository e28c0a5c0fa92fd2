"""Allocate: addresses for every buffer, from the times at which operations touch it.

A buffer of a memory on the chip, or of the arena, is held from the start of the first operation that
touches it until the last has completed; buffers whose times overlap get different addresses. Where the
addresses on the chip were chosen together with the times, they are taken over, and checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from compiler.schedule.order.list_scheduling import Timing
from compiler.schedule.order.packing import Placed, pack, together
from compiler.schedule.order.scratchpad import limits_of
from compiler.schedule.tile_graph import Buffer, Memory, TileOp, Touch, aligned
from isa.support.records import Frozen
from isa.target import Target


class Shortage(Frozen):
    """A memory on the chip that is too small for what a layer and those around it hold at the same time."""

    memory: Memory
    layer: str
    needed: int
    available: int

    @property
    def unit(self) -> str:
        """What is counted."""
        return {Memory.ACC: "rows", Memory.SREG: "registers"}.get(self.memory, "bytes")


class AllocationError(Exception):
    """What does not fit: by memory, then by layer."""

    def __init__(self, shortages: list[Shortage]) -> None:
        super().__init__(f"{len(shortages)} shortages")
        self.shortages = shortages


def allocate(
    ops: Sequence[TileOp],
    touched: Sequence[Sequence[Touch]],
    timing: Timing,
    homes: Sequence[Buffer],
    layers: Mapping[int, str],
    target: Target,
    begin: Mapping[Memory, int] | None = None,
) -> dict[Memory, int]:
    """Give every buffer its address; the bytes, or rows of the accumulators, used of every memory.

    `layers` are the names of the operations' layers. What is kept for the whole run begins in its memory
    where `begin` says. The state lies where it is.

    Raises:
        AllocationError: a memory on the chip is too small.
    """
    limits = limits_of(target)
    held = _lifetimes(ops, touched, timing, homes)
    used: dict[Memory, int] = {}
    shortages: list[Shortage] = []
    for memory in Memory:
        mine = [p for p in held if p.buffer.memory is memory]
        if memory in limits and timing.addresses:
            for placed in mine:
                placed.address = timing.addresses[id(placed.buffer)]
            used[memory] = max((p.end for p in mine), default=0)
            _require_disjoint(mine)
        elif memory in (Memory.ARENA, *limits):
            used[memory] = pack(mine)
            _require_disjoint(mine)
        elif memory is Memory.STATE and all(p.buffer.address is not None for p in mine):
            used[memory] = max(
                (p.buffer.address + p.buffer.size for p in mine if p.buffer.address is not None), default=0
            )
            continue
        else:
            used[memory] = _line_up(mine, (begin or {}).get(memory, 0))
        if used[memory] > limits.get(memory, used[memory]):
            shortages += _shortages(mine, layers, limits[memory])
        for placed in mine:
            placed.buffer.address = placed.address
    if shortages:
        raise AllocationError(shortages)
    return used


def _lifetimes(
    ops: Sequence[TileOp], touched: Sequence[Sequence[Touch]], timing: Timing, homes: Sequence[Buffer]
) -> list[Placed]:
    """All buffers in order of first touch in the plan; homes that nothing touches come last."""
    found: dict[int, Placed] = {}
    for index, op in enumerate(ops):
        first, last = timing.start[index], timing.done[index]
        for touch in touched[index]:
            placed = found.get(id(touch.buffer))
            if placed is None:
                found[id(touch.buffer)] = Placed(touch.buffer, first, last, op.layer, len(found))
                continue
            if first < placed.first:
                placed.first = first
            if last > placed.last:
                placed.last = last
        for ref in op.bind.values():
            if ref.buffer.content is not None and id(ref.buffer) not in found:
                found[id(ref.buffer)] = Placed(ref.buffer, 0, 0, op.layer, len(found))
    for home in homes:
        if id(home) not in found:
            found[id(home)] = Placed(home, timing.cycles, timing.cycles, -1, len(found))
    return list(found.values())


def _shortages(held: list[Placed], layers: Mapping[int, str], available: int) -> Iterator[Shortage]:
    """The layers whose buffers end beyond the memory, and where they end."""
    ends: dict[int, int] = {}
    for placed in held:
        ends[placed.layer] = max(ends.get(placed.layer, 0), placed.end)
    for layer, end in ends.items():
        if end > available:
            yield Shortage(held[0].buffer.memory, layers.get(layer, ""), end, available)


def _require_disjoint(held: list[Placed]) -> None:
    """Check, apart from how they were placed, that what is held at the same time shares no address."""
    for one, other in together(held):
        apart = one.end <= other.address or other.end <= one.address
        assert apart, f"{one.buffer.name} and {other.buffer.name} share memory"


def _line_up(held: list[Placed], end: int) -> int:
    """One after another: what is kept for the whole run."""
    for placed in held:
        placed.address = aligned(end)
        end = placed.address + placed.buffer.size
    return aligned(end)
