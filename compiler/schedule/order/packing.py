"""Packing: addresses for buffers whose times are known."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from operator import attrgetter

from compiler.schedule.tile_graph import Buffer, aligned
from isa.support.records import Struct


class Placed(Struct, eq=False):
    """A buffer, when it is held, the layer that takes it, and where it is."""

    buffer: Buffer
    first: int
    last: int
    layer: int
    number: int
    address: int = 0

    @property
    def end(self) -> int:
        """One past its last address."""
        return self.address + self.buffer.room


def together(held: Sequence[Placed]) -> Iterator[tuple[Placed, Placed]]:
    """Every two buffers that are held at the same time."""
    active: list[Placed] = []
    for placed in sorted(held, key=attrgetter("first", "number")):
        active = [p for p in active if p.last > placed.first]
        for other in active:
            yield other, placed
        active.append(placed)


def pack(held: Sequence[Placed]) -> int:
    """The lowest free address of each, larger buffers first."""
    others: dict[int, list[Placed]] = {p.number: [] for p in held}
    for one, other in together(held):
        others[one.number].append(other)
        others[other.number].append(one)
    near: dict[int, list[tuple[int, int]]] = {p.number: [] for p in held}
    """(address, end) of what is placed already and held at the same time."""
    for placed in sorted(held, key=lambda p: (-p.buffer.room, p.first, p.last, p.number)):
        start = placed.buffer.lowest
        for address, end in near[placed.number]:
            if start + placed.buffer.room <= address:
                break
            if end > start:
                start = aligned(end, placed.buffer.align)
        placed.address = start
        for other in others[placed.number]:
            insort(near[other.number], (start, placed.end))
    return max((p.end for p in held), default=0)
