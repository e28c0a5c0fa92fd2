"""What the cycle model knows of every instruction of a program: its declared costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from isa.accesses import AccessTable
from isa.checker.legality import suspects
from isa.faults import trap_at
from isa.memory_map import Space
from isa.program import Program
from isa.spec import Access, Instruction, Transfer, TrapError
from isa.support.records import Frozen
from isa.target import Target
from isa.timing.banks import bank_beats
from isa.validate import instruction_faults


class Costs(Frozen):
    """What the cycle model knows of a stream, one entry per instruction."""

    engine: list[int]
    cycles: list[int]
    latency: list[int]
    bus: list[bool]
    beats: list[dict[int, int]]
    """Beats by bank."""
    moved: list[tuple[int, int]]
    """Bytes of DRAM read and written."""
    macs: list[int]
    transfer: list[Transfer | None]


def costs_of(program: Program) -> Costs:
    """The declared costs of a program.

    Raises:
        MachineTrap: an instruction is not legal on the target.
    """
    t, stream = program.target, program.instructions
    table = program.accesses
    for pc in suspects(program, table):
        for fault in instruction_faults(stream[pc], t, program.region_sizes()):
            raise trap_at(program, pc, TrapError(fault.trap, fault.operand, fault.message))
    beats = bank_beats(table, t)
    most = beats.max(axis=1, initial=0).tolist()
    rows, banks = np.nonzero(beats)
    by_bank: list[dict[int, int]] = [{} for _ in stream]
    for row, bank, count in zip(rows.tolist(), banks.tolist(), beats[rows, banks].tolist(), strict=True):
        by_bank[row][bank] = count
    numbers: list[int] = table.form.tolist()
    moved = [_moved(form.accesses) for form in table.forms]
    macs = [form.example.macs() for form in table.forms]
    return Costs(
        [int(i.engine) for i in stream],
        [max(n, t.ctl.issue + m) for n, m in zip(_declared(stream, table, t), most, strict=True)],
        [i.latency(t) for i in stream],
        [moved[number] != (0, 0) for number in numbers],
        by_bank,
        [moved[number] for number in numbers],
        [macs[number] for number in numbers],
        [i.transfer() for i in stream],
    )


def _moved(accesses: Sequence[Access]) -> tuple[int, int]:
    """Bytes of DRAM that accesses read and write."""
    moved = [0, 0]
    for access in accesses:
        if access.space is Space.DRAM:
            moved[access.write] += access.size()
    return moved[0], moved[1]


def _declared(stream: Sequence[Instruction], table: AccessTable, t: Target) -> Iterator[int]:
    """The declared cycles: an address changes them only by its place within a burst."""
    known: dict[tuple[int, ...], int] = {}
    within = (table.places % t.dma.burst).tolist()
    bounds = [*table.first_place.tolist(), len(within)]
    for pc, (instr, form) in enumerate(zip(stream, table.form.tolist(), strict=True)):
        key = (form, *within[bounds[pc] : bounds[pc + 1]])
        if key not in known:
            known[key] = instr.cycles(t)
        yield known[key]
