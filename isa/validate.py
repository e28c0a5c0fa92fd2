"""Whether one instruction is legal on a target: fields, constraints, footprints.

All addresses are static, so everything but values is known here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from isa.encoding import Slots, operand_faults
from isa.footprint import overlaps, repeats
from isa.spec import MAX_ACCESS, RANGE_TRAP, SREGS, Access, Fault, Instruction, Space, Trap
from isa.structs import Frozen
from isa.target import Target


class Region(Frozen):
    """A DRAM region of a program."""

    number: int
    size: int
    writable: bool


def memory_size(t: Target, space: Space) -> int:
    """Bytes of a memory on the chip."""
    sizes = {
        Space.SPM: t.spm.bytes,
        Space.ACC: t.acc.rows * t.mx.cols * 4,
        Space.PRM: t.prm.bytes,
        Space.SREG: SREGS * 4,
    }
    return sizes[space]


def instruction_faults(instr: Instruction, t: Target, regions: Mapping[int, Region]) -> list[Fault]:
    """Every reason why the instruction is not legal on this target with these regions."""
    if found := operand_faults(instr):
        return found
    found = [*instr.check(t), *semaphore_faults((instr.waits, instr.signals), t.ctl.sems)]
    if found:
        return found
    accesses = list(instr.accesses(t))
    found = [f for a in accesses for f in access_faults(a, t, regions)]
    return found or list(_overlap_faults(instr, accesses))


def semaphore_faults(slots: Slots, sems: int) -> Iterator[Fault]:
    """Waits and signals of semaphores that the target does not have."""
    for semaphore in itertools.chain(*slots):
        if semaphore >= sems:
            text = f"semaphore {semaphore} is above the target's ctl.sems={sems}"
            yield Fault(Trap.LIMIT, "semaphore", text)


def access_faults(a: Access, t: Target, regions: Mapping[int, Region]) -> Iterator[Fault]:
    """Whether an access stays inside its memory and may be made at all."""
    low, high = a.span()
    if a.size() > MAX_ACCESS:
        yield Fault(
            Trap.LIMIT, a.operand, f"{a.operand} names {a.size()} bytes; allowed: at most {MAX_ACCESS}"
        )
        return
    if a.space is not Space.DRAM:
        size, name = memory_size(t, a.space), a.space.name
    else:
        region = regions.get(a.region)
        size, name = region.size if region else 0, f"region {a.region}"
        if region is None:
            yield Fault(Trap.DRAM_RANGE, a.operand, f"the program has no region {a.region}")
            return
        if a.write and not region.writable:
            yield Fault(Trap.DRAM_RANGE, a.operand, f"region {a.region} is read-only")
    if low < 0 or high > size:
        verb = "writes" if a.write else "reads"
        yield Fault(
            RANGE_TRAP[a.space],
            a.operand,
            f"{a.operand} {verb} bytes {low}..{high - 1} of {name}; allowed: 0..{size - 1}",
        )


def clash(instr: Instruction, write: Access, other: Access) -> Fault | None:
    """Why a write may not lie as it does to another access of the instruction, where they overlap."""
    if other.write:
        return _twice(write) if overlaps(write, other) else None
    if instr.may_overlap(other, write) or not overlaps(other, write):
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
