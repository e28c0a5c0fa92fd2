"""Rules R1 to R4 for semaphores, and what happens before what: docs/isa/machine.md states both."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isa.checker.report import Violations
from isa.spec import Engine, Instruction, Trap
from isa.target import Target

ENGINES: Final = len(Engine)
Matches = dict[int, list[int]]
"""For instructions that wait: those whose signals they take."""
Clocks = NDArray[np.int32]
"""For every instruction and engine: the engine's last instruction that happens before it, or -1.

Its own entry is the instruction itself.
"""


def check_tokens(stream: Sequence[Instruction], target: Target, findings: Violations) -> Matches:
    """Rules R1 to R4 by one scan; the k-th wait of a semaphore takes its k-th signal."""
    producer: dict[int, Engine] = {}
    consumer: dict[int, Engine] = {}
    pending: dict[int, deque[int]] = {}
    matches: Matches = {}
    for pc, instr in enumerate(stream):
        for semaphore in instr.waits:
            _check_owner(consumer, semaphore, pc, instr, "waited for", findings)
            queue = pending.get(semaphore)
            if queue:
                matches.setdefault(pc, []).append(queue.popleft())
            else:
                text = f"waits for semaphore {semaphore}, which no earlier signal has raised"
                findings.add(Trap.SEM_UNDERFLOW, pc, text)
        for semaphore in instr.signals:
            _check_owner(producer, semaphore, pc, instr, "signalled", findings)
            queue = pending.setdefault(semaphore, deque())
            queue.append(pc)
            if len(queue) > target.ctl.sem_max:
                text = f"raises semaphore {semaphore} above {target.ctl.sem_max}"
                findings.add(Trap.SEM_OVERFLOW, pc, text)
        if findings.full:
            return matches
    for semaphore, queue in sorted(pending.items()):
        if queue:
            findings.add(Trap.SEM_LEFT, queue[0], f"semaphore {semaphore} is {len(queue)} at the end")
    return matches


def happens_before(stream: Sequence[Instruction], matches: Matches) -> Clocks:
    """The vector clocks of a stream whose tokens are in order."""
    clocks: list[list[int]] = []
    latest = [[-1] * ENGINES for _ in Engine]
    control = -1  # dispatch waits for control: what is before it is before every later instruction
    caught_up = [-1] * ENGINES
    for pc, instr in enumerate(stream):
        engine = instr.engine
        if instr.is_barrier:
            clock = [own[e] for e, own in enumerate(latest)]
        else:
            clock = latest[engine].copy()
            for signaller in matches.get(pc, ()):
                clock = list(map(max, clock, clocks[signaller]))
            if caught_up[engine] != control:
                clock = list(map(max, clock, clocks[control]))
                caught_up[engine] = control
        clock[engine] = pc
        clocks.append(clock)
        latest[engine] = clock
        if engine is Engine.CTL:
            control = caught_up[engine] = pc
    return np.array(clocks, np.int32).reshape(-1, ENGINES)


def _check_owner(
    owners: dict[int, Engine], semaphore: int, pc: int, instr: Instruction, verb: str, findings: Violations
) -> None:
    owner = owners.setdefault(semaphore, instr.engine)
    if owner is not instr.engine:
        text = f"semaphore {semaphore} is {verb} by {owner.name} and {instr.engine.name}"
        findings.add(Trap.SEM_OWNER, pc, text)
