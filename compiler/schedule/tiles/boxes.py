"""Boxes of images that fit into the scratchpad: what the tiles of most operations have in common."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from compiler.ir.graph import Node
from compiler.schedule.builder import Builder, Span, spans
from compiler.schedule.tile_graph import ALIGNMENT
from compiler.schedule.tiles.limits import does_not_fit

SLACK: Final = 4 * ALIGNMENT
"""Bytes kept for the alignment of a tile's buffers.

They are four at most: two operands, one of them spread over channels as well, and the result.
"""
MOST_PIECES: Final = 4096
"""Pieces into which an extent is cut at most, but for single elements.

A compromise: a longer extent makes the search longer, and pieces shorter than these are hardly ever needed.
"""


def tiles(
    b: Builder, shape: tuple[int, int, int, int], size: tuple[int, int, int]
) -> Iterator[tuple[int, Span, Span, Span]]:
    """Every tile that is made now (image, rows, columns, channels); the builder is told which."""
    n, h, w, c = shape
    th, tw, tc = size
    for index, rows, columns, channels in itertools.product(
        b.images(n), b.rows(h, th), spans(w, tw), spans(c, tc)
    ):
        b.tile = (index, rows.start, columns.start, channels.start)
        yield index, rows, columns, channels


def dense(copies: int) -> Callable[[int, int, int], int]:
    """Bytes of a tile that is in the scratchpad so many times."""
    return lambda th, tw, tc: copies * th * tw * tc


def fit_box(
    node: Node,
    extents: tuple[int, int, int],
    needed: Callable[[int, int, int], int],
    allowed: Callable[[int, int, int], bool],
    budget: int,
) -> tuple[int, int, int]:
    """The largest (rows, columns, channels) that fits: rows shrink first, then columns, then channels.

    Raises:
        FitError: not even one element fits.
    """
    h, w, c = extents
    for tc, tw, th in itertools.chain(
        ((c, w, _cut(h, i)) for i in _pieces(h)),
        ((c, _cut(w, i), 1) for i in _pieces(w)),
        ((_cut(c, i), 1, 1) for i in _pieces(c)),
    ):
        if allowed(th, tw, tc) and needed(th, tw, tc) + SLACK <= budget:
            return th, tw, tc
    raise does_not_fit(node, needed(1, 1, 1 if allowed(1, 1, 1) else c) + SLACK, budget)


@cache
def _pieces(extent: int) -> tuple[int, ...]:
    pieces = {-(-extent // -(-extent // p)) for p in range(1, min(extent, MOST_PIECES) + 1)} | {extent}
    return tuple(sorted(pieces))


def _cut(extent: int, pieces: int) -> int:
    return -(-extent // pieces)
