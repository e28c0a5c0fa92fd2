"""A second cycle model, one cycle after another, as the documentation of the first describes it.

Nothing is shared with isa/timing/model.py but the declarations; nothing is clever.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

from isa.memory_map import Space
from isa.program import Program
from isa.spec import Access, Engine, Instruction
from isa.target import Target

QUEUED = (Engine.MX, Engine.VX, Engine.LD, Engine.ST, Engine.TX, Engine.RX)
LIMIT = 400_000


def runs_of(access: Access) -> list[tuple[int, int]]:
    """(first byte, bytes) of the runs of an access: a row that continues the row before is part of it."""
    *outer, (size, _) = access.dims
    rows = [
        access.base + sum(i * p for i, (_, p) in zip(index, outer, strict=True))
        for index in itertools.product(*(range(n) for n, _ in outer))
    ]
    levels = [(n, p) for n, p in outer if n > 1]
    whole = size
    while levels and levels[-1][1] == whole:
        whole *= levels.pop()[0]
    return [(rows[i], whole) for i in range(0, len(rows), whole // size)]


def bank_words(instr: Instruction, t: Target) -> dict[tuple[Space, int], int]:
    """Port words that an instruction moves at every bank."""
    words: dict[tuple[Space, int], int] = {}
    for access in instr.accesses(t):
        if access.space not in (Space.SPM, Space.ACC):
            continue
        for first, size in runs_of(access):
            for key, count in words_of_run(access.space, first, size, t).items():
                words[key] = words.get(key, 0) + count
    return words


def words_of_run(space: Space, first: int, size: int, t: Target) -> dict[tuple[Space, int], int]:
    """Port words of one run at every bank, byte by byte."""
    found: dict[tuple[Space, int], set[tuple[int, int]]] = {}
    if space is Space.ACC:
        port, capacity = 4 * max(t.mx.cols, t.vx.lanes), -(-t.acc.rows // t.acc.banks) * t.mx.cols * 4
        for byte in range(first, first + size):
            bank = byte // capacity
            start = max(first, bank * capacity)
            found.setdefault((space, bank), set()).add((0, (byte - start) // port))
    elif t.spm.interleave:
        for byte in range(first, first + size):
            word = byte // t.spm.port_bytes
            found.setdefault((space, word % t.spm.banks), set()).add((1, word))
    else:
        capacity = -(-t.spm.bytes // t.spm.banks)
        for byte in range(first, first + size):
            bank = byte // capacity
            start = max(first, bank * capacity)
            found.setdefault((space, bank), set()).add((2, (byte - start) // t.spm.port_bytes))
    return {key: len(words) for key, words in found.items()}


class Stepped:
    """The state of every engine, advanced cycle by cycle."""

    def __init__(self, program: Program) -> None:
        self.t = program.target
        self.stream = program.instructions
        self.words = [bank_words(i, self.t) for i in self.stream]
        self.uses_bus = [any(a.space is Space.DRAM for a in i.accesses(self.t)) for i in self.stream]
        self.queue: dict[Engine, list[int]] = {e: [] for e in Engine}
        self.running: dict[Engine, int | None] = dict.fromkeys(Engine)
        self.leaving: dict[Engine, list[tuple[int, int]]] = {e: [] for e in Engine}
        self.ready: dict[Engine, int | None] = dict.fromkeys(Engine)
        self.level = [0] * self.t.ctl.sems
        self.start: dict[int, int] = {}
        self.end: dict[int, int] = {}
        self.coming: tuple[int, int] | None = None
        self.pc = 0
        self.changes = 0

    def run(self) -> int:
        """The number of cycles."""
        now = 0
        while not self.done():
            self.cycle(now)
            now += 1
            assert now < LIMIT, "no progress"
        return now - 1

    def done(self) -> bool:
        idle = all(not self.queue[e] and self.running[e] is None and not self.leaving[e] for e in Engine)
        return self.pc == len(self.stream) and idle and self.coming is None

    def cycle(self, now: int) -> None:
        if self.coming is not None and self.coming[0] == now:
            pc = self.coming[1]
            self.queue[self.stream[pc].engine].append(pc)
            self.coming = None
        while True:
            before = self.changes
            self.release(now)
            self.retire(now)
            self.begin(now)
            if self.changes == before:
                break
        self.dispatch(now)

    def release(self, now: int) -> None:
        for engine, pc in self.running.items():
            if pc is not None and self.end[pc] == now:
                self.running[engine] = None
                self.changes += 1
                self.leaving[engine].append((now + self.stream[pc].latency(self.t), pc))

    def retire(self, now: int) -> None:
        before = -1
        while self.changes != before:
            before = self.changes
            for waiting in self.leaving.values():
                if waiting and waiting[0][0] <= now:
                    signals = self.stream[waiting[0][1]].signals
                    if all(self.level[s] < self.t.ctl.sem_max for s in signals):
                        waiting.pop(0)
                        self.changes += 1
                        for s in signals:
                            self.level[s] += 1

    def begin(self, now: int) -> None:
        for engine in QUEUED:
            queue = self.queue[engine]
            able = self.running[engine] is None and bool(queue)
            signalled = able and all(self.level[s] for s in self.stream[queue[0]].waits)
            if signalled and self.ready[engine] is None:
                self.ready[engine] = now
        for engine in QUEUED:
            since = self.ready[engine]
            if since is None:
                continue
            pc = self.queue[engine][0]
            if self.uses_bus[pc] and not self.granted(engine, since):
                continue
            self.queue[engine].pop(0)
            self.changes += 1
            self.ready[engine] = None
            for s in self.stream[pc].waits:
                self.level[s] -= 1
            self.running[engine], self.start[pc] = pc, now
            beats = max(self.words[pc].values(), default=0)
            self.end[pc] = now + max(self.stream[pc].cycles(self.t), self.t.ctl.issue + beats)
            self.collide(engine, pc, now)

    def granted(self, engine: Engine, since: int) -> bool:
        for other in QUEUED:
            running = self.running[other]
            if running is not None and self.uses_bus[running]:
                return False
            rival = self.ready[other]
            if (
                other is not engine
                and rival is not None
                and self.uses_bus[self.queue[other][0]]
                and rival < since
            ):
                return False
        return True

    def collide(self, engine: Engine, pc: int, now: int) -> None:
        for other in QUEUED:
            running = self.running[other]
            if other is engine or running is None:
                continue
            share = Fraction(self.end[running] - now, self.end[running] - self.start[running])
            lost = 0
            for bank, mine in self.words[pc].items():
                theirs = int(self.words[running].get(bank, 0) * share)
                lost += min(mine, theirs)
            loser = pc if QUEUED.index(other) < QUEUED.index(engine) else running
            self.end[loser] += lost

    def dispatch(self, now: int) -> None:
        if self.pc == len(self.stream) or self.coming is not None:
            return
        if self.running[Engine.CTL] is not None:
            return
        instr = self.stream[self.pc]
        if instr.engine is not Engine.CTL:
            if len(self.queue[instr.engine]) < self.t.ctl.queue_depth:
                self.coming = now + self.t.ctl.dispatch, self.pc
                self.pc += 1
            return
        idle = all(not self.queue[e] and self.running[e] is None and not self.leaving[e] for e in Engine)
        if self.leaving[Engine.CTL] or not all(self.level[s] for s in instr.waits):
            return
        if instr.is_barrier and not idle:
            return
        for s in instr.waits:
            self.level[s] -= 1
        self.running[Engine.CTL], self.start[self.pc] = self.pc, now
        self.end[self.pc] = now + max(instr.cycles(self.t), self.t.ctl.dispatch)
        self.pc += 1
