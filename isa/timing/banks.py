"""Beats of a stream on the banks of the scratchpad and the accumulators, from the declared accesses.

A bank has one port. An access takes a beat for every port word, or part of one, of each of its
runs of contiguous bytes; bytes that are named again are moved again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isa.accesses import AccessTable, Ints, distinct, row_offsets
from isa.instructions.dma import merge_rows
from isa.memory_map import Space, address_unit, memory_size
from isa.spec import Access, Dims
from isa.support.records import Frozen
from isa.target import Target

AT_ONCE: Final = 1 << 20
"""Runs looked at in one go."""


class Banking(Frozen):
    """How a memory is divided: banks from number `first` on, bytes of each, bytes per cycle of its port."""

    first: int
    count: int
    size: int
    port: int
    interleaved: bool


def bankings(t: Target) -> dict[Space, Banking]:
    """The memories with banks; those of all of them are numbered together."""
    accumulators = memory_size(t, Space.ACC)
    row = address_unit(t, Space.ACC)
    return {
        Space.SPM: Banking(
            0, t.spm.banks, math.ceil(t.spm.bytes / t.spm.banks), t.spm.port_bytes, t.spm.interleave
        ),
        Space.ACC: Banking(
            t.spm.banks,
            t.acc.banks,
            math.ceil(accumulators / row / t.acc.banks) * row,
            4 * max(t.mx.cols, t.vx.lanes),
            interleaved=False,
        ),
    }


def bank_beats(table: AccessTable, t: Target) -> NDArray[np.int32]:
    """Beats of every instruction of a legal stream on every bank: (instructions, banks)."""
    known = bankings(t)
    beats = np.zeros((table.form.size, sum(b.count for b in known.values())), np.int32)
    for space, banks in known.items():
        here = np.array([p.space is space for p in table.prototypes], np.bool_)
        rows = np.flatnonzero(here[table.prototype])
        if not banks.interleaved:
            rows = _within_one(table, rows, banks, beats)
        if rows.size:
            examples, which = distinct(table.prototype[rows], table.base[rows])
            each = _beats(table, rows[examples], banks)
            np.add.at(beats[:, banks.first : banks.first + banks.count], table.pc[rows], each[which])
    return beats


def _within_one(table: AccessTable, rows: Ints, banks: Banking, beats: NDArray[np.int32]) -> Ints:
    """Count the accesses that stay within a bank of consecutive bytes; the rows of the others."""
    bank = table.low[rows] // banks.size
    within = bank == (table.high[rows] - 1) // banks.size
    kinds = table.prototype[rows[within]]
    words = np.zeros(len(table.prototypes), np.int32)
    seen: set[int] = set(kinds.tolist())
    for kind in seen:
        run, levels = _runs(table.prototypes[kind])
        words[kind] = -(-run // banks.port) * math.prod(count for count, _ in levels)
    np.add.at(beats, (table.pc[rows[within]], banks.first + bank[within]), words[kinds])
    return rows[~within]


def _runs(access: Access) -> tuple[int, Dims]:
    """Bytes of a run of an access, and the levels above it, the innermost first."""
    *outer, (run, _) = access.dims
    run, levels = merge_rows(run, outer[::-1])
    return run, tuple(levels)


def _beats(table: AccessTable, rows: Ints, banks: Banking) -> NDArray[np.int32]:
    """Beats of some accesses, in order of their prototypes, on every bank: (rows, banks)."""
    kinds, kind = np.unique(table.prototype[rows], return_inverse=True)
    used: list[int] = kinds.tolist()
    shapes = [_runs(table.prototypes[k]) for k in used]
    sizes = np.array([math.prod(count for count, _ in levels) for _, levels in shapes], np.int64)
    lengths = np.array([run for run, _ in shapes], np.int64)
    result = np.zeros((rows.size, banks.count), np.int32)
    count = _interleaved if banks.interleaved else _blocked
    for part in _parts(sizes[kind]):
        least, most = int(kind[part][0]), int(kind[part][-1]) + 1
        offsets = np.concatenate([_offsets(levels) for _, levels in shapes[least:most]])
        first, _, _ = row_offsets(sizes[least:most])
        _, owner, within = row_offsets(sizes[kind[part]])
        mine = kind[part][owner]
        starts = table.base[rows[part]][owner] + offsets[first[mine - least] + within]
        count(starts, lengths[mine], owner, banks, result[part])
    return result


def _offsets(levels: Dims) -> Ints:
    """Where the runs of an access begin, from its first."""
    offsets = np.zeros(1, np.int64)
    for count, pitch in levels:
        offsets = (offsets + np.arange(count)[:, None] * pitch).ravel()
    return offsets


def _parts(counts: Ints) -> Iterator[slice]:
    """The owners of so many runs each, cut into parts that are looked at in one go."""
    ends = np.cumsum(counts)
    begin, done = 0, 0
    while begin < counts.size:
        stop = max(int(np.searchsorted(ends, done + AT_ONCE, "right")), begin + 1)
        yield slice(begin, stop)
        begin, done = stop, int(ends[stop - 1])


def _blocked(starts: Ints, run: Ints, owner: Ints, banks: Banking, beats: NDArray[np.int32]) -> None:
    """Runs in banks of consecutive bytes; a run that goes on in the next bank starts a beat there."""
    while starts.size:
        bank = starts // banks.size
        here = np.minimum(run, (bank + 1) * banks.size - starts)
        _add(beats, owner, bank, -(-here // banks.port))
        rest = here < run
        starts, run, owner = (starts + here)[rest], (run - here)[rest], owner[rest]


def _interleaved(starts: Ints, run: Ints, owner: Ints, banks: Banking, beats: NDArray[np.int32]) -> None:
    """Runs in banks that take turns, a port word each."""
    word = starts // banks.port
    words = (starts + run - 1) // banks.port - word + 1
    beats += np.bincount(owner, words // banks.count, beats.shape[0]).astype(np.int32)[:, None]
    rest = words % banks.count
    while rest.size:
        more = rest > 0
        word, owner, rest = word[more], owner[more], rest[more]
        _add(beats, owner, word % banks.count, np.ones(word.size, np.int64))
        word, rest = word + 1, rest - 1


def _add(beats: NDArray[np.int32], owner: Ints, bank: Ints, words: Ints) -> None:
    """Add the beats of runs to those of their accesses: `beats` is (accesses, banks)."""
    count = np.bincount(owner * beats.shape[1] + bank, words, beats.size)
    beats += count.astype(np.int32).reshape(beats.shape)
