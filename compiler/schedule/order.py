"""Order: when every tile operation is meant to start, and with that the row in which they are issued.

The plan's order says what is computed. Each engine works through its operations in that order; how far
the engines run ahead of one another is chosen here. Operations are given times, one after another in
plan order: as early as their engine, the operations they depend on, the DRAM bus and the memories
allow. The memories are what limits running ahead: an operation that needs a new buffer may start
before earlier ones have ended only where, for every one of these, the buffers that the plan holds then and
all those taken early still fit. So an order always exists if the plan fits, and loads run ahead as far
as there is room: double buffering, and weights that arrive under earlier layers, are cases of this.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.schedule.intervals import NOBODY, LastTouch
from compiler.schedule.tiles import ON_CHIP, Buffer, Memory, TileOp
from isa.accesses import tabulate
from isa.spec import Engine, Space, address_unit
from isa.target import Target

ENGINES: Final = len(Engine)
COPYING: Final = (Engine.LD, Engine.ST)


@dataclass(frozen=True, slots=True)
class Touch:
    """A part of a buffer that an operation reads or writes, in the buffer's units."""

    buffer: Buffer
    low: int
    high: int
    write: bool


@dataclass(frozen=True, slots=True)
class Timing:
    """When operations are meant to start and to have completed, by their index in the plan.

    `row` is the order of issue: indices of the plan.
    """

    row: list[int]
    start: list[int]
    done: list[int]

    @property
    def cycles(self) -> int:
        """When everything has completed."""
        return max(self.done, default=0)


def touches(ops: Sequence[TileOp], target: Target) -> list[list[Touch]]:
    """What every operation touches; strided boxes as the range from their first to their last byte."""
    table = tabulate([op.instr for op in ops], target)
    row = address_unit(target, Space.ACC)
    spans: list[list[tuple[str, bool, int, int]]] = []
    for form in table.forms:
        spans.append([])
        for access in form.accesses:
            low, high = access.span()
            unit = row if access.space is Space.ACC else 1
            spans[-1].append((access.operand, access.write, low // unit, high // unit))
    found: list[list[Touch]] = []
    for op, form in zip(ops, table.form.tolist(), strict=True):
        mine: list[Touch] = []
        seen: set[str] = set()
        for operand, write, low, high in spans[form]:
            ref = op.bind.get(operand)
            if ref is not None:
                seen.add(operand)
                buffer = ref.buffer
                if buffer.content is None:
                    mine.append(Touch(buffer, low + ref.offset, high + ref.offset, write))
        for operand, ref in op.bind.items():
            if operand not in seen and ref.buffer.content is None:  # a table has no access under number 0
                mine.append(Touch(ref.buffer, 0, ref.buffer.size, write=False))
        found.append(mine)
    return found


def dependences(ops: Sequence[TileOp], touched: Sequence[Sequence[Touch]]) -> list[list[int]]:
    """For every operation the last conflicting one of every other engine."""
    writers: dict[int, list[LastTouch | None]] = {}
    readers: dict[int, list[LastTouch | None]] = {}
    needed: list[list[int]] = []
    for index, op in enumerate(ops):
        latest = [NOBODY] * ENGINES
        for touch in touched[index]:
            key = id(touch.buffer)
            for kinds in (writers, readers) if touch.write else (writers,):
                for engine, map_ in enumerate(kinds.get(key, ())):
                    if map_ is not None and engine != op.engine and map_.newest > latest[engine]:
                        latest[engine] = max(latest[engine], map_.latest(touch.low, touch.high))
        for touch in touched[index]:
            kinds = writers if touch.write else readers
            maps = kinds.setdefault(id(touch.buffer), [None] * ENGINES)
            mine = maps[op.engine]
            if mine is None:
                mine = maps[op.engine] = LastTouch()
            mine.touch(touch.low, touch.high, index)
        needed.append([n for n in latest if n != NOBODY])
    return needed


def serial(ops: Sequence[TileOp]) -> Timing:
    """One operation after another."""
    count = len(ops)
    return Timing(list(range(count)), list(range(count)), list(range(1, count + 1)))


def overlapped(
    ops: Sequence[TileOp], touched: Sequence[Sequence[Touch]], target: Target, limits: Mapping[Memory, int]
) -> Timing:
    """Engines side by side; `limits` are bytes (or rows) that may be held at the same time.

    What the plan itself holds may be above a limit: nothing runs ahead there.
    """
    needed = dependences(ops, touched)
    room = Room(ops, touched, limits)
    free = [0] * ENGINES
    retired = [0] * ENGINES
    bus = _Bus()
    start, done, complete = [0] * len(ops), [0] * len(ops), [0] * len(ops)
    last = 0
    for index, op in enumerate(ops):
        engine, instr = op.engine, op.instr
        time = max([free[engine], *(done[j] for j in needed[index])])
        time = room.earliest(index, time, complete)
        took = instr.cycles(target)
        if engine in COPYING:
            time = bus.take(time, took)
        room.hold(index, time, complete)
        start[index] = time
        free[engine] = time + took
        retired[engine] = done[index] = max(retired[engine], time + took + instr.latency(target))
        last = complete[index] = max(last, done[index])
    row = sorted(range(len(ops)), key=lambda i: (start[i], i))
    return Timing(row, start, done)


class Room:
    """What the memories on the chip hold at every operation of the plan, what is taken early counted too."""

    def __init__(
        self, ops: Sequence[TileOp], touched: Sequence[Sequence[Touch]], limits: Mapping[Memory, int]
    ) -> None:
        self.limits = limits
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        buffers: dict[int, Buffer] = {}
        for index, parts in enumerate(touched):
            for touch in parts:
                buffer = touch.buffer
                if buffer.memory in ON_CHIP:
                    buffers[id(buffer)] = buffer
                    first.setdefault(id(buffer), index)
                    last[id(buffer)] = index
        self.held: dict[Memory, NDArray[np.int64]] = {m: np.zeros(len(ops) + 1, np.int64) for m in limits}
        self.new: list[list[Buffer]] = [[] for _ in ops]
        for key, buffer in buffers.items():
            self.held[buffer.memory][first[key]] += buffer.room
            self.held[buffer.memory][last[key] + 1] -= buffer.room
            self.new[first[key]].append(buffer)
        for held in self.held.values():
            np.cumsum(held, out=held)

    def earliest(self, index: int, time: int, complete: Sequence[int]) -> int:
        """The earliest time from `time` on at which the operation can take its new buffers.

        `complete` gives for every earlier operation when it and all before it have completed.
        """
        for buffer in self.new[index]:
            begin = bisect_right(complete, time, 0, index)
            if begin < index:
                window = self.held[buffer.memory][begin:index]
                full = np.flatnonzero(window + buffer.room > self.limits[buffer.memory])
                if full.size:
                    time = complete[begin + int(full[-1])]
        return time

    def hold(self, index: int, time: int, complete: Sequence[int]) -> None:
        """The operation takes its new buffers at this time."""
        for buffer in self.new[index]:
            begin = bisect_right(complete, time, 0, index)
            if begin < index:
                self.held[buffer.memory][begin:index] += buffer.room


class _Bus:
    """The DRAM bus, taken by one copy at a time."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def take(self, time: int, cycles: int) -> int:
        """The first time from `time` on at which the bus is free for so long."""
        at = bisect_right(self._ends, time)
        while at < len(self._starts) and self._starts[at] < time + cycles:
            time = max(time, self._ends[at])
            at += 1
        self._starts.insert(at, time)
        self._ends.insert(at, time + cycles)
        return time
