"""Which instructions of a stream may be illegal: found in columns, to be looked at one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isa.accesses import DRAM_MEMORIES, AccessTable, InstructionTemplate, distinct, memory_number, row_offsets
from isa.encoding import addresses, slot_faults
from isa.footprint import repeats, same_memory
from isa.memory_map import SREG_BYTES, Space, memory_size
from isa.program import Program
from isa.validate import access_faults, clash, semaphore_faults


def suspects(program: Program, table: AccessTable) -> list[int]:
    """Every instruction that is not legal, and perhaps some that are."""
    if not program.instructions:
        return []
    suspicious = _unsound_forms(program, table)[table.form]
    suspicious |= _misplaced(table)
    suspicious[table.pc[_out_of_range(program, table)]] = True
    suspicious |= _odd_slots(program)
    suspicious[_clashing(table, ~suspicious)] = True
    return np.flatnonzero(suspicious).tolist()


def _unsound_forms(program: Program, table: AccessTable) -> NDArray[np.bool_]:
    """Forms in which something else than an address is wrong, or whose example is."""
    sizes, target = program.region_sizes(), program.target

    def unsound(form: InstructionTemplate) -> bool:
        return not form.sound or any(
            any(access_faults(a, target, sizes)) or (a.write and repeats(a)) for a in form.accesses
        )

    return np.array([unsound(f) for f in table.forms], np.bool_)


def _misplaced(table: AccessTable) -> NDArray[np.bool_]:
    """Instructions with an address that its field cannot hold, or that the form does not use."""
    bounds: list[tuple[int, int, int]] = []
    counts: list[int] = []
    for form in table.forms:
        unused = form.example.unused()
        places = addresses(type(form.example))
        counts.append(len(places))
        for spec in places:
            low, high = spec.bounds(signed=spec.signed)
            bounds.append((low, low if spec.name in unused else high, spec.scale))
    limits = np.array(bounds, np.int64).reshape(-1, 3)
    first, _, _ = row_offsets(np.array(counts, np.int64))
    _, owner, within = row_offsets(np.array(counts, np.int64)[table.form])
    low, high, scale = limits[first[table.form[owner]] + within].T
    bad = (table.places < low) | (table.places > high) | ((table.places - low) % scale != 0)
    return np.bincount(owner, bad, minlength=table.form.size) > 0


def _out_of_range(program: Program, table: AccessTable) -> NDArray[np.bool_]:
    """Accesses that leave their memory, or write the register that reads 0."""
    sizes = {int(s): memory_size(program.target, s) for s in Space if s is not Space.DRAM}
    sizes |= {DRAM_MEMORIES + r: n for r, n in program.region_sizes().items()}
    size = np.array([sizes.get(memory_number(a), 0) for a in table.prototypes], np.int64)
    to_registers = table.write & (table.memory == Space.SREG)
    least = np.where(to_registers, SREG_BYTES, 0)
    return (table.low < least[table.prototype]) | (table.high > size[table.prototype])


def _clashing(table: AccessTable, among: NDArray[np.bool_]) -> list[int]:
    """Instructions whose write footprints lie wrongly to one another, or to what they read.

    Only among those whose footprints are sound by themselves: others may be gigantic. The verdict
    depends on the form and on the distance of the two, not on where they are.
    """
    pairs = [_pairs(form) for form in table.forms]
    counts = np.array([len(p) for p in pairs], np.int64)
    sides = np.array([p for of_form in pairs for p in of_form], np.int64).reshape(-1, 2)
    first, _, _ = row_offsets(counts)
    _, pc, within = row_offsets(counts[table.form])
    kind = first[table.form[pc]] + within
    write, other = table.first[pc] + sides[kind, 0], table.first[pc] + sides[kind, 1]
    near = (table.low[write] < table.high[other]) & (table.low[other] < table.high[write]) & among[pc]
    pc, kind, write, other = pc[near], kind[near], write[near], other[near]
    examples, which = distinct(kind, table.base[other] - table.base[write])
    clashes = [
        clash(table.forms[table.form[pc[e]]].example, table.access(write[e]), table.access(other[e]))
        for e in examples
    ]
    bad = np.array([c is not None for c in clashes], np.bool_)
    return pc[bad[which]].tolist()


def _pairs(form: InstructionTemplate) -> list[tuple[int, int]]:
    """Accesses of a form that may not touch: every write with every read, and with the later writes."""
    numbered = list(enumerate(form.accesses))
    return [
        (i, j)
        for i, a in numbered
        for j, b in numbered
        if a.write and same_memory(a, b) and (i < j or not b.write)
    ]


def _odd_slots(program: Program) -> NDArray[np.bool_]:
    """Instructions with semaphores that the target lacks, or slots that no word can hold."""
    used = [(i.waits, i.signals) for i in program.instructions]
    sems = program.target.ctl.sems
    odd = {slots for slots in set(used) if slot_faults(slots) or any(semaphore_faults(slots, sems))}
    return np.array([slots in odd for slots in used], np.bool_)
