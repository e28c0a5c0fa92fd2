"""Whether one instruction is legal on a target: fields, constraints, footprints.

All addresses are static, so everything but values is known here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from enum import IntEnum

from isa.encoding import Slots, operand_faults
from isa.footprint import overlaps, repeats
from isa.memory_map import SREG_BYTES, Region, Space, memory_name, memory_size
from isa.spec import MAX_ACCESS, RANGE_TRAP, Access, Fault, Instruction, Trap
from isa.target import Target


def instruction_faults(instr: Instruction, t: Target, sizes: Mapping[Region, int]) -> list[Fault]:
    """Every reason why the instruction is not legal on this target with regions of these sizes."""
    if found := operand_faults(instr):
        return found
    found = [*form_faults(instr, t), *semaphore_faults((instr.waits, instr.signals), t.ctl.sems)]
    if found:
        return found
    accesses = list(instr.accesses(t))
    found = [f for a in accesses for f in access_faults(a, t, sizes)]
    return found or list(_overlap_faults(instr, accesses))


def form_faults(instr: Instruction, t: Target) -> Iterator[Fault]:
    """What neither addresses nor semaphores decide: the extension, and what the instruction checks."""
    for letter, operand in instr.extensions():
        if letter not in t.ext:
            what = f"{operand}={_shown(getattr(instr, operand))}" if operand else f"'{instr.mnemonic}'"
            yield Fault(Trap.EXT_MISSING, operand or "op", f"{what} needs extension {letter}")
    yield from instr.check(t)


def _shown(value: int) -> str:
    """A value as assembly writes it."""
    return value.name.lower() if isinstance(value, IntEnum) else str(value)


def semaphore_faults(slots: Slots, sems: int) -> Iterator[Fault]:
    """Waits and signals of semaphores that the target does not have."""
    for semaphore in itertools.chain(*slots):
        if semaphore >= sems:
            text = f"semaphore {semaphore} is above the target's ctl.sems={sems}"
            yield Fault(Trap.LIMIT, "semaphore", text)


def access_faults(a: Access, t: Target, sizes: Mapping[Region, int]) -> Iterator[Fault]:
    """Whether an access stays inside its memory and may be made at all."""
    low, high = a.span()
    if a.size() > MAX_ACCESS:
        yield Fault(
            Trap.LIMIT, a.operand, f"{a.operand} names {a.size()} bytes; allowed: at most {MAX_ACCESS}"
        )
        return
    name = memory_name(a.space, a.region)
    if a.region is None:
        size = memory_size(t, a.space)
    elif a.region in sizes:
        size = sizes[a.region]
        if a.write and not a.region.writable:
            yield Fault(Trap.DRAM_RANGE, a.operand, f"{name} is read-only")
    else:
        yield Fault(Trap.DRAM_RANGE, a.operand, f"the program has no {name}")
        return
    if low < 0 or high > size:
        verb = "writes" if a.write else "reads"
        yield Fault(
            RANGE_TRAP[a.space],
            a.operand,
            f"{a.operand} {verb} bytes {low}..{high - 1} of {name}; allowed: 0..{size - 1}",
        )
    elif a.space is Space.SREG and a.write and low < SREG_BYTES:
        yield Fault(Trap.LIMIT, a.operand, f"{a.operand} writes s0, which reads 0; allowed: s1 to s63")


def clash(instr: Instruction, write: Access, other: Access) -> Fault | None:
    """Why a write may not lie as it does to another access of the instruction, where they overlap."""
    if other.write:
        return _twice(write) if overlaps(write, other) else None
    if instr.may_alias(other, write) or not overlaps(other, write):
        return None
    return Fault(
        Trap.LIMIT,
        write.operand,
        f"{write.operand} overlaps what {other.operand} reads; allowed: the same "
        "address and pitches in vew and vmov, and accum",
    )


def _overlap_faults(instr: Instruction, accesses: list[Access]) -> Iterator[Fault]:
    """A write may not name a byte twice, nor touch what the instruction reads, except in place."""
    reads = [a for a in accesses if not a.write]
    writes = [a for a in accesses if a.write]
    for index, write in enumerate(writes):
        if repeats(write):
            yield _twice(write)
        for other in (*reads, *writes[index + 1 :]):
            if fault := clash(instr, write, other):
                yield fault


def _twice(write: Access) -> Fault:
    return Fault(Trap.LIMIT, write.operand, f"{write.operand} writes a byte twice")
