"""The cycle model of one device: see `isa.timing.model`."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Final

from isa.program import Program
from isa.spec import Engine, Transfer, Trap
from isa.support.records import Frozen, Struct, field
from isa.timing.costs import Costs
from isa.timing.links import Links, Offer
from isa.waiting import Blocked

PRIORITY: Final = (Engine.MX, Engine.VX, Engine.LD, Engine.ST, Engine.TX, Engine.RX)
"""Engines with queues, in the order in which they start, and win shared banks."""
RANK: Final = {engine: rank for rank, engine in enumerate(PRIORITY)}
NAMES: Final = tuple(engine.name for engine in Engine)
CTL: Final = int(Engine.CTL)
NOTHING: Final = -1
EVENT_BITS: Final = 3
EVENT_MASK: Final = (1 << EVENT_BITS) - 1
DEVICE_BITS: Final = 10
DEVICE_MASK: Final = (1 << DEVICE_BITS) - 1
TIME_SHIFT: Final = EVENT_BITS + DEVICE_BITS
BANK: Final = "bank"
"""The cause of cycles that a shared bank adds."""
BUS: Final = "bus"
PEER: Final = "peer"
"""The cause of cycles in which the other side of a transfer is not ready."""
LINK: Final = "link"
"""The cause of cycles in which both sides of a transfer are ready, and a link is not free."""
EMPTY: Final = "empty"
"""The cause of cycles in which an engine has no instruction: none has been dispatched, or none is left."""


class Timeline(Frozen):
    """When everything happened.

    Instruction k occupied its engine from `start[k]` to before `end[k]`, of which `waited[k]` cycles came
    from shared banks. `stalls` gives the cycles in which an engine did no work, by cause: the engine that
    it waited for a signal of, `bus`, `bank`, `peer`, `link`, `empty`.
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


class Unit(Struct):
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


def _rank(unit: Unit) -> int:
    return RANK[unit.engine]


def _ready_since(unit: Unit) -> int:
    return unit.ready_since


class Core:
    """The simulation of one device."""

    def __init__(self, program: Program, costs: Costs, device: int, events: list[int], links: Links) -> None:
        self.program, self.costs, self.device, self.links = program, costs, device, links
        self.cycles, self.latency, self.bus, self.beats = costs.cycles, costs.latency, costs.bus, costs.beats
        self.transfer = costs.transfer
        if program.devices > 1:
            self.latency = list(costs.latency)  # that of a transfer depends on its way
        self.runs = 0
        self.finished = 0
        """When the last run had come to its end."""
        self.stream, self.ctl = program.instructions, program.target.ctl
        self.waits = [i.waits for i in self.stream]
        self.signals = [i.signals for i in self.stream]
        count = len(self.stream)
        self.start, self.end, self.waited = [0] * count, [0] * count, [0] * count
        self.arrived = [0] * count
        self.units = [Unit(e) for e in Engine]
        self.order = [self.units[engine] for engine in PRIORITY]
        self.semaphores = [0] * self.ctl.sems
        self.signaller = [NOTHING] * self.ctl.sems
        self.waiting: list[Unit | None] = [None] * self.ctl.sems
        """Whose head waits for a semaphore."""
        self.woken: list[Unit] = []
        """Engines that a signal has come for."""
        self.ready: list[Unit] = []
        """Free engines whose heads have their signals."""
        self.held: list[Unit] = []
        """Engines whose signals have no room."""
        self.next = 0
        self.depth = self.ctl.queue_depth
        self.full: Unit | None = None
        """Whose queue has no room for the next instruction; None where it may be another reason."""
        self.dispatched = 0
        """When the next instruction can be dispatched."""
        self.bus_free = 0
        self.events = events
        self.stalls: dict[Engine, dict[str, int]] = {e: {} for e in PRIORITY}

    def timeline(self) -> Timeline:
        """What has happened in the last run."""
        for unit in self.order:
            if self.finished > unit.free_since:
                self._record_stall(unit.engine, EMPTY, self.finished - unit.free_since)
        return Timeline(self.finished, self.start, self.end, self.waited, self.stalls, self.costs)

    def has_ended(self) -> bool:
        """Whether a run has come to its end."""
        return not self.finished and self.next == len(self.stream) and all(u.idle for u in self.units)

    def restart(self, now: int) -> None:
        """Begin another run."""
        self.next = 0
        self.dispatch(now)

    def _at(self, when: int, engine: int) -> None:
        heapq.heappush(self.events, when << TIME_SHIFT | self.device << EVENT_BITS | engine)

    def cycle(self, now: int, units: list[Unit]) -> None:
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
            self.dispatch(now)

    def _retire(self, unit: Unit, now: int) -> None:
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

    def _find_ready(self, units: list[Unit], now: int) -> None:
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
                transfer = self.transfer[pc]
                if transfer is None:
                    self.ready.append(unit)
                else:
                    self.links.offer(self._offer(unit, pc, transfer, now))

    def _offer(self, unit: Unit, pc: int, transfer: Transfer, now: int) -> Offer:
        """A side of a transfer that can start when the other side and the way can."""

        def start(when: int, cycles: int, latency: int, peer_ready: int) -> None:
            self.latency[pc] = latency
            self._start(unit, when, cycles, peer_ready)

        def look_again(when: int) -> None:
            self._at(when, unit.engine)

        other = transfer.other(self.device, self.program.devices)
        return Offer(self.device, other, transfer, self.cycles[pc], now, start, look_again)

    def resume(self, now: int) -> None:
        """Go on after a transfer has started: what it waited for has been taken."""
        units, self.held = self.held, []
        for unit in units:
            self._retire(unit, now)
        self.cycle(now, units)

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

    def _start(self, unit: Unit, now: int, cycles: int = 0, peer_ready: int = 0) -> None:
        """Start the head of a queue; of a transfer with its cycles, and when the other side could."""
        pc = unit.queue.popleft()
        for semaphore in self.waits[pc]:
            self.semaphores[semaphore] -= 1
        self._account(unit, pc, now, peer_ready)
        unit.running, unit.ready_since = pc, NOTHING
        self.start[pc], self.end[pc] = now, now + (cycles or self.cycles[pc])
        if self.beats[pc]:
            self._share_banks(unit, pc, now)
        self._at(self.end[pc], unit.engine)
        if self.bus[pc]:
            self.bus_free = self.end[pc]

    def _account(self, unit: Unit, pc: int, now: int, peer_ready: int) -> None:
        """Why the engine was idle until now: nothing had come, a signal was missing, a way was held."""
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
        if self.transfer[pc] is not None and peer_ready > ready:
            self._record_stall(unit.engine, PEER, peer_ready - ready)
            ready = peer_ready
        if now > ready:
            self._record_stall(unit.engine, BUS if self.bus[pc] else LINK, now - ready)

    def _record_stall(self, engine: Engine, cause: str, cycles: int) -> None:
        lost = self.stalls[engine]
        lost[cause] = lost.get(cause, 0) + cycles

    def _share_banks(self, unit: Unit, pc: int, now: int) -> None:
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

    def _delay(self, unit: Unit, lost: int) -> None:
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

    def dispatch(self, now: int) -> None:
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

    def stuck_at(self) -> tuple[int, Trap, str]:
        """The first instruction that cannot go on, and why."""
        for unit in self.order:
            if unit.in_flight:
                return unit.in_flight[0][1], Trap.SEM_OVERFLOW, "signals a semaphore that stays full"
            if unit.queue:
                return unit.queue[0], Trap.SEM_UNDERFLOW, "waits for a signal that never comes"
        return self.next, Trap.SEM_UNDERFLOW, "waits for a signal that never comes"

    def blocked(self) -> Blocked | None:
        """The first transfer that waits for another device."""
        for unit in reversed(self.order):
            if unit.queue and self.transfer[unit.queue[0]] is not None:
                return Blocked(self.program, unit.queue[0])
        return None
