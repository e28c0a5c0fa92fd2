"""The cycle model: when every instruction of a program executes, from its words alone.

A discrete-event simulation of all devices with the costs that the instructions declare (`cycles`,
`latency`, `accesses`) and the resources of the target: dispatch in order, a queue of finite depth for
every engine, semaphores, one DRAM bus, single-ported banks, links. Cycles are whole numbers; no data is
needed.

Within a cycle, until nothing changes: engines whose time is over become free; what has completed
retires, in order, and signals; free engines start the heads of their queues, MX first, then VX, LD, ST, TX,
RX. Then one instruction may be dispatched.

* An instruction occupies its engine for its declared cycles, or longer where one bank has more beats of
  it (`isa.timing.banks`). It has completed when that and its latency are over and all before it on
  its engine have. Its signals wait, and what completes after it with them, while a semaphore is full.
* A copy to or from DRAM holds the bus while it occupies its engine; the bus goes to what has been ready
  longest, to LD where two have been so equally long.
* Where two instructions run at the same time and share banks, the one of the lower priority (MX > VX > LD
  > ST > TX > RX) takes longer: for each bank by the smaller of the beats that the two have left there. What
  is left falls evenly over the time of an instruction, rounded down.
* Both sides of a transfer start together (`isa.timing.links`), occupy their engines for the cycles of the
  slower one, and complete when the last byte has come all the way.
* Control instructions run at dispatch and hold it for their cycles, and no less than any other does.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from typing import Final

from isa.faults import trap_at
from isa.program import Program
from isa.spec import Instruction, TrapError
from isa.support.records import replace
from isa.timing.core import DEVICE_MASK, EVENT_BITS, EVENT_MASK, TIME_SHIFT, Core, Timeline, Unit
from isa.timing.costs import Costs, costs_of
from isa.timing.links import Links
from isa.waiting import deadlock

STEADY: Final = 3
"""Runs that take the same one after another where nothing changes any more."""


def simulate(program: Program) -> Timeline:
    """Run the program of an only device in the cycle model.

    Raises:
        MachineTrap: an instruction is not legal, or no engine can go on.
    """
    return simulate_devices([program])[0]


def simulate_devices(programs: Sequence[Program]) -> list[Timeline]:
    """Run what devices execute together in the cycle model; the timeline of each.

    Raises:
        MachineTrap: an instruction is not legal, or nothing can go on.
    """
    machine = _Machine(programs, 1)
    machine.run()
    return [core.timeline() for core in machine.cores]


def cycles_per_run(programs: Sequence[Program]) -> int:
    """Cycles from the end of one run to that of the next, of many: a device begins anew when it has halted.

    The mean over as many runs as there are devices, after as many; less of them where three runs in a row
    have taken the same.

    Raises:
        MachineTrap: an instruction is not legal, or nothing can go on.
    """
    count = len(programs)
    machine = _Machine(programs, 2 * count)
    machine.run()
    ends = machine.ends
    if len(ends) < 2 * count:
        return ends[-1] - ends[-2]
    return (ends[2 * count - 1] - ends[count - 1]) // count


def cycles_alone(program: Program) -> int:
    """Cycles of a device whose transfers all can start at once.

    Raises:
        MachineTrap: an instruction is not legal, or nothing can go on.
    """
    machine = _Machine([program], 1, transferring=False)
    machine.run()
    return machine.cores[0].finished


class _Machine:
    """One simulation; an event is a cycle, a device, and the engine that something happens to.

    Args:
        programs: those of all devices.
        runs: one after another.
        transferring: whether transfers wait for one another; else each starts as any instruction does.
    """

    def __init__(self, programs: Sequence[Program], runs: int, *, transferring: bool = True) -> None:
        known: dict[tuple[Instruction, ...], Costs] = {}
        self.events: list[int] = []
        self.links = Links(programs[0].target.net, len(programs))
        self.runs = runs
        self.ends: list[int] = []
        """When each run had come to its end on all devices."""
        self.halted: list[int] = []
        """Devices that have come to the end of each run."""
        self.cores: list[Core] = []
        for number, program in enumerate(programs):
            costs = known.get(program.instructions) if len(programs) > 1 else None
            if costs is None:
                costs = costs_of(program)
                if not transferring:
                    costs = replace(costs, transfer=[None] * len(program.instructions))
                known[program.instructions] = costs
            self.cores.append(Core(program, costs, number, self.events, self.links))

    def run(self) -> None:
        """To the end of all runs, or of those that show how long one takes."""
        events, cores, links = self.events, self.cores, self.links
        for core in cores:
            core.dispatch(0)
        while events:
            now = events[0] >> TIME_SHIFT
            later = now + 1 << TIME_SHIFT
            touched: dict[int, list[Unit]] = {}
            while events and events[0] < later:
                event = heapq.heappop(events)
                device = event >> EVENT_BITS & DEVICE_MASK
                touched.setdefault(device, []).append(cores[device].units[event & EVENT_MASK])
            for device, units in touched.items():
                cores[device].cycle(now, units)
            if links.waiting:
                self._start_transfers(now)
            for device in touched:
                if cores[device].has_ended():
                    self._end(cores[device], now)
            if self._is_steady():
                return
        if not all(core.finished for core in cores):
            _stuck(cores)

    def _start_transfers(self, now: int) -> None:
        """Start what can be, also what that lets the devices go on to."""
        while started := self.links.start(now):
            for device in started:
                self.cores[device].resume(now)

    def _end(self, core: Core, now: int) -> None:
        """A device has come to the end of a run."""
        if len(self.halted) == core.runs:
            self.halted.append(0)
        self.halted[core.runs] += 1
        if self.halted[core.runs] == len(self.cores):
            self.ends.append(now)
        core.runs += 1
        if core.runs < self.runs:
            core.restart(now)
        else:
            core.finished = now

    def _is_steady(self) -> bool:
        """Whether three runs in a row have taken the same."""
        if self.runs == 1 or len(self.ends) < STEADY + 1:
            return False
        taken = [after - before for before, after in itertools.pairwise(self.ends[-STEADY - 1 :])]
        return len(set(taken)) == 1


def _stuck(cores: Sequence[Core]) -> None:
    """No event is left, and the programs are not at their end.

    Raises:
        MachineTrap: always.
    """
    left = [core for core in cores if not core.finished]
    waiting = {core.device: blocked for core in left if (blocked := core.blocked()) is not None}
    if waiting:
        raise deadlock(waiting)
    pc, trap, why = left[0].stuck_at()
    raise trap_at(left[0].program, pc, TrapError(trap, "", why))
