"""Quick proofs, over the columns of a stream, that nothing undefined is read and nothing races.

They may give up on a sound program, never accept one that is not: where one does not succeed, the
shadow memories decide, and say what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isa.accesses import DRAM_MEMORIES, AccessTable, Ints, distinct, row_offsets
from isa.checker.tokens import Clocks
from isa.footprint import GRAIN, box, coarse, overlaps
from isa.memory_map import DATA_REGIONS, Region, Space, memory_size
from isa.program import Interface, Program
from isa.spec import Engine
from isa.support.records import Frozen, replace

DEFINED: Final = frozenset(DRAM_MEMORIES + r for r in DATA_REGIONS)
"""Memories in which every byte stands from the start."""
PAIRS_PER_ACCESS: Final = 64
PAIRS_AT_ONCE: Final = 1 << 20


def is_defined(program: Program, table: AccessTable) -> bool:
    """Whether every byte that is read has been written before, or stands there from the start.

    An entry of a memory holds when it was first written, counted backwards from the end; 0 is never.
    Equal boxes need to be looked at only where they occur first.
    """
    count = len(program.instructions)
    earliest: dict[int, NDArray[np.int32]] = {}
    memories: list[int] = table.memory.tolist()
    prototypes = [coarse(a) for a in table.prototypes]
    for writes in (True, False):
        rows = _first_rows(table, write=writes)
        if writes:
            rows = rows[::-1]
        kinds: list[int] = table.prototype[rows].tolist()
        for kind, base, pc in zip(kinds, table.base[rows].tolist(), table.pc[rows].tolist(), strict=True):
            memory, like = memories[kind], prototypes[kind]
            if memory in DEFINED:
                continue
            if memory not in earliest:
                earliest[memory] = _given(program, memory, count + 1)
            entries = box(earliest[memory], like, like.base - base // GRAIN[like.space])
            if writes:
                entries[...] = count - pc
            elif int(entries.min()) <= count - pc:
                return False
    return True


def is_ordered(program: Program, table: AccessTable, clocks: Clocks) -> bool:
    """Whether no two accesses of different engines conflict that nothing orders.

    An access can race only with earlier ones of another engine that come after the clock's entry for
    it. All these pairs are formed; where tokens leave too many, this gives up.
    """
    budget = PAIRS_PER_ACCESS * table.pc.size + PAIRS_AT_ONCE
    for one, other in _conflicting(_groups(program, table)):
        later, earlier = _near(table, one, other), _near(table, other, one)
        known: Ints = clocks[later.pc, earlier.engine]
        start = np.searchsorted(earlier.pc, known, "right").astype(np.int64)
        counts = np.maximum(np.searchsorted(earlier.pc, later.pc, "left") - start, 0)
        budget -= int(counts.sum())
        if budget < 0 or not all(
            _apart(table, earlier.rows[first], later.rows[second]) for first, second in _pairs(start, counts)
        ):
            return False
    return True


def unwritten(program: Program, table: AccessTable) -> list[str]:
    """The graph outputs of which a byte is not written."""
    written = np.zeros(program.output_bytes, np.bool_)
    for row in _first_rows(table, write=True).tolist():
        if table.memory[table.prototype[row]] == DRAM_MEMORIES + Region.OUTPUT:
            box(written, table.access(row))[...] = True
    missing: list[str] = []
    for tensor in _computed_outputs(program):
        pixels = written[tensor.offset : tensor.offset + tensor.bytes].reshape(-1, tensor.pixel_stride)
        if not pixels[:, : tensor.held_shape[3] * tensor.element_bytes].all():
            missing.append(tensor.name)
    return missing


def rewritten(program: Program, table: AccessTable) -> list[str]:
    """The graph outputs of which a byte is written more than once."""
    times = np.zeros(program.output_bytes, np.uint8)
    kinds = table.prototype
    for row in np.flatnonzero(
        table.write[kinds] & (table.memory[kinds] == DRAM_MEMORIES + Region.OUTPUT)
    ).tolist():
        bytes_written = box(times, table.access(row))
        bytes_written[...] = np.minimum(bytes_written, 1) + 1
    return [t.name for t in _computed_outputs(program) if (times[t.offset : t.offset + t.bytes] > 1).any()]


def _computed_outputs(program: Program) -> list[Interface]:
    """The graph outputs that the program writes; the others are constants among the weights."""
    return [t for t in program.abi.outputs if t.region == Region.OUTPUT]


class _Group(Frozen):
    """The accesses of one engine to one memory, in program order: all writes, or all reads."""

    memory: int
    engine: int
    write: bool
    rows: Ints
    pc: Ints


def _first_rows(table: AccessTable, *, write: bool) -> Ints:
    """The rows, in program order, whose box no earlier row of that direction has."""
    rows = np.flatnonzero(table.write[table.prototype] == write)
    examples, _ = distinct(table.shape[table.prototype[rows]], table.base[rows])
    return rows[np.sort(examples)]


def _given(program: Program, memory: int, mark: int) -> NDArray[np.int32]:
    """The entries of a memory; marked is what stands there from the start."""
    if memory < DRAM_MEMORIES:
        space = Space(memory)
        entries = np.zeros(memory_size(program.target, space) // GRAIN[space], np.int32)
        if space is Space.SREG:
            entries[0] = mark  # s0 reads 0
        return entries
    region = Region(memory - DRAM_MEMORIES)
    entries = np.zeros(program.region_sizes()[region], np.int32)
    if region is Region.INPUT:
        for tensor in program.abi.inputs:
            entries[tensor.offset : tensor.offset + tensor.bytes] = mark
    return entries


def _groups(program: Program, table: AccessTable) -> list[_Group]:
    engines = np.array([i.engine for i in program.instructions], np.int64)
    memory, write = table.memory[table.prototype], table.write[table.prototype]
    key = (memory * len(Engine) + engines[table.pc]) * 2 + write
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    groups: list[_Group] = []
    for rows in np.split(order, starts[1:]):
        if rows.size:
            first = rows[0]
            pc = table.pc[rows]
            groups.append(_Group(int(memory[first]), int(engines[pc[0]]), bool(write[first]), rows, pc))
    return groups


def _conflicting(groups: list[_Group]) -> Iterator[tuple[_Group, _Group]]:
    """Groups of different engines on one memory, of which one writes; either may come first."""
    for later in groups:
        for earlier in groups:
            same = later.memory == earlier.memory
            if same and later.engine != earlier.engine and (later.write or earlier.write):
                yield later, earlier


def _near(table: AccessTable, group: _Group, other: _Group) -> _Group:
    """The accesses of a group whose spans meet that of any access of the other, whenever that is."""
    met = np.searchsorted(np.sort(table.low[other.rows]), table.high[group.rows], "left")
    passed = np.searchsorted(np.sort(table.high[other.rows]), table.low[group.rows], "right")
    return replace(group, rows=group.rows[met > passed], pc=group.pc[met > passed])


def _pairs(start: Ints, counts: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Index pairs (start[i] + k, i) for k below counts[i], a limited number at a time."""
    total = np.cumsum(counts)
    for chunk in range(int(counts.sum()) // PAIRS_AT_ONCE + 1):
        inside = slice(*np.searchsorted(total, [chunk * PAIRS_AT_ONCE, (chunk + 1) * PAIRS_AT_ONCE], "right"))
        _, owner, within = row_offsets(counts[inside])
        yield start[inside][owner] + within, np.arange(counts.size)[inside][owner]


def _apart(table: AccessTable, first: Ints, second: Ints) -> bool:
    """Whether no pair of rows names a common byte: by spans, then exactly, once for every distance."""
    near = (table.low[first] < table.high[second]) & (table.low[second] < table.high[first])
    first, second = first[near], second[near]
    _, kind = np.unique(
        table.shape[table.prototype[first]] * len(table.prototypes) + table.shape[table.prototype[second]],
        return_inverse=True,
    )
    examples, _ = distinct(kind.reshape(-1), table.base[second] - table.base[first])
    return not any(
        overlaps(table.access(a), table.access(b))
        for a, b in zip(first[examples].tolist(), second[examples].tolist(), strict=True)
    )
