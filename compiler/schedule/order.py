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

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.schedule.intervals import NOBODY, LastTouch
from compiler.schedule.packing import Placed, pack
from compiler.schedule.tiles import ON_CHIP, TABLE, Buffer, Memory, TileOp, aligned
from isa.accesses import tabulate
from isa.spec import Engine, Space, address_unit
from isa.target import Target

ENGINES: Final = len(Engine)
COPYING: Final = (Engine.LD, Engine.ST)
ATTEMPTS: Final = 12
AROUND: Final = 150
"""Operations before one that finds no room, which then run ahead less."""
LESS, WHOLE = 7, 8
FOREVER: Final = 1 << 62
TIDY: Final = 32
"""Operations after which places that are free again are forgotten."""


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
    addresses: dict[int, int] = field(default_factory=dict[int, int])
    """Of buffers on the chip, by identity, where they have been chosen already."""

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
            spans[-1].append((access.operand, access.write, low // unit, -(-high // unit)))
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
    ops: Sequence[TileOp],
    touched: Sequence[Sequence[Touch]],
    target: Target,
    limits: Mapping[Memory, int],
    lasting: frozenset[int],
) -> Timing:
    """Engines side by side; `limits` are the sizes of the memories on the chip.

    `lasting` are identities of buffers of the scratchpad that hold whole results: their places are kept.

    Addresses leave gaps: where a buffer finds no place, less of the scratchpad is used to run ahead
    around that operation, and all begins anew.

    Raises:
        NoRoomError: a buffer finds no place at all.
    """
    needed = dependences(ops, touched)
    ahead = np.full(len(ops) + 1, limits[Memory.SPM], np.int64)
    for _ in range(ATTEMPTS):
        try:
            return _timed(ops, needed, Room(ops, touched, limits, ahead, lasting), target)
        except NoRoomError as error:
            ahead[max(error.index - AROUND, 0) : error.index + 1] *= LESS
            ahead[max(error.index - AROUND, 0) : error.index + 1] //= WHOLE
    raise NoRoomError(len(ops))


def _timed(ops: Sequence[TileOp], needed: Sequence[Sequence[int]], room: Room, target: Target) -> Timing:
    """Times and addresses for operations that come after those they need."""
    free = [0] * ENGINES
    retired = [0] * ENGINES
    bus = _Bus()
    busy = {op.engine for op in ops}
    start, done, complete = [0] * len(ops), [0] * len(ops), [0] * len(ops)
    last = 0
    for index, op in enumerate(ops):
        engine, instr = op.engine, op.instr
        time = max([free[engine], *(done[j] for j in needed[index])])
        took = instr.cycles(target)
        time = room.earliest(index, time, complete)
        if engine in COPYING:
            time = bus.take(time, took)
        room.take(index, time, complete)
        start[index] = time
        free[engine] = time + took
        retired[engine] = done[index] = max(retired[engine], time + took + instr.latency(target))
        last = complete[index] = max(last, done[index])
        room.release(index, done)
        if index % TIDY == 0:
            room.forget(min(free[e] for e in busy))
    row = sorted(range(len(ops)), key=lambda i: (start[i], i))
    return Timing(row, start, done, room.addresses)


class NoRoomError(Exception):
    """What is held when an operation wants to start leaves no gap for a buffer."""

    def __init__(self, index: int) -> None:
        super().__init__(f"operation {index}")
        self.index = index


@dataclass(slots=True)
class Held:
    """A buffer in its place, and until when it is held, if that is known."""

    address: int
    end: int
    until: int


class Places:
    """Addresses of one memory, given out as time goes on; some are kept for what lies there for long."""

    def __init__(self, size: int, kept: Sequence[Kept] = ()) -> None:
        self.size = size
        self.held: list[Held] = []
        """By address."""
        self.kept = list(kept)
        """In order of their first operations."""

    def find(self, buffer: Buffer, time: int, last: int) -> tuple[int, int] | None:
        """The earliest time from `time` on, and an address that is free from then on; None: there is none.

        `last` is the last operation that needs the buffer: places kept for what comes before are not free.
        """
        # A table's number is its address / 256, and number 0 means none.
        low = TABLE if buffer.memory is Memory.PRM and buffer.align == TABLE else 0
        others = [k for k in self.kept if k.first <= last]
        while True:
            address = self._gap(buffer.room, time, low, buffer.align, others)
            if address is not None:
                return time, address
            time = self._next_end(time, [*self.held, *(k.held for k in others)])
            if time == FOREVER:
                return None

    def _gap(self, size: int, time: int, low: int, align: int, others: Sequence[Kept]) -> int | None:
        """The tightest gap among what is held after a time; of equal ones the lowest."""
        taken = [(h.address, h.end) for h in self.held if h.until > time]
        if others:
            taken = sorted(taken + [(k.held.address, k.held.end) for k in others if k.held.until > time])
        best: tuple[int, int] | None = None
        begin = low
        for address, end in [*taken, (self.size, 0)]:
            left = address - begin - size
            if left >= 0 and (best is None or left < best[0]):
                best = left, begin
            begin = max(begin, aligned(end, align))
        return None if best is None else best[1]

    @staticmethod
    def _next_end(time: int, held: Sequence[Held]) -> int:
        return min((h.until for h in held if time < h.until), default=FOREVER)

    def put(self, size: int, address: int) -> Held:
        """Hold a place until it is said otherwise."""
        held = Held(address, address + size, FOREVER)
        insort(self.held, held, key=lambda h: h.address)
        return held

    def free_from(self, place: Held, time: int) -> int:
        """The earliest time from `time` on at which a kept place is free of others; FOREVER: not known."""
        others = [*self.held, *(k.held for k in self.kept)]
        for held in others:
            if held is not place and held.address < place.end and place.address < held.end:
                began = held in self.held or any(k.held is held and k.begun for k in self.kept)
                if began and held.until > time:
                    time = held.until
        return time

    def forget(self, time: int) -> None:
        """Nothing will be asked for before a time."""
        self.held = [h for h in self.held if h.until > time]
        self.kept = [k for k in self.kept if k.held.until > time]


@dataclass(eq=False, slots=True)
class Kept:
    """A place that is kept for a buffer, and the first operation that needs it."""

    first: int
    held: Held
    begun: bool = False


class Room:
    """The memories on the chip: what they hold at every operation of the plan, and where.

    What is taken early counts as held at all earlier operations that have not completed then.
    """

    def __init__(
        self,
        ops: Sequence[TileOp],
        touched: Sequence[Sequence[Touch]],
        limits: Mapping[Memory, int],
        ahead: NDArray[np.int64],
        lasting: frozenset[int],
    ) -> None:
        self.limits: dict[Memory, NDArray[np.int64]] = {
            m: ahead if m is Memory.SPM else np.full(len(ops) + 1, n) for m, n in limits.items()
        }
        self.addresses: dict[int, int] = {}
        self.users: dict[int, list[int]] = {}
        buffers: dict[int, Buffer] = {}
        for index, parts in enumerate(touched):
            for touch in parts:
                if touch.buffer.memory in ON_CHIP:
                    buffers[id(touch.buffer)] = touch.buffer
                    self.users.setdefault(id(touch.buffer), []).append(index)
        self.held: dict[Memory, NDArray[np.int64]] = {m: np.zeros(len(ops) + 1, np.int64) for m in limits}
        self.new: list[list[Buffer]] = [[] for _ in ops]
        self.old: list[list[Buffer]] = [[] for _ in ops]
        self.places: dict[int, Held] = {}
        for key, buffer in buffers.items():
            first, last = self.users[key][0], self.users[key][-1]
            self.held[buffer.memory][first] += buffer.room
            self.held[buffer.memory][last + 1] -= buffer.room
            self.new[first].append(buffer)
            self.old[last].append(buffer)
        for held in self.held.values():
            np.cumsum(held, out=held)
        homes = [b for key, b in buffers.items() if key in lasting]
        self.kept = self._keep(homes, limits[Memory.SPM])
        kept = sorted(self.kept.values(), key=lambda k: k.first)
        self.spaces = {m: Places(n, kept if m is Memory.SPM else ()) for m, n in limits.items()}

    def _keep(self, homes: Sequence[Buffer], size: int) -> dict[int, Kept]:
        """Places for what lies in the scratchpad for long, by their operations.

        Raises:
            NoRoomError: they do not fit.
        """
        placed = [
            Placed(b, self.users[id(b)][0], self.users[id(b)][-1] + 1, 0, number)
            for number, b in enumerate(homes)
        ]
        if pack(placed) > size:
            raise NoRoomError(len(self.new))
        return {id(p.buffer): Kept(p.first, Held(p.address, p.end, FOREVER)) for p in placed}

    def earliest(self, index: int, time: int, complete: Sequence[int]) -> int:
        """The earliest time from `time` on at which the operation can take its new buffers.

        `complete` gives for every earlier operation when it and all before it have completed.

        Raises:
            NoRoomError: there is none.
        """
        for buffer in self.new[index]:
            begin = bisect_right(complete, time, 0, index)
            if begin < index:
                window = self.held[buffer.memory][begin:index]
                full = np.flatnonzero(window + buffer.room > self.limits[buffer.memory][begin:index])
                if full.size:
                    time = complete[begin + int(full[-1])]
        for buffer in self.new[index]:
            time, _ = self._find(buffer, time, index)
        return time

    def _find(self, buffer: Buffer, time: int, index: int) -> tuple[int, int]:
        space = self.spaces[buffer.memory]
        if id(buffer) in self.kept:
            place = self.kept[id(buffer)].held
            free = space.free_from(place, time)
            found = None if free >= FOREVER else (free, place.address)
        else:
            found = space.find(buffer, time, self.users[id(buffer)][-1])
        if found is None:
            raise NoRoomError(index)
        return found

    def take(self, index: int, time: int, complete: Sequence[int]) -> None:
        """The operation takes its new buffers at this time."""
        for buffer in self.new[index]:
            begin = bisect_right(complete, time, 0, index)
            if begin < index:
                self.held[buffer.memory][begin:index] += buffer.room
            later, address = self._find(buffer, time, index)
            if later > time:
                raise NoRoomError(index)
            self.addresses[id(buffer)] = address
            if id(buffer) in self.kept:
                self.kept[id(buffer)].begun = True
                self.places[id(buffer)] = self.kept[id(buffer)].held
            else:
                self.places[id(buffer)] = self.spaces[buffer.memory].put(buffer.room, address)

    def release(self, index: int, done: Sequence[int]) -> None:
        """The operation was the last to touch some buffers."""
        for buffer in self.old[index]:
            self.places[id(buffer)].until = max(done[i] for i in self.users[id(buffer)])

    def forget(self, time: int) -> None:
        """Nothing will be asked for before a time."""
        for space in self.spaces.values():
            space.forget(time)


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
