"""Half-open boxes: what a device computes, or needs, of a value."""

from __future__ import annotations

from collections.abc import Iterable

from compiler.ir.graph import Node
from compiler.rules.partitioning import part_of
from isa.program import Box, hull


def holds(outer: Box, inner: Box) -> bool:
    """Whether a box lies within another."""
    return all(a <= c and d <= b for (a, b), (c, d) in zip(outer, inner, strict=True))


def common(one: Box, other: Box) -> Box | None:
    """What two boxes have in common, or None."""
    found = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return found if all(a < b for a, b in found) else None


def within(outer: Box, inner: Box) -> Box:
    """A box in the coordinates of one that holds it."""
    return tuple((c - a, d - a) for (a, _), (c, d) in zip(outer, inner, strict=True))


def covering(wanted: Box, offered: Iterable[tuple[int, Box]]) -> tuple[int, list[tuple[int, Box]]]:
    """Disjoint pieces of what is offered, the first before the later, that together are what is wanted.

    The pieces lie one after another along an axis, which is given first; they come in that order.
    """
    axis = -1
    found: list[tuple[int, Box]] = []
    missing: list[tuple[int, int]] = []
    for owner, box in offered:
        piece = common(wanted, box)
        if piece is None:
            continue
        if piece == wanted and not found:
            return 0, [(owner, piece)]
        if axis < 0:
            axis = next(i for i, (p, w) in enumerate(zip(piece, wanted, strict=True)) if p != w)
            missing = [wanted[axis]]
        rest: list[tuple[int, int]] = []
        for low, high in missing:
            first, stop = max(low, piece[axis][0]), min(high, piece[axis][1])
            if first >= stop or not _spans(piece, wanted, axis):
                rest.append((low, high))
                continue
            found.append((owner, (*wanted[:axis], (first, stop), *wanted[axis + 1 :])))
            rest += [(a, b) for a, b in ((low, first), (stop, high)) if a < b]
        missing = rest
        if not missing:
            break
    assert found, "somebody computes it"
    assert not missing, f"{missing} of axis {axis} of {wanted} is computed by nobody"
    return axis, sorted(found, key=lambda piece: piece[1])


def _spans(piece: Box, wanted: Box, axis: int) -> bool:
    """Whether a piece has all of what is wanted along the other axes."""
    return all(p == w for i, (p, w) in enumerate(zip(piece, wanted, strict=True)) if i != axis)


def even(extent: int, parts: int, unit: int = 1) -> list[tuple[int, int]]:
    """An extent in so many ranges of whole units, as equal as can be; the last ones may be empty."""
    units = -(-extent // unit)
    ends = [min(-(-units * (n + 1) // parts) * unit, extent) for n in range(parts)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def add_needs(needs: dict[int, Box], node: Node, box: Box) -> None:
    """Add what a box of a node's result is made of to what is needed of every value."""
    part = part_of(node, box)
    assert part is not None, f"{node.name} cannot be computed in part"
    for operand, read in part.operands(node):
        if not operand.is_constant:
            needs[operand.id] = hull(needs.get(operand.id), read)
