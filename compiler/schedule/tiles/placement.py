"""Where operands of concatenations and pads lie in the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from compiler.ir.graph import Node
from compiler.ops.concat import QConcat
from compiler.ops.slices import QPad

Start = tuple[int, int, int, int]
"""The first element of a box: (n, h, w, c)."""
ORIGIN: Final[Start] = (0, 0, 0, 0)


def placed(node: Node) -> Iterator[tuple[Node, Start]]:
    """Every operand of a concatenation or of a constant pad, and where it begins in the result."""
    match node.op:
        case QConcat(axis):
            at = 0
            for operand in node.inputs:
                start = tuple(at if i == axis else 0 for i in range(len(node.shape)))
                yield operand, moved(ORIGIN, start)
                at += operand.shape[axis]
        case QPad(before, _, "constant"):
            yield node.inputs[0], moved(ORIGIN, before)
        case _:
            return


def moved(start: Start, by: Sequence[int]) -> Start:
    """A start, further by distances along the last axes."""
    n, h, w, c = (a + b for a, b in zip(start, (*(0,) * (4 - len(by)), *by), strict=True))
    return n, h, w, c
