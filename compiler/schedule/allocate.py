"""Allocate: addresses for every buffer, from the order of the operations that touch them.

Working buffers of one role share a slot. A slot is held from the first to the last operation that
touches it; slots whose times overlap get different addresses. Larger slots are placed first, each
at the lowest address that is free for all of its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from compiler.schedule.tiles import TABLE, Buffer, Memory, Tensor, TileOp, aligned
from isa.target import Target

DRAM: Final = (Memory.WEIGHTS, Memory.ARENA, Memory.INPUT, Memory.OUTPUT, Memory.PARAMS)
DRAM_ALIGN: Final = 64


@dataclass(frozen=True, slots=True)
class Shortage:
    """A memory on the chip that is too small for what a layer and those around it hold at the same time."""

    memory: Memory
    layer: str
    needed: int
    available: int

    @property
    def unit(self) -> str:
        """What is counted."""
        return "rows" if self.memory is Memory.ACC else "bytes"


class AllocationError(Exception):
    """What does not fit: by memory, then by layer."""

    def __init__(self, shortages: list[Shortage]) -> None:
        super().__init__(f"{len(shortages)} shortages")
        self.shortages = shortages


@dataclass(slots=True)
class Slot:
    """A place that buffers share: its size, its alignment, and when it is held."""

    memory: Memory
    buffers: list[Buffer]
    size: int
    align: int
    first: int
    last: int
    address: int = 0


@dataclass(frozen=True, slots=True)
class Allocation:
    """Bytes (or rows) used of every memory."""

    used: dict[Memory, int]


def allocate(
    order: list[TileOp], tensors: list[Tensor], layers: Mapping[int, str], target: Target
) -> Allocation:
    """Give every buffer its address; `layers` are the names of the operations' layers.

    Raises:
        AllocationError: a memory on the chip is too small.
    """
    limits = {Memory.SPM: target.spm.bytes, Memory.ACC: target.acc.rows, Memory.PRM: target.prm.bytes}
    slots = _slots(order, tensors)
    used: dict[Memory, int] = {}
    shortages: list[Shortage] = []
    for memory in Memory:
        mine = [s for s in slots if s.memory is memory]
        if memory in (Memory.ARENA, *limits):
            used[memory] = _pack(mine)
        else:
            used[memory] = _line_up(mine)
        if used[memory] > limits.get(memory, used[memory]):
            shortages += _shortages(mine, order, layers, limits[memory])
        _require_disjoint(mine)
        for slot in mine:
            for buffer in slot.buffers:
                buffer.address = slot.address
    if shortages:
        raise AllocationError(shortages)
    return Allocation(used)


def _shortages(
    slots: list[Slot], order: list[TileOp], layers: Mapping[int, str], available: int
) -> Iterator[Shortage]:
    """The layers whose slots end beyond the memory, and where they end."""
    ends: dict[int, int] = {}
    for slot in slots:
        layer = order[slot.first].layer
        ends[layer] = max(ends.get(layer, 0), slot.address + slot.size)
    for layer, end in ends.items():
        if end > available:
            yield Shortage(slots[0].memory, layers[layer], end, available)


def _require_disjoint(slots: list[Slot]) -> None:
    """Check, apart from how they were placed, that slots held at the same time share no address."""
    active: list[Slot] = []
    for slot in sorted(slots, key=lambda s: s.first):
        active = [s for s in active if s.last >= slot.first]
        for other in active:
            apart = other.address + other.size <= slot.address or slot.address + slot.size <= other.address
            assert apart, f"{other.buffers[0].name} and {slot.buffers[0].name} share memory"
        active.append(slot)


def _slots(order: list[TileOp], tensors: list[Tensor]) -> list[Slot]:
    """The slots of all buffers, in order of first touch; tensors that nothing touches come last."""
    slots: dict[str, Slot] = {}
    for index, op in enumerate(order):
        for buffer in (*op.reads, *op.writes):
            _extend(slots, buffer, index)
    for tensor in tensors:
        if tensor.home.slot not in slots:
            _extend(slots, tensor.home, len(order))
    return list(slots.values())


def _extend(slots: dict[str, Slot], buffer: Buffer, time: int) -> None:
    slot = slots.get(buffer.slot)
    if slot is None:
        slots[buffer.slot] = Slot(buffer.memory, [buffer], buffer.size, buffer.align, time, time)
        return
    assert slot.memory is buffer.memory, f"{buffer.name} is in two memories"
    if time < len(slot.buffers) or not any(b is buffer for b in slot.buffers[-4:]):
        slot.buffers.append(buffer)
    slot.size, slot.align = max(slot.size, buffer.size), max(slot.align, buffer.align)
    slot.last = max(slot.last, time)


def _line_up(slots: list[Slot]) -> int:
    """One after another: what is kept for the whole run."""
    end = 0
    for slot in slots:
        slot.address = aligned(end, DRAM_ALIGN)
        end = slot.address + slot.size
    return aligned(end, DRAM_ALIGN)


def _pack(slots: list[Slot]) -> int:
    """The lowest free address of each, larger slots first."""
    placed: list[Slot] = []
    for slot in sorted(slots, key=lambda s: (-s.size, s.first, s.last)):
        # A table's number is its address / 256, and number 0 means none.
        start = TABLE if slot.memory is Memory.PRM and slot.align == TABLE else 0
        others = sorted(
            (o for o in placed if o.first <= slot.last and slot.first <= o.last), key=lambda o: o.address
        )
        for other in others:
            if start + slot.size <= other.address:
                break
            start = max(start, aligned(other.address + other.size, slot.align))
        slot.address = start
        placed.append(slot)
    return max((s.address + s.size for s in placed), default=0)
