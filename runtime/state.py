"""The architectural state of a device: its memories, the DRAM regions of a program, registers and flags.

It says what there is, not when it changes: that is for the executors (`runtime.executors`). Instructions see
it as `isa.spec.MachineState`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.checker.legality import suspects
from isa.memory_map import Region, Space, memory_name, memory_size
from isa.program import Program
from isa.spec import Access, Transfer, Trap, TrapError
from runtime.mailboxes import Mailboxes
from runtime.memory import CheckedMemory

MAX_MARKS: Final = 1 << 16


class CoreState:
    """One core with its memories, loaded with one program.

    Args:
        program: what to execute; its data is placed at every reset, and what its state region holds.
        poison: trap on reads of bytes that nothing has written.
        trap_on_overflow: trap where an accumulator leaves int32; else only the sticky flag is set.
        kept: what holds the state region between runs; cores may share it. A copy of the program's where
            there is none.
        mail: what is on its way between it and other devices.
    """

    def __init__(
        self,
        program: Program,
        *,
        poison: bool = False,
        trap_on_overflow: bool = False,
        kept: NDArray[np.uint8] | None = None,
        mail: Mailboxes | None = None,
    ) -> None:
        self.program = program
        self.device = program.device
        self._mail = mail or Mailboxes()
        self.target = program.target
        self.trap_on_overflow = trap_on_overflow
        self.accumulator_overflow = False
        self.marks: list[tuple[int, int]] = []
        """(instruction, tag) of the marks that have been passed."""
        self.pc = 0
        self.halted = False
        self.retired = 0
        self.chip = {
            s: CheckedMemory(memory_name(s, None), memory_size(self.target, s), poison=poison)
            for s in Space
            if s is not Space.DRAM
        }
        self.dram = {
            r: CheckedMemory(memory_name(Space.DRAM, r), n, poison=poison, writable=r.writable)
            for r, n in program.region_sizes().items()
        }
        self.kept = np.frombuffer(program.state, np.uint8).copy() if kept is None else kept
        """The state region as the last run that came to its halt left it."""
        self.reset()

    @cached_property
    def legal(self) -> list[bool]:
        """Which instructions are known to be legal: addresses are static, so that it is found in columns.

        The others, the halt, which stands in one place only, and transfers, which may have to wait, are
        judged as they are executed.
        """
        found = [not i.is_terminator and i.transfer() is None for i in self.program.instructions]
        for pc in suspects(self.program, self.program.accesses):
            found[pc] = False
        return found

    def reset(self) -> None:
        """The state before the first instruction: program data placed, all else undefined."""
        for memory in (*self.chip.values(), *self.dram.values()):
            memory.reset()
        for region, content in self.program.region_contents().items():
            if content:
                self.dram[region].preload(self.kept if region is Region.STATE else content)
        self.chip[Space.SREG].preload(bytes(4))  # s0 reads 0
        self.marks.clear()
        self.pc = self.retired = 0
        self.halted = self.accumulator_overflow = False

    def commit(self) -> None:
        """Keep what the state region holds: a run that does not come to its halt leaves no trace."""
        if self.kept.size:
            self.kept[:] = self.dram[Region.STATE].bytes

    def place(self, region: Region, offset: int, content: NDArray[np.uint8]) -> None:
        """Place input bytes into a DRAM region."""
        self.dram[region].preload(content, offset)

    def fetch(self, region: Region, offset: int, size: int) -> NDArray[np.uint8]:
        """Output bytes of a DRAM region, as a copy."""
        if not size:
            return np.zeros(0, np.uint8)
        return self.dram[region].bytes[offset : offset + size].copy()

    def accumulators_overflow(self) -> None:
        """Set the sticky flag; trap if that was asked for."""
        self.accumulator_overflow = True
        if self.trap_on_overflow:
            raise TrapError(Trap.ACC_OVF, "acc", "a sum leaves the range of int32")

    def other(self, transfer: Transfer) -> int:
        """The number of the device at the other side.

        Raises:
            TrapError: it is this one, or there is none of that number.
        """
        devices = self.program.devices
        if text := transfer.peer_fault(self.device, devices):
            raise TrapError(Trap.PEER, "peer", text)
        return transfer.other(self.device, devices)

    def has_arrived(self, transfer: Transfer) -> bool:
        """Whether a receiver can go on, be it to a trap."""
        devices = self.program.devices
        other = transfer.other(self.device, devices)
        fault = transfer.peer_fault(self.device, devices)
        return bool(fault) or self._mail.holds(other, self.device, transfer.channel)

    def send(self, transfer: Transfer, content: NDArray[np.uint8]) -> None:
        """Hand bytes over to the links."""
        self._mail.put(self.device, self.other(transfer), transfer, content)

    def receive(self, transfer: Transfer) -> NDArray[np.uint8]:
        """Take from the links what has arrived first."""
        return self._mail.take(self.other(transfer), self.device, transfer)

    def mark(self, tag: int) -> None:
        """Note that the present instruction is a mark."""
        if len(self.marks) < MAX_MARKS:
            self.marks.append((self.pc, tag))

    def read(self, access: Access, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The elements of an access, as a view that must not be written."""
        memory = self.chip[access.space] if access.region is None else self._region(access)
        return memory.read(access, dtype)

    def write(self, access: Access, values: NDArray[Any], dtype: np.dtype[Any]) -> None:
        """Write the elements of an access."""
        memory = self.chip[access.space] if access.region is None else self._region(access)
        memory.write(access, values, dtype)

    def _region(self, access: Access) -> CheckedMemory:
        if access.region is None or access.region not in self.dram:
            raise TrapError(Trap.DRAM_RANGE, access.operand, f"the program has no region {access.region}")
        return self.dram[access.region]
