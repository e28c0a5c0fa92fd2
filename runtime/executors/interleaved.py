"""Executes a program in some legal interleaving of its engines, chosen by a seed.

Dispatch is in order, queues have the depth of the target, every engine works through its queue in
order, and tokens are all that orders different engines. An instruction reads when it starts and
writes when it completes, with whatever other engines do in between: a program that races gives
other bytes in some interleaving, one that the checker accepts gives the same bytes in all. Both sides of
a transfer start together, when both stand at the heads of their engines.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.encoding import SEMAPHORES
from isa.faults import MachineTrap, trap_at
from isa.program import Program
from isa.spec import Access, Engine, Instruction, Transfer, Trap, TrapError
from isa.waiting import Blocked, deadlock
from runtime.executors.executor import Observer, commit, execute_at, observer_of, retire
from runtime.state import CoreState

Move = tuple[int, Callable[[], None]]
"""How likely something is to happen next, and what."""


class _Writes:
    """A state as an instruction in flight sees it: what it writes is kept until it completes."""

    def __init__(self, state: CoreState) -> None:
        self.state, self.target, self.device = state, state.target, state.device
        self.kept: list[tuple[Access, NDArray[Any], np.dtype[Any]]] = []

    def accumulators_overflow(self) -> None:
        """As the state does."""
        self.state.accumulators_overflow()

    def mark(self, tag: int) -> None:
        """As the state does."""
        self.state.mark(tag)

    def send(self, transfer: Transfer, content: NDArray[np.uint8]) -> None:
        """As the state does."""
        self.state.send(transfer, content)

    def receive(self, transfer: Transfer) -> NDArray[np.uint8]:
        """As the state does."""
        return self.state.receive(transfer)

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
    """Executes engine by engine, device by device; the seed chooses among the moves that are possible."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def run(self, states: Sequence[CoreState], observers: Sequence[Observer] = ()) -> None:
        """Execute to the halts; an observer sees every instruction after it has completed.

        Raises:
            MachineTrap: an instruction trapped, or no engine can go on.
        """
        choices = random.Random(self.seed)
        cores = [_Core(state, choices, observer_of(observers, state.device)) for state in states]
        with np.errstate(all="ignore"):
            while not all(core.state.halted for core in cores):
                moves = [move for core in cores for move in core.moves(cores)]
                if not moves:
                    raise _stuck(cores)
                (_, move), *_ = choices.choices(moves, [weight for weight, _ in moves])
                move()
        commit(states)


class _Core:
    """A device: its queues, the instructions in flight, and the semaphores."""

    def __init__(self, state: CoreState, choices: random.Random, observer: Observer | None) -> None:
        self.state, self.observer = state, observer
        self.program: Program = state.program
        self.semaphores = [0] * SEMAPHORES
        self.queues: dict[Engine, deque[int]] = {e: deque() for e in Engine if e is not Engine.CTL}
        self.in_flight: dict[Engine, tuple[int, _Writes]] = {}
        self.next = 0
        # Some runs hurry an engine, others hold it back: uniform choices would rarely let one run far ahead.
        self.eagerness = {e: choices.choice((1, 4, 32)) for e in Engine}

    def moves(self, cores: Sequence[_Core]) -> Iterator[Move]:
        """What may happen next, and how likely; a transfer is a move of the sender."""
        if self.next < len(self.program.instructions) and self._dispatchable():
            yield self.eagerness[Engine.CTL], self._dispatch
        for engine, queue in self.queues.items():
            if engine in self.in_flight:
                if self._has_room(self.instruction(self.in_flight[engine][0])):
                    yield self.eagerness[engine], lambda e=engine: self._complete(e)
            elif queue and self.has_tokens(self.instruction(queue[0])):
                transfer = self.instruction(queue[0]).transfer()
                if transfer is None:
                    yield self.eagerness[engine], lambda e=engine: self._start(e)
                elif transfer.sends:
                    receiver = self._receiver(transfer, queue[0], cores)
                    if receiver is not None:
                        yield self.eagerness[engine], lambda r=receiver: self._transfer(r)

    def instruction(self, pc: int) -> Instruction:
        """The instruction at an index."""
        return self.program.instructions[pc]

    def waiting_transfer(self) -> Transfer | None:
        """What stands at the head of the receiving engine, if it is free and has its tokens."""
        queue = self.queues[Engine.RX]
        if Engine.RX in self.in_flight or not queue or not self.has_tokens(self.instruction(queue[0])):
            return None
        return self.instruction(queue[0]).transfer()

    def _receiver(self, transfer: Transfer, pc: int, cores: Sequence[_Core]) -> _Core | None:
        """The device that is ready to receive what stands at the head of the sending engine."""
        try:
            receiver = cores[self.state.other(transfer)]
        except TrapError as error:
            raise trap_at(self.program, pc, error) from None
        theirs = receiver.waiting_transfer()
        if theirs is None or theirs.channel != transfer.channel:
            return None
        source = theirs.other(receiver.state.device, len(cores))
        return receiver if source == self.state.device else None

    def _dispatchable(self) -> bool:
        instr = self.instruction(self.next)
        if instr.engine is not Engine.CTL:
            return len(self.queues[instr.engine]) < self.state.target.ctl.queue_depth
        idle = not self.in_flight and not any(self.queues.values())
        return self.has_tokens(instr) and self._has_room(instr) and (idle or not instr.is_barrier)

    def has_tokens(self, instr: Instruction) -> bool:
        """Whether what an instruction waits for has been signalled."""
        return all(self.semaphores[s] > 0 for s in instr.waits)

    def _has_room(self, instr: Instruction) -> bool:
        return all(self.semaphores[s] < self.state.target.ctl.sem_max for s in instr.signals)

    def _dispatch(self) -> None:
        """Put the next instruction into its queue; control runs at once."""
        pc, instr = self.next, self.instruction(self.next)
        self.next += 1
        if instr.engine is not Engine.CTL:
            self.queues[instr.engine].append(pc)
            return
        self._take(instr)
        self._finish(pc, self._execute(pc))

    def _start(self, engine: Engine) -> None:
        pc = self.queues[engine].popleft()
        self._take(self.instruction(pc))
        self.in_flight[engine] = (pc, self._execute(pc))

    def _transfer(self, receiver: _Core) -> None:
        """Both sides start."""
        self._start(Engine.TX)
        receiver._start(Engine.RX)

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
        instr = self.instruction(pc)
        for semaphore in instr.signals:
            self.semaphores[semaphore] += 1
        retire(self.state, pc)
        if self.observer is not None:
            self.observer(pc, instr)

    def stuck_at(self) -> int:
        """The first instruction that cannot go on."""
        waiting = [queue[0] for queue in self.queues.values() if queue]
        pc = min([*waiting, *(pc for pc, _ in self.in_flight.values()), self.next])
        return min(pc, len(self.program.instructions) - 1)

    def blocked(self) -> Blocked | None:
        """The first transfer that waits for another device."""
        for engine in (Engine.RX, Engine.TX):
            queue = self.queues[engine]
            if queue and self.instruction(queue[0]).transfer() is not None:
                return Blocked(self.program, queue[0])
        return None


def _stuck(cores: Sequence[_Core]) -> MachineTrap:
    """The trap of a run in which nothing can go on."""
    waiting = {core.state.device: blocked for core in cores if (blocked := core.blocked()) is not None}
    if waiting:
        return deadlock(waiting)
    core = next(core for core in cores if not core.state.halted)
    error = TrapError(Trap.SEM_UNDERFLOW, "", "no engine can go on: the program is deadlocked")
    return trap_at(core.program, core.stuck_at(), error)
