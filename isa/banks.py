"""Beats of a stream on the banks of the scratchpad and the accumulators, from the declared accesses.

A bank has one port. An access takes a beat for every port word, or part of one, of each of its
runs of contiguous bytes; bytes that are named again are moved again.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isa.accesses import AccessTable, Ints
from isa.instructions.dma import merge_rows
from isa.spec import Access, Dims, Space, address_unit
from isa.structs import Frozen
from isa.target import Target
from isa.validate import memory_size

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
        rows = rows[np.argsort(table.prototype[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(table.prototype[rows], prepend=-1))
        for alike in np.split(rows, starts[1:]) if rows.size else ():
            example = table.prototypes[int(table.prototype[alike[0]])]
            bases, which = np.unique(table.base[alike], return_inverse=True)
            each = _beats(example, bases, banks)
            place = slice(banks.first, banks.first + banks.count)
            np.add.at(beats[:, place], table.pc[alike], each[which.reshape(-1)])
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


def _beats(example: Access, bases: Ints, banks: Banking) -> NDArray[np.int32]:
    """Beats on every bank of one access, moved to each of the bases: (bases, banks)."""
    run, levels = _runs(example)
    offsets = np.zeros(1, np.int64)
    for count, pitch in levels:
        offsets = (offsets + np.arange(count)[:, None] * pitch).ravel()
    result = np.zeros((bases.size, banks.count), np.int32)
    step = max(AT_ONCE // offsets.size, 1)
    for first in range(0, bases.size, step):
        starts = bases[first : first + step, None] + offsets
        count = _interleaved if banks.interleaved else _blocked
        result[first : first + step] = count(starts, run, banks)
    return result


def _blocked(starts: Ints, run: int, banks: Banking) -> NDArray[np.int32]:
    """Runs in banks of consecutive bytes; a run that goes on in the next bank starts a beat there."""
    ends = starts + run
    bank = starts // banks.size
    furthest = int(((ends - 1) // banks.size - bank).max())
    result = np.zeros((starts.shape[0], banks.count), np.int64)
    count, each = starts.shape
    row: Ints = np.arange(count * each, dtype=np.int64).reshape(count, each) // each
    for _ in range(furthest + 1):
        size = np.minimum(ends, (bank + 1) * banks.size) - np.maximum(starts, bank * banks.size)
        here = size > 0
        place = row[here] * banks.count + bank[here]
        words = np.bincount(place, -(-size[here] // banks.port), result.size)
        result += words.astype(np.int64).reshape(result.shape)
        bank = bank + 1
    return result.astype(np.int32)


def _interleaved(starts: Ints, run: int, banks: Banking) -> NDArray[np.int32]:
    """Runs in banks that take turns, a port word each."""
    word = starts // banks.port
    words = (starts + run - 1) // banks.port - word + 1
    each, rest = np.divmod(words, banks.count)
    result = np.repeat(each.sum(axis=1)[:, None], banks.count, axis=1)
    count, each = starts.shape
    row: Ints = np.arange(count * each, dtype=np.int64).reshape(count, each) // each
    for extra in range(int(rest.max(initial=0))):
        here = rest > extra
        place = row[here] * banks.count + (word[here] + extra) % banks.count
        result += np.bincount(place, minlength=result.size).reshape(result.shape)
    return result.astype(np.int32)
