"""The accesses of a whole stream, in columns.

Instructions that differ only in addresses and semaphores have one form. The accesses of a form are
computed once, from its first instruction, and moved with the addresses for all others: that is what
an operand declared as an `address` promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.encoding import addresses, form_getters, operand_faults
from isa.memory_map import address_unit
from isa.spec import Access, Instruction
from isa.support.records import Frozen, replace
from isa.target import Target
from isa.validate import form_faults

DRAM_MEMORIES: Final = 8
"""Memories by number: a space on the chip, or a DRAM region counted from here."""
FIXED: Final = -1
"""The anchor of an access that no address moves."""
Ints = NDArray[np.int64]


class InstructionTemplate(Frozen):
    """What instructions have in common that differ only in addresses and semaphores.

    `first` is the first of `accesses` among the prototypes of the table; there are none where `sound`
    is False, because the operands or `check` object.
    """

    example: Instruction
    sound: bool
    first: int
    accesses: tuple[Access, ...]


class AccessTable(Frozen):
    """One row per access, in program order.

    A row is access `prototype` of instruction `pc`, moved to `base`; it names bytes from `low` to
    before `high`. `form` and `first` have one entry per instruction: its form and its first row.
    `places` are values of address operands: those of an instruction follow one another, from
    `first_place` on. `memory`, `write` and `shape` have one entry per prototype; prototypes of equal
    shape have the same memory, direction and extents.
    """

    forms: tuple[InstructionTemplate, ...]
    prototypes: tuple[Access, ...]
    form: Ints
    first: Ints
    places: Ints
    first_place: Ints
    pc: Ints
    prototype: Ints
    base: Ints
    low: Ints
    high: Ints
    memory: Ints
    write: NDArray[np.bool_]
    shape: Ints

    def access(self, row: int) -> Access:
        """The access of a row."""
        like = self.prototypes[int(self.prototype[row])]
        return Access(like.operand, like.space, int(self.base[row]), like.dims, like.write, like.region)


def memory_number(access: Access) -> int:
    """The number of the memory that an access is to."""
    return int(access.space) if access.region is None else DRAM_MEMORIES + access.region


def row_offsets(counts: Ints) -> tuple[Ints, Ints, Ints]:
    """Rows of owners with `counts` rows each: every owner's first, every row's owner and index within."""
    first = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(counts.size), counts)
    return first[:-1], owner, np.arange(owner.size) - first[:-1][owner]


def distinct(kind: Ints, distance: Ints) -> tuple[Ints, Ints]:
    """The first row of every (kind, distance), and for every row which of them it is like."""
    order = np.lexsort((distance, kind))  # stable: the first of equal rows stays first
    kinds, distances = kind[order], distance[order]
    begins = np.ones(order.size, np.bool_)
    begins[1:] = (kinds[1:] != kinds[:-1]) | (distances[1:] != distances[:-1])
    which = np.empty(order.size, np.int64)
    which[order] = np.cumsum(begins) - 1
    return order[begins], which


def tabulate(stream: Sequence[Instruction], target: Target) -> AccessTable:
    """The accesses of a stream."""
    builder = _Forms(target)
    form = np.array([builder.form_of(instr) for instr in stream], np.int64)
    places = np.array(builder.places, np.int64)
    forms, prototypes = builder.forms, builder.prototypes
    first_place, _, _ = row_offsets(_ints(len(addresses(type(f.example))) for f in forms)[form])
    first, pc, within = row_offsets(_ints(len(f.accesses) for f in forms)[form])
    prototype = _ints(f.first for f in forms)[form[pc]] + within
    anchor, unit = _ints(builder.anchors), _ints(address_unit(target, a.space) for a in prototypes)
    moved = np.zeros(pc.size, np.int64)
    anchored = anchor[prototype] != FIXED
    owners, kinds = pc[anchored], prototype[anchored]
    moved[anchored] = unit[kinds] * places[first_place[owners] + anchor[kinds]]
    base = _ints(builder.origins)[prototype] + moved
    spans = np.array([a.span() for a in prototypes], np.int64).reshape(-1, 2) - _ints(
        a.base for a in prototypes
    ).reshape(-1, 1)
    shapes: dict[Any, int] = {}
    return AccessTable(
        forms=tuple(forms),
        prototypes=tuple(prototypes),
        form=form,
        first=first,
        places=places,
        first_place=first_place,
        pc=pc,
        prototype=prototype,
        base=base,
        low=base + spans[prototype, 0],
        high=base + spans[prototype, 1],
        memory=_ints(memory_number(a) for a in prototypes),
        write=np.array([a.write for a in prototypes], np.bool_),
        shape=_ints(shapes.setdefault((memory_number(a), a.write, a.dims), len(shapes)) for a in prototypes),
    )


class _Forms:
    """Collects the forms of a stream, and the address values of its instructions."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.forms: list[InstructionTemplate] = []
        self.prototypes: list[Access] = []
        self.anchors: list[int] = []
        self.origins: list[int] = []
        self.places: list[int] = []
        self._known: dict[Any, int] = {}

    def form_of(self, instr: Instruction) -> int:
        """The number of the instruction's form; keeps its addresses."""
        fixed, moving = form_getters(type(instr))
        places = moving(instr)
        self.places += places
        key = (type(instr), fixed(instr))
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = self._add(instr, places)
        return number

    def _add(self, instr: Instruction, places: tuple[int, ...]) -> int:
        lowest = {o.name: o.low for o in addresses(type(instr))}
        first = len(self.prototypes)
        try:
            found = _accesses(replace(instr, waits=(), signals=(), **lowest), self.target)
        except _Unsound:
            found = None
        for access, anchor in found or ():
            at = 0 if anchor == FIXED else places[anchor] * address_unit(self.target, access.space)
            self.prototypes.append(replace(access, base=access.base + at))
            self.anchors.append(anchor)
            self.origins.append(access.base)
        self.forms.append(
            InstructionTemplate(instr, found is not None, first, tuple(self.prototypes[first:]))
        )
        return len(self.forms) - 1


class _Unsound(Exception):
    """The operands of an instruction or its `check` object."""


@lru_cache(maxsize=1 << 12)
def _accesses(instr: Instruction, target: Target) -> tuple[tuple[Access, int], ...]:
    """The accesses of an instruction, those that an address moves as if it were 0, each with its number.

    Schedule, tokens, checker and cycle model meet the same forms. Only sound ones are kept: a number in place
    of a member of an enumeration is not sound, and equal to one that is.

    Raises:
        _Unsound: it is not.
    """
    if operand_faults(instr) or next(form_faults(instr, target), None) is not None:
        raise _Unsound
    places = {o.name: (k, getattr(instr, o.name)) for k, o in enumerate(addresses(type(instr)))}
    found: list[tuple[Access, int]] = []
    for access in instr.accesses(target):
        anchor, place = places.get(access.operand, (FIXED, 0))
        at = place * address_unit(target, access.space)
        found.append((replace(access, base=access.base - at), anchor))
    return tuple(found)


def _ints(values: Any) -> Ints:
    return np.fromiter(values, np.int64)
