"""The cycle model: when every instruction of a program executes, from its words alone.

A discrete-event simulation of one core with the costs that the instructions declare (`cycles`,
`latency`, `accesses`) and the resources of the target: dispatch in order, a queue of finite depth for
every engine, semaphores, one DRAM bus, single-ported banks. Cycles are whole numbers; no data is needed.

Within a cycle, until nothing changes: engines whose time is over become free; what has completed
retires, in order, and signals; free engines start the heads of their queues, MX first, then VX, LD, ST, NX.
Then one instruction may be dispatched.

* An instruction occupies its engine for its declared cycles, or longer where one bank has more beats of
  it (`isa.timing.banks`). It has completed when that and its latency are over and all before it on
  its engine have. Its signals wait, and what completes after it with them, while a semaphore is full.
* A copy to or from DRAM holds the bus while it occupies its engine; the bus goes to what has been ready
  longest, to LD where two have been so equally long.
* Where two instructions run at the same time and share banks, the one of the lower priority (MX > VX > LD
  > ST > NX) takes longer: for each bank by the smaller of the beats that the two have left there. What
  is left falls evenly over the time of an instruction, rounded down.
* Control instructions run at dispatch and hold it for their cycles, and no less than any other does.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from isa.accesses import AccessTable
from isa.checker.legality import suspects
from isa.faults import trap_at
from isa.memory_map import Space
from isa.program import Program
from isa.spec import Access, Engine, Instruction, Trap, TrapError
from isa.support.records import Frozen, Struct, field
from isa.target import Target
from isa.timing.banks import bank_beats
from isa.validate import instruction_faults

PRIORITY: Final = (Engine.MX, Engine.VX, Engine.LD, Engine.ST, Engine.NX)
"""Engines with queues, in the order in which they start, and win shared banks."""
RANK: Final = {engine: rank for rank, engine in enumerate(PRIORITY)}
NAMES: Final = tuple(engine.name for engine in Engine)
CTL: Final = int(Engine.CTL)
NOTHING: Final = -1
EVENT_BITS: Final = 3
EVENT_MASK: Final = (1 << EVENT_BITS) - 1
BANK: Final = "bank"
"""The cause of cycles that a shared bank adds."""
BUS: Final = "bus"
EMPTY: Final = "empty"
"""The cause of cycles in which an engine has no instruction: none has been dispatched, or none is left."""


class Costs(Frozen):
    """What the cycle model knows of a stream, one entry per instruction."""

    engine: list[int]
    cycles: list[int]
    latency: list[int]
    bus: list[bool]
    beats: list[dict[int, int]]
    """Beats by bank."""
    moved: list[tuple[int, int]]
    """Bytes of DRAM read and written."""
    macs: list[int]


class Timeline(Frozen):
    """When everything happened.

    Instruction k occupied its engine from `start[k]` to before `end[k]`, of which `waited[k]` cycles came
    from shared banks. `stalls` gives the cycles in which an engine did no work, by cause: the engine that
    it waited for a signal of, `bus`, `bank`, `empty`.
    """

    cycles: int
    start: list[int]
    end: list[int]
    waited: list[int]
    stalls: dict[Engine, dict[str, int]]
    costs: Costs

    def __repr__(self) -> str:
        return f"<Timeline: {len(self.start)} instructions in {self.cycles:,} cycles>"

    def busy(self, engine: Engine, among: Iterable[int] | None = None) -> int:
        """Cycles in which an engine worked (on some instructions), those lost to shared banks left out."""
        return sum(
            self.end[k] - self.start[k] - self.waited[k]
            for k in (range(len(self.start)) if among is None else among)
            if self.costs.engine[k] == engine
        )

    def bus_busy(self, among: Iterable[int]) -> int:
        """Cycles in which some of the instructions held the DRAM bus."""
        return sum(self.end[k] - self.start[k] for k in among if self.costs.bus[k])


def costs_of(program: Program) -> Costs:
    """The declared costs of a program.

    Raises:
        MachineTrap: an instruction is not legal on the target.
    """
    t, stream = program.target, program.instructions
    table = program.accesses
    for pc in suspects(program, table):
        for fault in instruction_faults(stream[pc], t, program.region_sizes()):
            raise trap_at(program, pc, TrapError(fault.trap, fault.operand, fault.message))
    beats = bank_beats(table, t)
    most = beats.max(axis=1, initial=0).tolist()
    rows, banks = np.nonzero(beats)
    by_bank: list[dict[int, int]] = [{} for _ in stream]
    for row, bank, count in zip(rows.tolist(), banks.tolist(), beats[rows, banks].tolist(), strict=True):
        by_bank[row][bank] = count
    numbers: list[int] = table.form.tolist()
    moved = [_moved(form.accesses) for form in table.forms]
    macs = [form.example.macs() for form in table.forms]
    return Costs(
        [int(i.engine) for i in stream],
        [max(n, t.ctl.issue + m) for n, m in zip(_declared(stream, table, t), most, strict=True)],
        [i.latency(t) for i in stream],
        [moved[number] != (0, 0) for number in numbers],
        by_bank,
        [moved[number] for number in numbers],
        [macs[number] for number in numbers],
    )


def _moved(accesses: Sequence[Access]) -> tuple[int, int]:
    """Bytes of DRAM that accesses read and write."""
    moved = [0, 0]
    for access in accesses:
        if access.space is Space.DRAM:
            moved[access.write] += access.size()
    return moved[0], moved[1]


def _declared(stream: Sequence[Instruction], table: AccessTable, t: Target) -> Iterator[int]:
    """The declared cycles: an address changes them only by its place within a burst."""
    known: dict[tuple[int, ...], int] = {}
    within = (table.places % t.dma.burst).tolist()
    bounds = [*table.first_place.tolist(), len(within)]
    for pc, (instr, form) in enumerate(zip(stream, table.form.tolist(), strict=True)):
        key = (form, *within[bounds[pc] : bounds[pc + 1]])
        if key not in known:
            known[key] = instr.cycles(t)
        yield known[key]


def simulate(program: Program) -> Timeline:
    """Run a program in the cycle model.

    Raises:
        MachineTrap: an instruction is not legal, or no engine can go on.
    """
    return _Core(program, costs_of(program)).run()


class _Unit(Struct):
    """An engine: what waits for it, what it executes, what has left it and not retired."""

    engine: Engine
    queue: deque[int] = field(default_factory=deque[int])
    running: int = NOTHING
    in_flight: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    """(when it has completed, instruction)."""
    retired: int = 0
    """When the last one completed: later ones do not before it."""
    free_since: int = 0
    ready_since: int = NOTHING
    signalled_by: int = NOTHING
    """The engine whose signal the head waited for last."""

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do and nothing to complete."""
        return self.running == NOTHING and not self.queue and not self.in_flight


def _rank(unit: _Unit) -> int:
    return RANK[unit.engine]


def _ready_since(unit: _Unit) -> int:
    return unit.ready_since


class _Core:
    """One simulation; an event is a cycle, and the engine that something happens to."""

    def __init__(self, program: Program, costs: Costs) -> None:
        self.program, self.costs = program, costs
        self.cycles, self.latency, self.bus, self.beats = costs.cycles, costs.latency, costs.bus, costs.beats
        self.stream, self.ctl = program.instructions, program.target.ctl
        self.waits = [i.waits for i in self.stream]
        self.signals = [i.signals for i in self.stream]
        count = len(self.stream)
        self.start, self.end, self.waited = [0] * count, [0] * count, [0] * count
        self.arrived = [0] * count
        self.units = [_Unit(e) for e in Engine]
        self.order = [self.units[engine] for engine in PRIORITY]
        self.semaphores = [0] * self.ctl.sems
        self.signaller = [NOTHING] * self.ctl.sems
        self.waiting: list[_Unit | None] = [None] * self.ctl.sems
        """Whose head waits for a semaphore."""
        self.woken: list[_Unit] = []
        """Engines that a signal has come for."""
        self.ready: list[_Unit] = []
        """Free engines whose heads have their signals."""
        self.held: list[_Unit] = []
        """Engines whose signals have no room."""
        self.next = 0
        self.depth = self.ctl.queue_depth
        self.full: _Unit | None = None
        """Whose queue has no room for the next instruction; None where it may be another reason."""
        self.dispatched = 0
        """When the next instruction can be dispatched."""
        self.bus_free = 0
        self.events: list[int] = []
        self.stalls: dict[Engine, dict[str, int]] = {e: {} for e in PRIORITY}

    def run(self) -> Timeline:
        now, events = 0, self.events
        self._dispatch(now)
        while events:
            now = events[0] >> EVENT_BITS
            later = now + 1 << EVENT_BITS
            units: list[_Unit] = []
            while events and events[0] < later:
                units.append(self.units[heapq.heappop(events) & EVENT_MASK])
            self._cycle(now, units)
        if self.next < len(self.stream) or not all(u.idle for u in self.units):
            self._stuck()
        for unit in self.order:
            if now > unit.free_since:
                self._record_stall(unit.engine, EMPTY, now - unit.free_since)
        return Timeline(now, self.start, self.end, self.waited, self.stalls, self.costs)

    def _at(self, when: int, engine: int) -> None:
        heapq.heappush(self.events, when << EVENT_BITS | engine)

    def _cycle(self, now: int, units: list[_Unit]) -> None:
        """Everything that happens in a cycle in which something may happen to these engines."""
        for unit in units:
            running = unit.running
            if running != NOTHING and self.end[running] <= now:
                unit.running, unit.free_since = NOTHING, now
                unit.retired = max(unit.retired, now + self.latency[running])
                unit.in_flight.append((unit.retired, running))
                if unit.retired > now:
                    self._at(unit.retired, unit.engine)
            if unit.in_flight and unit.in_flight[0][0] <= now:
                self._retire(unit, now)
        while True:
            if self.woken:
                units, self.woken = [*units, *self.woken], []
            self._find_ready(units, now)
            if not self.ready or not self._start_ready(now) or not self.held:
                break
            units, self.held = self.held, []
            for unit in units:
                self._retire(unit, now)
        if self.full is None or len(self.full.queue) < self.depth:
            self._dispatch(now)

    def _retire(self, unit: _Unit, now: int) -> None:
        """Complete, in order, what can be."""
        while unit.in_flight and unit.in_flight[0][0] <= now:
            signals = self.signals[unit.in_flight[0][1]]
            for semaphore in signals:
                if self.semaphores[semaphore] >= self.ctl.sem_max:
                    if unit not in self.held:
                        self.held.append(unit)
                    return
            for semaphore in signals:
                self.semaphores[semaphore] += 1
                self.signaller[semaphore] = unit.engine
                waiting = self.waiting[semaphore]
                if waiting is not None:
                    self.woken.append(waiting)
            unit.in_flight.popleft()

    def _find_ready(self, units: list[_Unit], now: int) -> None:
        """Which heads of these engines have become ready."""
        for unit in units:
            if unit.running != NOTHING or unit.ready_since != NOTHING or not unit.queue:
                continue
            pc = unit.queue[0]
            if self.arrived[pc] > now:
                self._at(self.arrived[pc], unit.engine)
                continue
            waits = self.waits[pc]
            for semaphore in waits:
                if self.semaphores[semaphore] < 1:
                    self.waiting[semaphore] = unit
                    break
            else:
                unit.ready_since = now
                unit.signalled_by = self.signaller[waits[-1]] if waits else NOTHING
                self.ready.append(unit)

    def _start_ready(self, now: int) -> bool:
        """Start what is ready and needs no bus, or gets it."""
        if len(self.ready) == 1:
            (unit,) = self.ready
            if self.bus_free > now and self.bus[unit.queue[0]]:
                return False
            self.ready.clear()
            self._start(unit, now)
            return True
        self.ready.sort(key=_rank)
        starting = [unit for unit in self.ready if not self.bus[unit.queue[0]]]
        if self.bus_free <= now and len(starting) < len(self.ready):
            copies = [unit for unit in self.ready if unit not in starting]
            starting.append(min(copies, key=_ready_since))
            starting.sort(key=_rank)
        for unit in starting:
            self.ready.remove(unit)
            self._start(unit, now)
        return bool(starting)

    def _start(self, unit: _Unit, now: int) -> None:
        pc = unit.queue.popleft()
        for semaphore in self.waits[pc]:
            self.semaphores[semaphore] -= 1
        self._account(unit, pc, now)
        unit.running, unit.ready_since = pc, NOTHING
        self.start[pc], self.end[pc] = now, now + self.cycles[pc]
        if self.beats[pc]:
            self._share_banks(unit, pc, now)
        self._at(self.end[pc], unit.engine)
        if self.bus[pc]:
            self.bus_free = self.end[pc]

    def _account(self, unit: _Unit, pc: int, now: int) -> None:
        """Why the engine was idle until now: nothing had come, a signal was missing, the bus was held."""
        free = unit.free_since
        if free == now:
            return
        came = max(free, min(self.arrived[pc], now))
        ready = max(came, unit.ready_since)
        if came > free:
            self._record_stall(unit.engine, EMPTY, came - free)
        if ready > came:
            assert unit.signalled_by != NOTHING
            self._record_stall(unit.engine, NAMES[unit.signalled_by], ready - came)
        if now > ready:
            self._record_stall(unit.engine, BUS, now - ready)

    def _record_stall(self, engine: Engine, cause: str, cycles: int) -> None:
        lost = self.stalls[engine]
        lost[cause] = lost.get(cause, 0) + cycles

    def _share_banks(self, unit: _Unit, pc: int, now: int) -> None:
        """Add to the time of what runs, or of what starts, where both use a bank."""
        mine = self.beats[pc]
        for other in self.order:
            running = other.running
            if other is unit or running == NOTHING or self.end[running] <= now:
                continue
            theirs = self.beats[running]
            shared = mine.keys() & theirs.keys()
            if not shared:
                continue
            left, whole = self.end[running] - now, self.end[running] - self.start[running]
            lost = sum([min(theirs[bank] * left // whole, mine[bank]) for bank in shared])
            self._delay(unit if RANK[other.engine] < RANK[unit.engine] else other, lost)

    def _delay(self, unit: _Unit, lost: int) -> None:
        """What the engine executes takes so much longer."""
        if not lost:
            return
        pc = unit.running
        self.end[pc] += lost
        self.waited[pc] += lost
        self._record_stall(unit.engine, BANK, lost)
        self._at(self.end[pc], unit.engine)
        if self.bus[pc]:
            self.bus_free = self.end[pc]

    def _dispatch(self, now: int) -> None:
        """Send instructions on their way, one after another, while their queues have room."""
        if self.dispatched < now:
            self.dispatched = now
        engines = self.costs.engine
        self.full = None
        for pc in range(self.next, len(self.stream)):
            engine = engines[pc]
            if engine == CTL:
                self._control(pc, now)
                return
            unit = self.units[engine]
            if len(unit.queue) >= self.depth:
                self.full = unit
                return
            self.next = pc + 1
            self.dispatched += self.ctl.dispatch
            self.arrived[pc] = self.dispatched
            if not unit.queue:
                self._at(self.dispatched, engine)
            unit.queue.append(pc)

    def _control(self, pc: int, now: int) -> None:
        """Execute a control instruction, if it can be now; it holds dispatch for its cycles."""
        unit = self.units[Engine.CTL]
        if self.dispatched > now:
            self._at(self.dispatched, Engine.CTL)
            return
        if not unit.idle or any(self.semaphores[s] < 1 for s in self.waits[pc]):
            return
        if self.stream[pc].is_barrier and not all(u.idle for u in self.units):
            return
        for semaphore in self.waits[pc]:
            self.semaphores[semaphore] -= 1
        for held in self.held:
            self._at(now + 1, held.engine)
        self.next = pc + 1
        unit.running = pc
        self.start[pc], self.end[pc] = now, now + max(self.cycles[pc], self.ctl.dispatch)
        self.dispatched = self.end[pc]
        self._at(self.end[pc], Engine.CTL)

    def _stuck(self) -> None:
        """No event is left, and the program is not at its end.

        Raises:
            MachineTrap: always.
        """
        for unit in self.order:
            if unit.in_flight:
                pc, trap, why = unit.in_flight[0][1], Trap.SEM_OVERFLOW, "signals a semaphore that stays full"
            elif unit.queue:
                pc, trap, why = unit.queue[0], Trap.SEM_UNDERFLOW, "waits for a signal that never comes"
            else:
                continue
            raise trap_at(self.program, pc, TrapError(trap, "", why))
        raise trap_at(
            self.program, self.next, TrapError(Trap.SEM_UNDERFLOW, "", "waits for a signal that never comes")
        )
