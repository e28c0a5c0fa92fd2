"""The closer look: every access, one after another, against shadow memories."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.assembly.text import format_instruction
from isa.checker.report import Violations
from isa.checker.tokens import Clocks
from isa.footprint import GRAIN, box, coarse
from isa.memory_map import Region, Space, memory_name, memory_size
from isa.program import Program, is_read_only
from isa.spec import Access, Engine, Instruction, Trap

GIVEN: Final = 1
"""The writer of what is there from the start."""


class Shadows:
    """Shadow memories: the last writer of every entry, and the last reader by engine.

    A writer is its index + 2, a reader its index + 1; 0 means none. Memories of zeros cost nothing where
    they are not touched, however large a region a file declares.
    """

    def __init__(self, program: Program, clocks: Clocks, findings: Violations) -> None:
        self.program, self.clocks, self.findings = program, clocks, findings
        self.engine_of = np.array([i.engine for i in program.instructions], np.int8)
        self.written: dict[tuple[Space, Region | None], NDArray[np.int32]] = {}
        self.read: dict[tuple[Space, Region | None, Engine], NDArray[np.int32]] = {}
        self.sizes = program.region_sizes()
        self.placed: NDArray[np.bool_] | None = None

    def run(self) -> None:
        """Find reads of what nothing has written, and conflicting accesses that nothing orders."""
        target = self.program.target
        for pc, instr in enumerate(self.program.instructions):
            accesses = [coarse(a) for a in instr.accesses(target)]
            for access in accesses:
                self._check(pc, instr, access)
            for access in accesses:
                self._record(pc, instr, access)
            if self.findings.full:
                return

    def _writers(self, access: Access) -> NDArray[np.int32]:
        key = (access.space, access.region)
        if key not in self.written:
            self.written[key] = np.zeros(self._entries(access), np.int32)
            if access.region is Region.STATE:
                self.written[key].fill(GIVEN)
            if access.space is Space.SREG:
                self.written[key][0] = GIVEN  # s0 reads 0
        return self.written[key]

    def _entries(self, access: Access) -> int:
        if access.region is not None:
            return self.sizes[access.region]
        return memory_size(self.program.target, access.space) // GRAIN[access.space]

    def _check(self, pc: int, instr: Instruction, access: Access) -> None:
        if is_read_only(access):
            if access.region is Region.INPUT and not self._given(access):
                self._undefined(pc, instr, access, "that belong to no input")
            return
        last = box(self._writers(access), access)
        if not access.write and not last.all():
            self._undefined(pc, instr, access, "that nothing has written")
        self._require_order(pc, instr, access, self._unordered_writers(pc, instr, last), "writes")
        if access.write:
            for engine in Engine:
                shadow = self.read.get((access.space, access.region, engine))
                if shadow is not None and engine is not instr.engine:
                    reader = int(box(shadow, access).max()) - 1
                    if reader > self.clocks[pc][engine]:
                        self._require_order(pc, instr, access, reader, "reads")

    def _given(self, access: Access) -> bool:
        """Whether the host places every byte of an access to the input region."""
        low, high = access.span()
        inputs = [(t.offset, t.offset + t.bytes) for t in self.program.abi.inputs]
        if any(start <= low and high <= stop for start, stop in inputs):
            return True
        if self.placed is None:
            self.placed = np.zeros(self.sizes[Region.INPUT], np.bool_)
            for start, stop in inputs:
                self.placed[start:stop] = True
        return bool(box(self.placed, access).all())

    def _undefined(self, pc: int, instr: Instruction, access: Access, why: str) -> None:
        text = f"{access.operand} of '{format_instruction(instr)}' reads {_place(access)} {why}"
        self.findings.add(Trap.UNINIT_READ, pc, text)

    def _unordered_writers(self, pc: int, instr: Instruction, last: NDArray[Any]) -> int:
        """The last writer that this instruction does not come after, or -1."""
        clock = self.clocks[pc]
        newest = int(last.max()) - GIVEN - 1
        if newest < 0 or newest <= int(clock.min()):
            return -1
        writers = np.unique(last).astype(np.int64) - GIVEN - 1
        writers = writers[writers >= 0]
        engines = self.engine_of[writers]
        late = writers[(writers > clock[engines]) & (engines != instr.engine)]
        return int(late[-1]) if late.size else -1

    def _require_order(self, pc: int, instr: Instruction, access: Access, other: int, verb: str) -> None:
        if other < 0:
            return
        earlier = self.program.instructions[other]
        self.findings.add(
            Trap.RACE,
            pc,
            f"{access.operand} of '{format_instruction(instr)}' touches {_place(access)} that "
            f"instruction {other} '{format_instruction(earlier)}' {verb}; a token {earlier.engine.name} -> "
            f"{instr.engine.name} is missing",
            other,
        )

    def _record(self, pc: int, instr: Instruction, access: Access) -> None:
        if is_read_only(access):
            return
        if access.write:
            box(self._writers(access), access)[...] = pc + GIVEN + 1
            return
        key = (access.space, access.region, instr.engine)
        if key not in self.read:
            self.read[key] = np.zeros(self._entries(access), np.int32)
        box(self.read[key], access)[...] = pc + 1


def _place(access: Access) -> str:
    grain = GRAIN[access.space]
    low, high = access.span()
    return f"bytes of {memory_name(access.space, access.region)} within {low * grain}..{high * grain - 1}"
