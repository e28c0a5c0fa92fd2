"""Executes a program in some legal interleaving of its engines, chosen by a seed.

Dispatch is in order, queues have the depth of the target, every engine works through its queue in
order, and tokens are all that orders different engines. An instruction reads when it starts and
writes when it completes, with whatever other engines do in between: a program that races gives
other bytes in some interleaving, one that the checker accepts gives the same bytes in all.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.encoding import SEMAPHORES
from isa.faults import trap_at
from isa.program import Program
from isa.spec import Access, Engine, Instruction, Trap, TrapError
from runtime.executors.executor import Observer, execute_at, retire
from runtime.state import CoreState


class _Writes:
    """A state as an instruction in flight sees it: what it writes is kept until it completes."""

    def __init__(self, state: CoreState) -> None:
        self.state, self.target = state, state.target
        self.kept: list[tuple[Access, NDArray[Any], np.dtype[Any]]] = []

    def accumulators_overflow(self) -> None:
        """As the state does."""
        self.state.accumulators_overflow()

    def mark(self, tag: int) -> None:
        """As the state does."""
        self.state.mark(tag)

    def read(self, access: Access, dtype: np.dtype[Any]) -> NDArray[Any]:
        """What stands in memory when the instruction starts."""
        return self.state.read(access, dtype).copy()

    def write(self, access: Access, values: NDArray[Any], dtype: np.dtype[Any]) -> None:
        """Keep the values for later."""
        self.kept.append((access, np.array(values), dtype))

    def complete(self) -> None:
        """Let the writes reach memory."""
        for access, values, dtype in self.kept:
            self.state.write(access, values, dtype)


class InterleavedExecutor:
    """Executes engine by engine; the seed chooses among the moves that are possible."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def run(self, state: CoreState, observer: Observer | None = None) -> None:
        """Execute to the halt; the observer sees every instruction after it has completed.

        Raises:
            MachineTrap: an instruction trapped, or no engine can go on.
        """
        _Run(state, random.Random(self.seed), observer).run()


class _Run:
    """One run: the queues, the instructions in flight, and the semaphores."""

    def __init__(self, state: CoreState, choices: random.Random, observer: Observer | None) -> None:
        self.state, self.observer = state, observer
        self.random = choices
        self.program: Program = state.program
        self.semaphores = [0] * SEMAPHORES
        self.queues: dict[Engine, deque[int]] = {e: deque() for e in Engine if e is not Engine.CTL}
        self.in_flight: dict[Engine, tuple[int, _Writes]] = {}
        self.next = 0
        # Some runs hurry an engine, others hold it back: uniform choices would rarely let one run far ahead.
        self.eagerness = {e: self.random.choice((1, 4, 32)) for e in Engine}

    def run(self) -> None:
        with np.errstate(all="ignore"):
            while not self.state.halted:
                moves = self._moves()
                if not moves:
                    self._stuck()
                weights = [self.eagerness[engine] for engine, _ in moves]
                (_, move), *_ = self.random.choices(moves, weights)
                move()

    def _moves(self) -> list[tuple[Engine, Callable[[], None]]]:
        moves: list[tuple[Engine, Callable[[], None]]] = []
        if self.next < len(self.program.instructions) and self._dispatchable():
            moves.append((Engine.CTL, self._dispatch))
        for engine, queue in self.queues.items():
            if engine in self.in_flight:
                if self._has_room(self._instruction(self.in_flight[engine][0])):
                    moves.append((engine, lambda e=engine: self._complete(e)))
            elif queue and self._has_tokens(self._instruction(queue[0])):
                moves.append((engine, lambda e=engine: self._start(e)))
        return moves

    def _instruction(self, pc: int) -> Instruction:
        return self.program.instructions[pc]

    def _dispatchable(self) -> bool:
        instr = self._instruction(self.next)
        if instr.engine is not Engine.CTL:
            return len(self.queues[instr.engine]) < self.state.target.ctl.queue_depth
        idle = not self.in_flight and not any(self.queues.values())
        return self._has_tokens(instr) and self._has_room(instr) and (idle or not instr.is_barrier)

    def _has_tokens(self, instr: Instruction) -> bool:
        return all(self.semaphores[s] > 0 for s in instr.waits)

    def _has_room(self, instr: Instruction) -> bool:
        return all(self.semaphores[s] < self.state.target.ctl.sem_max for s in instr.signals)

    def _dispatch(self) -> None:
        """Put the next instruction into its queue; control runs at once."""
        pc, instr = self.next, self._instruction(self.next)
        self.next += 1
        if instr.engine is not Engine.CTL:
            self.queues[instr.engine].append(pc)
            return
        self._take(instr)
        self._finish(pc, self._execute(pc))

    def _start(self, engine: Engine) -> None:
        pc = self.queues[engine].popleft()
        self._take(self._instruction(pc))
        self.in_flight[engine] = (pc, self._execute(pc))

    def _complete(self, engine: Engine) -> None:
        self._finish(*self.in_flight.pop(engine))

    def _take(self, instr: Instruction) -> None:
        for semaphore in instr.waits:
            self.semaphores[semaphore] -= 1

    def _execute(self, pc: int) -> _Writes:
        writes = _Writes(self.state)
        execute_at(self.state, pc, writes)
        return writes

    def _finish(self, pc: int, writes: _Writes) -> None:
        try:
            writes.complete()
        except TrapError as error:
            raise trap_at(self.program, pc, error) from None
        instr = self._instruction(pc)
        for semaphore in instr.signals:
            self.semaphores[semaphore] += 1
        retire(self.state, pc)
        if self.observer is not None:
            self.observer(pc, instr)

    def _stuck(self) -> None:
        waiting = [queue[0] for queue in self.queues.values() if queue]
        pc = min([*waiting, *(pc for pc, _ in self.in_flight.values()), self.next])
        pc = min(pc, len(self.program.instructions) - 1)
        error = TrapError(Trap.SEM_UNDERFLOW, "", "no engine can go on: the program is deadlocked")
        raise trap_at(self.program, pc, error)
