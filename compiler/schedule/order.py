"""Order: the row in which tile operations are issued, and the dependences it must respect."""

from __future__ import annotations

from compiler.schedule.tiles import TileOp


def serial(ops: list[TileOp]) -> list[TileOp]:
    """The plan's own order: one layer after another, one tile after another."""
    return list(ops)


def dependences(ops: list[TileOp]) -> list[set[int]]:
    """For every operation the earlier ones that must come before it: by buffers, in plan order.

    A buffer is one run of memory under one slot: an operation depends on the last writers of the
    slots it touches, and, if it writes one, on those that have read it since.
    """
    writer: dict[str, int] = {}
    readers: dict[str, list[int]] = {}
    needed: list[set[int]] = []
    for index, op in enumerate(ops):
        touched = {b.slot for b in (*op.reads, *op.writes)}
        before = {writer[s] for s in touched if s in writer}
        for slot in {b.slot for b in op.writes}:
            before |= set(readers.pop(slot, []))
            writer[slot] = index
        for slot in {b.slot for b in op.reads}:
            readers.setdefault(slot, []).append(index)
        needed.append(before - {index})
    return needed


def respects(ops: list[TileOp], order: list[TileOp]) -> bool:
    """Whether an order has the same operations and keeps every dependence."""
    place = {id(op): i for i, op in enumerate(order)}
    if len(place) != len(ops) or any(id(op) not in place for op in ops):
        return False
    return all(
        place[id(ops[j])] < place[id(op)]
        for op, before in zip(ops, dependences(ops), strict=True)
        for j in before
    )
