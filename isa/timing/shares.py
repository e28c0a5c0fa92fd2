"""Whose a cycle is, where several layers execute at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from isa.spec import Engine
from isa.support.records import Frozen, Struct, field
from isa.timing.core import PRIORITY, Timeline

NO_LAYER: Final = -1


class Share(Frozen):
    """A layer's part of the time."""

    cycles: int = 0
    """Those that are its own; they add up to all cycles over the layers."""
    begin: int = 0
    end: int = 0
    """From its first instruction to its last."""
    hidden: int = 0
    """Cycles in which it executes and which are another layer's."""
    under: int = NO_LAYER
    """The layer that most of these belong to."""


class _Lane(Struct):
    """The instructions of one engine, one after another."""

    starts: list[int]
    ends: list[int]
    owners: list[int]
    next: int = 0

    def executing(self, when: int) -> int:
        """The layer that it executes then; `when` never goes back."""
        while self.next < len(self.ends) and self.ends[self.next] <= when:
            self.next += 1
        busy = self.next < len(self.starts) and self.starts[self.next] <= when
        return self.owners[self.next] if busy else NO_LAYER


class _Counts(Struct):
    """What is counted for one layer."""

    cycles: int = 0
    under: dict[int, int] = field(default_factory=dict[int, int])


def shares(timeline: Timeline, owner: Sequence[int]) -> dict[int, Share]:
    """The share of every layer that executes.

    A cycle belongs to the layer of the instruction that executes on the first of MX, VX, LD, ST that is busy,
    or, where none is, of the next to start.

    Args:
        timeline: of a program.
        owner: the layer of every instruction, or NO_LAYER.
    """
    members = [k for k, layer in enumerate(owner) if layer != NO_LAYER]
    lanes = [_lane(timeline, owner, members, engine) for engine in PRIORITY]
    edges = sorted({0, timeline.cycles, *itertools.chain(*(lane.starts + lane.ends for lane in lanes))})
    counts: dict[int, _Counts] = {}
    idle, last = 0, NO_LAYER
    for begin, end in itertools.pairwise(edges):
        found = [layer for lane in lanes if (layer := lane.executing(begin)) != NO_LAYER]
        if not found:
            idle += end - begin
            continue
        last = found[0]
        counts.setdefault(last, _Counts()).cycles += end - begin + idle
        idle = 0
        for layer in set(found) - {last}:
            under = counts.setdefault(layer, _Counts()).under
            under[last] = under.get(last, 0) + end - begin
    if last != NO_LAYER:
        counts[last].cycles += idle
    spans = _spans(timeline, owner, members)
    return {layer: _share(spans[layer], found) for layer, found in counts.items()}


def _lane(timeline: Timeline, owner: Sequence[int], members: Sequence[int], engine: Engine) -> _Lane:
    mine = [k for k in members if timeline.costs.engine[k] == engine and timeline.end[k] > timeline.start[k]]
    return _Lane([timeline.start[k] for k in mine], [timeline.end[k] for k in mine], [owner[k] for k in mine])


def _spans(timeline: Timeline, owner: Sequence[int], members: Sequence[int]) -> dict[int, tuple[int, int]]:
    """The first start and the last end of every layer."""
    found: dict[int, tuple[int, int]] = {}
    for k in members:
        begin, end = found.get(owner[k], (timeline.start[k], timeline.end[k]))
        found[owner[k]] = min(begin, timeline.start[k]), max(end, timeline.end[k])
    return found


def _share(span: tuple[int, int], counts: _Counts) -> Share:
    under = max(counts.under, key=lambda layer: (counts.under[layer], -layer), default=NO_LAYER)
    return Share(counts.cycles, *span, sum(counts.under.values()), under)
