"""What the memories on the chip hold at every operation of a plan, and where."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.schedule.order.packing import Placed, pack
from compiler.schedule.tile_graph import ON_CHIP, Buffer, Memory, Touch, aligned
from isa.memory_map import SREGS
from isa.support.records import Struct
from isa.target import Target

FOREVER: Final = 1 << 62
"""A cycle that never comes."""
CROWDED: Final = 0.65
"""The part of a memory that is held beyond which large gaps matter more than banks.

A compromise: lower, and engines wait for one another's banks; higher, and buffers find no place.
"""


def limits_of(target: Target) -> dict[Memory, int]:
    """The sizes of the memories on the chip."""
    return {
        Memory.SPM: target.spm.bytes,
        Memory.ACC: target.acc.rows,
        Memory.PRM: target.prm.bytes,
        Memory.SREG: SREGS,
    }


class NoRoomError(Exception):
    """What is held when an operation wants to start leaves no gap for a buffer."""

    def __init__(self, index: int) -> None:
        super().__init__(f"operation {index}")
        self.index = index


class Allocation(Struct):
    """A buffer in its place, and until when it is held, if that is known."""

    address: int
    end: int
    until: int
    banks: int = 0
    """The banks that it is in, as bits, where they are to be avoided."""


class AddressMap:
    """Addresses of one memory, given out as time goes on; some are kept for what lies there for long."""

    def __init__(self, size: int, kept: Sequence[Reservation] = (), bank: int = 0) -> None:
        self.size = size
        self.wall = Allocation(size, 0, FOREVER)
        """What comes after the last gap."""
        self.bank = bank
        """Bytes of a bank, where banks that are in use are to be avoided."""
        self.held: list[Allocation] = []
        """By address."""
        self.kept = list(kept)
        """In order of their first operations."""

    def find(self, buffer: Buffer, time: int, last: int, *, tight: bool) -> tuple[int, int] | None:
        """The earliest time from `time` on, and an address that is free from then on; None: there is none.

        `last` is the last operation that needs the buffer: places kept for what comes before are not free.
        `tight` leaves the largest gaps, whatever the banks.
        """
        others = list(takewhile(lambda k: k.first <= last, self.kept))
        while True:
            address = self._gap(buffer, time, others, self.bank * (not tight))
            if address is not None:
                return time, address
            time = self._next_end(time, [*self.held, *(k.held for k in others)])
            if time == FOREVER:
                return None

    def _gap(self, buffer: Buffer, time: int, others: Sequence[Reservation], bank: int) -> int | None:
        """A gap among what is held after a time: with the fewest banks in use, the tightest, the lowest."""
        size = buffer.room
        taken = [h for h in self.held if h.until > time]
        if others:
            taken += [k.held for k in others if k.held.until > time]
            taken.sort(key=lambda h: h.address)
        used = 0
        if bank and sum([h.end - h.address for h in taken]) > self.size * CROWDED:
            bank = 0
        elif bank:
            for h in taken:
                used |= h.banks
        least = (FOREVER, 0)
        best: int | None = None
        begin = buffer.lowest
        for h in (*taken, self.wall):
            left = h.address - begin - size
            if left >= 0 and (0, left) < least:
                for start in _starts(begin, h.address - size, bank):
                    shared = (used & _banks(start, start + size, bank)).bit_count()
                    if (shared, left) < least:
                        least, best = (shared, left), start
            if h.end > begin:
                begin = aligned(h.end, buffer.align)
        return best

    @staticmethod
    def _next_end(time: int, held: Sequence[Allocation]) -> int:
        return min((h.until for h in held if time < h.until), default=FOREVER)

    def put(self, size: int, address: int) -> Allocation:
        """Hold a place until it is said otherwise."""
        held = Allocation(address, address + size, FOREVER, _banks(address, address + size, self.bank))
        insort(self.held, held, key=lambda h: h.address)
        return held

    def free_from(self, place: Allocation, time: int) -> int:
        """The earliest time from `time` on at which a kept place is free of others; FOREVER: not known."""
        for held in (*self.held, *(k.held for k in self._begun())):
            if held is not place and held.address < place.end and place.address < held.end:
                time = max(time, held.until)
        return time

    def _begun(self) -> list[Reservation]:
        """The kept places that are in use, or were: they come first."""
        return list(takewhile(lambda k: k.begun, self.kept))

    def forget(self, time: int) -> None:
        """Nothing will be asked for before a time."""
        self.held = [h for h in self.held if h.until > time]
        begun = self._begun()
        self.kept[: len(begun)] = [k for k in begun if k.held.until > time]


def _starts(first: int, last: int, bank: int) -> list[int]:
    """Where to look within a gap: at its begin, and in the first bank that begins there."""
    if not bank or first % bank == 0:
        return [first]
    following = aligned(aligned(first, bank))  # a bank may begin anywhere
    return [first, following] if following <= last else [first]


def _banks(begin: int, end: int, bank: int) -> int:
    """The banks of a range, as bits; none where banks do not matter."""
    return 0 if not bank else (2 << (end - 1) // bank) - (1 << begin // bank)


class Reservation(Struct, eq=False):
    """A place that is kept for a buffer, and the first operation that needs it."""

    first: int
    held: Allocation
    begun: bool = False


class ScratchpadAllocator:
    """The memories on the chip: what they hold at every operation of the plan, and where.

    What is taken early counts as held at all earlier operations that have not completed then.
    """

    def __init__(
        self,
        touched: Sequence[Sequence[Touch]],
        limits: Mapping[Memory, int],
        ahead: NDArray[np.int64],
        lasting: frozenset[int],
        bank: int,
        tight: NDArray[np.bool_],
    ) -> None:
        count = len(touched)
        self.touched, self.tight = touched, tight
        self.addresses: dict[int, int] = {}
        self.users: dict[int, list[int]] = {}
        buffers: dict[int, Buffer] = {}
        for index, parts in enumerate(touched):
            for touch in parts:
                if touch.buffer.memory in ON_CHIP:
                    buffers[id(touch.buffer)] = touch.buffer
                    self.users.setdefault(id(touch.buffer), []).append(index)
        change: dict[Memory, NDArray[np.int64]] = {m: np.zeros(count + 1, np.int64) for m in limits}
        self.new: list[list[Buffer]] = [[] for _ in range(count)]
        self.old: list[list[Buffer]] = [[] for _ in range(count)]
        self.places: dict[int, Allocation] = {}
        self.found: dict[tuple[int, int], tuple[int, int]] = {}
        """What has been found for a buffer from a time on, until another is placed."""
        for key, buffer in buffers.items():
            first, last = self.users[key][0], self.users[key][-1]
            change[buffer.memory][first] += buffer.room
            change[buffer.memory][last + 1] -= buffer.room
            self.new[first].append(buffer)
            self.old[last].append(buffer)
        self.left = {m: (ahead if m is Memory.SPM else n) - np.cumsum(change[m]) for m, n in limits.items()}
        """For every operation what may be taken early of a memory."""
        homes = [b for key, b in buffers.items() if key in lasting]
        self.kept = self._keep(homes, limits[Memory.SPM], bank)
        kept = sorted(self.kept.values(), key=lambda k: k.first)
        self.spaces = {
            m: AddressMap(n, kept, bank) if m is Memory.SPM else AddressMap(n) for m, n in limits.items()
        }

    def _keep(self, homes: Sequence[Buffer], size: int, bank: int) -> dict[int, Reservation]:
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
        return {
            id(p.buffer): Reservation(
                p.first, Allocation(p.address, p.end, FOREVER, _banks(p.address, p.end, bank))
            )
            for p in placed
        }

    def earliest(self, index: int, time: int, complete: Sequence[int]) -> int:
        """The earliest time from `time` on at which the operation can take its new buffers.

        `complete` gives for every earlier operation when it and all before it have completed.

        Raises:
            NoRoomError: there is none.
        """
        for buffer in self.new[index]:
            begin = bisect_right(complete, time, 0, index)
            if begin < index:
                full = np.flatnonzero(self.left[buffer.memory][begin:index] < buffer.room)
                if full.size:
                    time = complete[begin + int(full[-1])]
        for buffer in self.new[index]:
            time, _ = self._find(buffer, time, index)
        return time

    def _find(self, buffer: Buffer, time: int, index: int) -> tuple[int, int]:
        """The earliest time from `time` on, and an address: asked for twice, looked for once."""
        if (id(buffer), time) in self.found:
            return self.found[id(buffer), time]
        space = self.spaces[buffer.memory]
        if id(buffer) in self.kept:
            place = self.kept[id(buffer)].held
            free = space.free_from(place, time)
            found = None if free >= FOREVER else (free, place.address)
        else:
            tight = bool(self.tight[index])
            found = space.find(buffer, time, self.users[id(buffer)][-1], tight=tight)
        if found is None:
            raise NoRoomError(index)
        self.found[id(buffer), found[0]] = found
        return found

    def take(self, index: int, time: int, complete: Sequence[int]) -> None:
        """The operation takes its new buffers at this time."""
        for buffer in self.new[index]:
            begin = bisect_right(complete, time, 0, index)
            if begin < index:
                self.left[buffer.memory][begin:index] -= buffer.room
            later, address = self._find(buffer, time, index)
            if later > time:
                raise NoRoomError(index)
            self.addresses[id(buffer)] = address
            if id(buffer) in self.kept:
                self.kept[id(buffer)].begun = True
                self.places[id(buffer)] = self.kept[id(buffer)].held
            else:
                self.places[id(buffer)] = self.spaces[buffer.memory].put(buffer.room, address)
            self.found.clear()

    def touching(self, indices: Iterable[int]) -> frozenset[int]:
        """All operations that touch a buffer that some of these do."""
        buffers = {id(t.buffer) for i in indices for t in self.touched[i]}
        return frozenset(i for b in buffers for i in self.users.get(b, ()))

    def taken(self, index: int, start: Sequence[int]) -> int:
        """When all buffers of an operation that are not new had been taken, by the starts of earlier ones."""
        first = (self.users[id(t.buffer)][0] for t in self.touched[index] if id(t.buffer) in self.users)
        return max((start[i] for i in first if i < index), default=0)

    def release(self, index: int, done: Sequence[int]) -> None:
        """The operation was the last to touch some buffers."""
        for buffer in self.old[index]:
            self.places[id(buffer)].until = max([done[i] for i in self.users[id(buffer)]])

    def forget(self, time: int) -> None:
        """Nothing will be asked for before a time."""
        for space in self.spaces.values():
            space.forget(time)
