"""What an executor is, and what executing one instruction means for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from isa.faults import trap_at
from isa.spec import Instruction, MachineState, Trap, TrapError
from isa.validate import instruction_faults
from runtime.state import CoreState

Observer = Callable[[int, Instruction], None]
"""Sees every instruction, and its index, after it has completed."""


class Executor(Protocol):
    """Runs the programs of all devices; in whatever order, it leaves what program order would."""

    def run(self, states: Sequence[CoreState], observers: Sequence[Observer] = ()) -> None:
        """Execute to the halt of every device; the states have been reset, and the inputs placed.

        Observers, if there are any, are one for each device.

        Raises:
            MachineTrap: an instruction trapped, or no engine can go on.
        """
        ...


def execute_at(state: CoreState, pc: int, upon: MachineState) -> Instruction:
    """Execute the instruction at an index upon a state: this one, or one that defers its writes.

    Raises:
        MachineTrap: it is not legal, or its execution traps; nothing has been written then.
    """
    instr = state.program.instructions[pc]
    try:
        _require_legal(state, pc, instr)
        instr.execute(upon)
    except TrapError as error:
        raise trap_at(state.program, pc, error) from None
    return instr


def retire(state: CoreState, pc: int) -> None:
    """The instruction at an index has completed."""
    state.halted = state.program.instructions[pc].is_terminator
    state.pc = pc + 1
    state.retired += 1


def observer_of(observers: Sequence[Observer], device: int) -> Observer | None:
    """What observes a device, if anything does."""
    return observers[device] if observers else None


def commit(states: Sequence[CoreState]) -> None:
    """Keep the state regions: all devices have come to their halts."""
    for state in states:
        state.commit()


def _require_legal(state: CoreState, pc: int, instr: Instruction) -> None:
    """An instruction that is not known to be legal is judged whenever it is executed."""
    if state.legal[pc]:
        return
    for fault in instruction_faults(instr, state.target, state.program.region_sizes()):
        raise TrapError(fault.trap, fault.operand, fault.message)
    if instr.is_terminator and pc != len(state.program.instructions) - 1:
        raise TrapError(Trap.NO_HALT, "", "halt is not the last instruction of the stream")
