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
from collections.abc import Sequence
from typing import Final

import numpy as np

from compiler.schedule.options import ScheduleOptions
from compiler.schedule.order.history import NOBODY, History
from compiler.schedule.order.scratchpad import NoRoomError, ScratchpadAllocator, limits_of
from compiler.schedule.tile_graph import UNPLACED, Memory, TileOp, Touch
from isa.accesses import tabulate
from isa.encoding import addresses
from isa.memory_map import Space, address_unit
from isa.spec import Engine
from isa.support.records import Frozen, field
from isa.target import Target

ENGINES: Final = len(Engine)
COPYING: Final = (Engine.LD, Engine.ST)
TRANSFERRING: Final = (Engine.TX, Engine.RX)
"""Engines that work together with those of other devices: when is a guess."""
ATTEMPTS: Final = 12
"""Times that an order is tried, with less room each time, before the plan is given up.

A compromise: each takes the time of an order, and a plan that holds less may find one at once.
"""
MOST_TRIED: Final = 400_000
"""Operations in all attempts: of a long plan there are fewer, and each leaves less room everywhere."""
LEAST_ATTEMPTS: Final = 4
AROUND: Final = 150
"""Operations before one that finds no room, which then run ahead less.

A compromise: with fewer the same want of room comes back, with more loads start late where there is room.
"""
LESS: Final = 7
"""What is left of the room for running ahead, in parts of `WHOLE`, where it did not suffice.

A compromise: smaller steps find the most that fits, larger ones find something within `ATTEMPTS`.
"""
WHOLE: Final = 8
"""The parts in which `LESS` counts."""
TIDY: Final = 32
"""Operations after which places that are free again are forgotten: searches stay short, and tidying rare."""
RECENT: Final = 500
"""Operations after which an engine that has had none is not waited for: nothing starts before the others.

A compromise: with fewer an engine that was idle for long may start later than it could, with more
places that are free are remembered, and looked through, for longer.
"""


class Timing(Frozen):
    """When operations are meant to start and to have completed, by their index in the plan.

    `issue_order` is the order of issue: indices of the plan.
    """

    issue_order: list[int]
    start: list[int]
    done: list[int]
    addresses: dict[int, int] = field(default_factory=dict[int, int])
    """Of buffers on the chip, by identity, where they have been chosen already."""

    @property
    def cycles(self) -> int:
        """When everything has completed."""
        return max(self.done, default=0)


def touches(ops: Sequence[TileOp], target: Target) -> list[list[Touch]]:
    """What every operation touches; strided boxes as the range from their first to their last byte.

    Of a register operand the first register is `UNPLACED`, of any other address 0.
    """
    table = tabulate([op.instr for op in ops], target)
    spans: list[list[tuple[str, bool, int, int]]] = []
    for form in table.forms:
        spans.append([])
        placing = {o.name for o in addresses(type(form.example))}
        for access in form.accesses:
            low, high = access.span()
            unit = address_unit(target, access.space) if access.space in (Space.ACC, Space.SREG) else 1
            if access.space is Space.SREG and access.operand not in placing:
                low, high = low - UNPLACED * unit, high - UNPLACED * unit
            spans[-1].append((access.operand, access.write, low // unit, -(-high // unit)))
    found: list[list[Touch]] = []
    numbers: list[int] = table.form.tolist()
    for op, form in zip(ops, numbers, strict=True):
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
    history = History()
    unknown = [NOBODY] * ENGINES
    needed: list[list[int]] = []
    for index, (op, mine) in enumerate(zip(ops, touched, strict=True)):
        parts = [(id(t.buffer), t.low, t.high, t.write) for t in mine]
        needed.append(history.touch(op.engine, parts, index, unknown))
    return needed


def serial(ops: Sequence[TileOp]) -> Timing:
    """One operation after another."""
    count = len(ops)
    return Timing(list(range(count)), list(range(count)), list(range(1, count + 1)))


def overlapped(
    ops: Sequence[TileOp],
    touched: Sequence[Sequence[Touch]],
    target: Target,
    lasting: frozenset[int],
    options: ScheduleOptions,
) -> Timing:
    """Engines side by side.

    `lasting` are identities of buffers of the scratchpad that hold whole results: their places are kept.
    Addresses leave gaps: where a buffer finds no place, those around it are laid close together, then less
    of the scratchpad is used to run ahead there, and all begins anew.

    Raises:
        NoRoomError: a buffer finds no place at all.
    """
    limits = limits_of(target)
    needed = dependences(ops, touched)
    if not options.prefetch:
        _hold_constants_back(ops, needed)
    ahead = np.full(len(ops) + 1, limits[Memory.SPM], np.int64)
    tight = np.zeros(len(ops) + 1, np.bool_)
    bank = 0 if target.spm.interleave or not options.banks else target.spm.bytes // target.spm.banks
    attempts, failed = LEAST_ATTEMPTS if is_long(ops) else ATTEMPTS, -1
    for _ in range(attempts):
        try:
            return _timed(
                ops, needed, ScratchpadAllocator(touched, limits, ahead, lasting, bank, tight), target
            )
        except NoRoomError as error:
            around = slice(max(error.index - AROUND, 0), error.index + 1)
            if is_long(ops):
                if error.index == failed:  # half the room for running ahead did not help
                    break
                around, failed = slice(None), error.index
                ahead //= 2
            if tight[around].all() or not bank:
                ahead[around] = ahead[around] * LESS // WHOLE
            tight[around] = True
    raise NoRoomError(len(ops))


def is_long(ops: Sequence[TileOp]) -> bool:
    """Whether a plan has so many operations that few orders of it are tried."""
    return len(ops) * ATTEMPTS > MOST_TRIED


def _hold_constants_back(ops: Sequence[TileOp], needed: list[list[int]]) -> None:
    """Let constants come only after everything before the first operation of their layer."""
    last: dict[int, dict[int, int]] = {}
    latest: dict[int, int] = {}
    for index, op in enumerate(ops):
        if op.layer not in last:
            last[op.layer] = dict(latest)
        if any(ref.buffer.content is not None for ref in op.bind.values()):
            needed[index] += last[op.layer].values()
        latest[op.engine] = index


def _timed(
    ops: Sequence[TileOp], needed: Sequence[Sequence[int]], room: ScratchpadAllocator, target: Target
) -> Timing:
    """Times and addresses for operations that come after those they need."""
    free = [0] * ENGINES
    retired = [0] * ENGINES
    bus = _Bus()
    latest = [NOBODY] * ENGINES
    received = room.touching(i for i, op in enumerate(ops) if op.engine is Engine.RX)
    floor = transferred = 0
    start, done, complete = [0] * len(ops), [0] * len(ops), [0] * len(ops)
    last = 0
    for index, op in enumerate(ops):
        engine, instr = op.engine, op.instr
        time = max([floor, free[engine], *[done[j] for j in needed[index]]])
        if engine in TRANSFERRING:  # those of a device keep their order, which is one for all devices
            time = max(time, transferred)
        if index in received:  # nothing else lets what is received here come after what takes its buffer
            time = max(time, room.taken(index, start))
        took = instr.cycles(target)
        time = room.earliest(index, time, complete)
        if engine in COPYING:
            time = bus.take(time, took)
        room.take(index, time, complete)
        start[index] = time
        if engine in TRANSFERRING:
            transferred = time
        free[engine] = time + took
        retired[engine] = done[index] = max(retired[engine], time + took + instr.latency(target))
        last = complete[index] = max(last, done[index])
        room.release(index, done)
        latest[engine] = index
        if index % TIDY == 0:
            floor = max(floor, min(free[e] for e in range(ENGINES) if latest[e] > index - RECENT))
            room.forget(floor)
    # Stable: the plan's order where starts are equal.
    issue_order = sorted(range(len(ops)), key=start.__getitem__)
    return Timing(issue_order, start, done, room.addresses)


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
