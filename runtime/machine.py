"""The reference interpreter: architectural state, and one instruction after another.

Program order is the meaning of a program: queues and semaphores change when things happen, never
what is computed, so this machine ignores them; the checker proves that they may be ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.program import WRITABLE, Program
from isa.spec import Access, Instruction, MachineState, Space, Trap, TrapError
from isa.validate import instruction_faults, memory_size
from runtime.faults import trap_at
from runtime.memory import Memory, space_name

MAX_MARKS: Final = 1 << 16
Observer = Callable[[int, Instruction], None]


class Machine:
    """One core with its memories, executing one program.

    Args:
        program: what to execute; its data is placed at every reset.
        poison: trap on reads of bytes that nothing has written.
        trap_on_overflow: trap where an accumulator leaves int32; else only the sticky flag is set.
    """

    def __init__(self, program: Program, *, poison: bool = False, trap_on_overflow: bool = False) -> None:
        self.program = program
        self.target = program.target
        self.trap_on_overflow = trap_on_overflow
        self.accumulator_overflow = False
        self.marks: list[tuple[int, int]] = []
        """(instruction, tag) of the marks that have been passed."""
        self.pc = 0
        self.halted = False
        self.retired = 0
        self.chip = {
            s: Memory(space_name(s, 0), memory_size(self.target, s), poison=poison)
            for s in Space
            if s is not Space.DRAM
        }
        self.dram = {
            r: Memory(space_name(Space.DRAM, r), n, poison=poison, writable=r in WRITABLE)
            for r, n in program.region_sizes().items()
        }
        self._legal = [False] * len(program.instructions)
        self.reset()

    def reset(self) -> None:
        """The state before the first instruction: program data placed, all else undefined."""
        for memory in (*self.chip.values(), *self.dram.values()):
            memory.reset()
        for region, content in ((0, self.program.weights), (5, self.program.params)):
            if content:
                self.dram[region].preload(content)
        self.chip[Space.SREG].preload(bytes(4))  # s0 reads 0
        self.marks.clear()
        self.pc = self.retired = 0
        self.halted = self.accumulator_overflow = False

    def place(self, region: int, offset: int, content: NDArray[np.uint8]) -> None:
        """Place input bytes into a DRAM region."""
        self.dram[region].preload(content, offset)

    def fetch(self, region: int, offset: int, size: int) -> NDArray[np.uint8]:
        """Output bytes of a DRAM region, as a copy."""
        return self.dram[region].bytes[offset : offset + size].copy()

    def accumulators_overflow(self) -> None:
        """Set the sticky flag; trap if that was asked for."""
        self.accumulator_overflow = True
        if self.trap_on_overflow:
            raise TrapError(Trap.ACC_OVF, "acc", "a sum leaves the range of int32")

    def mark(self, tag: int) -> None:
        """Note that the present instruction is a mark."""
        if len(self.marks) < MAX_MARKS:
            self.marks.append((self.pc, tag))

    def read(self, access: Access, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The elements of an access, as a view that must not be written."""
        return self._memory(access).read(access, dtype)

    def write(self, access: Access, values: NDArray[Any], dtype: np.dtype[Any]) -> None:
        """Write the elements of an access."""
        self._memory(access).write(access, values, dtype)

    def step(self) -> Instruction:
        """Execute the instruction at pc.

        Raises:
            MachineTrap: it is not legal, or its execution traps; nothing has been written then.
        """
        if self.pc >= len(self.program.instructions):
            raise trap_at(self.program, self.pc - 1, TrapError(Trap.NO_HALT, "", "the stream has no halt"))
        instr = self.execute_at(self.pc, self)
        self.retire(self.pc)
        return instr

    def execute_at(self, pc: int, state: MachineState) -> Instruction:
        """Execute the instruction at an index upon a state: this machine, or one that defers its writes.

        Raises:
            MachineTrap: it is not legal, or its execution traps.
        """
        instr = self.program.instructions[pc]
        try:
            self._require_legal(pc, instr)
            instr.execute(state)
        except TrapError as error:
            raise trap_at(self.program, pc, error) from None
        return instr

    def retire(self, pc: int) -> None:
        """The instruction at an index has completed."""
        self.halted = self.program.instructions[pc].ends
        self.pc = pc + 1
        self.retired += 1

    def run(self, observer: Observer | None = None) -> None:
        """Execute to the halt; the observer sees every instruction after it has executed.

        Raises:
            MachineTrap: an instruction trapped.
        """
        with np.errstate(all="ignore"):  # overflow to infinity is part of the arithmetic
            while not self.halted:
                pc = self.pc
                instr = self.step()
                if observer is not None:
                    observer(pc, instr)

    def _require_legal(self, pc: int, instr: Instruction) -> None:
        """Static legality is checked the first time an instruction is executed."""
        if self._legal[pc]:
            return
        for fault in instruction_faults(instr, self.target, self.program.regions()):
            raise TrapError(fault.trap, fault.operand, fault.message)
        if instr.ends and pc != len(self.program.instructions) - 1:
            raise TrapError(Trap.NO_HALT, "", "halt is not the last instruction of the stream")
        self._legal[pc] = True

    def _memory(self, access: Access) -> Memory:
        if access.space is not Space.DRAM:
            return self.chip[access.space]
        if access.region not in self.dram:
            raise TrapError(Trap.DRAM_RANGE, access.operand, f"the program has no region {access.region}")
        return self.dram[access.region]
