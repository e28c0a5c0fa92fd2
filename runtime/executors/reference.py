"""The reference executor: one instruction after another.

Program order is the meaning of a program: queues and semaphores change when things happen, never
what is computed, so this executor ignores them; the checker proves that they may be ignored.
"""

from __future__ import annotations

import numpy as np

from isa.faults import trap_at
from isa.spec import Instruction, Trap, TrapError
from runtime.executors.executor import Observer, execute_at, retire
from runtime.state import CoreState


class ReferenceExecutor:
    """Executes in program order, by the declared meaning of every instruction."""

    def run(self, state: CoreState, observer: Observer | None = None) -> None:
        """Execute to the halt; the observer sees every instruction after it has executed.

        Raises:
            MachineTrap: an instruction trapped.
        """
        instructions, legal = state.program.instructions, state.legal
        with np.errstate(all="ignore"):  # overflow to infinity is part of the arithmetic
            while not state.halted:
                pc = state.pc
                if pc < len(legal) and legal[pc]:  # as `step`, sooner
                    try:
                        instructions[pc].execute(state)
                    except TrapError as error:
                        raise trap_at(state.program, pc, error) from None
                    state.pc = pc + 1
                    state.retired += 1
                else:
                    step(state)
                if observer is not None:
                    observer(pc, instructions[pc])


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
