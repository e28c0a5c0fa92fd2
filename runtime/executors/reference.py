"""The reference executor: one instruction after another, one device after another.

Program order is the meaning of a program: queues and semaphores change when things happen, never
what is computed, so this executor ignores them; the checker proves that they may be ignored. A device
goes on until it receives what has not been sent: then the next one does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isa.faults import trap_at
from isa.spec import Instruction, Trap, TrapError
from isa.waiting import Blocked, deadlock
from runtime.executors.executor import Observer, commit, execute_at, observer_of, retire
from runtime.state import CoreState


class ReferenceExecutor:
    """Executes in program order, by the declared meaning of every instruction."""

    def run(self, states: Sequence[CoreState], observers: Sequence[Observer] = ()) -> None:
        """Execute to the halts; an observer sees every instruction after it has executed.

        Raises:
            MachineTrap: an instruction trapped, or every device waits for another.
        """
        with np.errstate(all="ignore"):  # overflow to infinity is part of the arithmetic
            while running := [state for state in states if not state.halted]:
                moved = [advance(state, observer_of(observers, state.device)) for state in running]
                if not any(moved):
                    raise deadlock({s.device: Blocked(s.program, s.pc) for s in running})
        commit(states)


def advance(state: CoreState, observer: Observer | None = None) -> bool:
    """Execute until the device halts or has to wait for another; whether anything was executed.

    Raises:
        MachineTrap: an instruction trapped.
    """
    instructions, legal, begin = state.program.instructions, state.legal, state.retired
    while not state.halted:
        pc = state.pc
        if pc < len(legal) and legal[pc]:  # as `step`, sooner
            try:
                instructions[pc].execute(state)
            except TrapError as error:
                raise trap_at(state.program, pc, error) from None
            state.pc = pc + 1
            state.retired += 1
        elif waits(state):
            break
        else:
            step(state)
        if observer is not None:
            observer(pc, instructions[pc])
    return state.retired > begin


def waits(state: CoreState) -> bool:
    """Whether the next instruction receives what has not arrived."""
    if state.pc >= len(state.program.instructions):
        return False
    transfer = state.program.instructions[state.pc].transfer()
    return transfer is not None and not transfer.sends and not state.has_arrived(transfer)


def step(state: CoreState) -> Instruction:
    """Execute the instruction at pc.

    Raises:
        MachineTrap: it is not legal, or its execution traps; nothing has been written then.
    """
    if state.pc >= len(state.program.instructions):
        raise trap_at(state.program, state.pc - 1, TrapError(Trap.NO_HALT, "", "the stream has no halt"))
    instr = execute_at(state, state.pc, state)
    retire(state, state.pc)
    return instr
