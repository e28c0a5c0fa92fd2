"""Parameter records whose bytes stand in the file: what the instructions that read them would trap on.

Instructions read and check their records before anything else. So each is executed here on a machine that
has nothing but the parameter memory and the read-only sections, as far as that goes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.accesses import AccessTable
from isa.checker.report import Violations
from isa.footprint import box, elements
from isa.memory_map import Space, memory_size
from isa.program import Program
from isa.spec import Access, Transfer, TrapError


class _Unknown(Exception):
    """An instruction reads what the file does not say."""


class _Parameters:
    """The parameter memory, as far as it is known, and the sections that are read-only.

    `changed` says of every byte which of the writes so far was the last.
    """

    def __init__(self, program: Program) -> None:
        self.target, self.device = program.target, program.device
        size = memory_size(program.target, Space.PRM)
        self.bytes = np.zeros(size, np.uint8)
        self.known = np.zeros(size, np.bool_)
        self.changed = np.zeros(size, np.int64)
        self.writes = 0
        self.sections = {
            int(region): np.frombuffer(content, np.uint8)
            for region, content in program.region_contents().items()
            if not region.writable
        }

    def accumulators_overflow(self) -> None:
        """Never comes so far."""

    def mark(self, tag: int) -> None:
        """Never comes so far."""

    def send(self, transfer: Transfer, content: NDArray[np.uint8]) -> None:
        """Nothing becomes of it."""

    def receive(self, transfer: Transfer) -> NDArray[np.uint8]:
        """What another device sends is not known."""
        del transfer
        raise _Unknown

    def read(self, access: Access, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The elements of known bytes."""
        if access.space is Space.PRM:
            if not box(self.known, access).all():
                raise _Unknown
            return elements(self.bytes, access, dtype)
        if access.region not in self.sections:
            raise _Unknown
        return elements(self.sections[access.region], access, dtype)

    def write(self, access: Access, values: NDArray[Any], dtype: np.dtype[Any]) -> None:
        """Write into the parameter memory; nothing else is kept."""
        if access.space is Space.PRM:
            elements(self.bytes, access, dtype)[...] = values
            box(self.known, access)[...] = True

    def forget(self, access: Access) -> None:
        """Bytes are written with what is not known, unless `write` says what."""
        self.writes += 1
        box(self.known, access)[...] = False
        box(self.changed, access)[...] = self.writes


def check_parameters(program: Program, table: AccessTable, findings: Violations) -> None:
    """Find the records that would trap; of a program that is legal and cannot race.

    Instructions of one form that read the same bytes are looked at once.
    """
    rows = np.flatnonzero(table.memory[table.prototype] == int(Space.PRM))
    if not rows.size:
        return
    state = _Parameters(program)
    seen: set[tuple[int, ...]] = set()
    for mine in np.split(rows, np.flatnonzero(np.diff(table.pc[rows])) + 1):
        pc = int(table.pc[mine[0]])
        writes = [row for row in mine.tolist() if table.write[table.prototype[row]]]
        for row in writes:
            state.forget(table.access(row))
        if not writes:
            key = (int(table.form[pc]), *(n for row in mine.tolist() for n in _version(table, state, row)))
            if key in seen:
                continue
            seen.add(key)
        try:
            program.instructions[pc].execute(state)
        except _Unknown:
            continue
        except TrapError as fault:
            findings.add(fault.trap, pc, fault.message)
            if findings.full:
                return


def _version(table: AccessTable, state: _Parameters, row: int) -> tuple[int, int]:
    """What a row reads: where, and since which write."""
    low, high = int(table.low[row]), int(table.high[row])
    return int(table.base[row]), int(state.changed[low:high].max())
