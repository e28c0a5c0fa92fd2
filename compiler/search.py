"""The search for a schedule: cost formulas propose, the cycle model decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from compiler import driver
from compiler.ir.graph import Graph
from compiler.schedule.options import ScheduleOptions
from compiler.schedule.scheduler import Schedule
from isa.faults import MachineTrap
from isa.program import Note, Program
from isa.support.progress import untracked
from isa.support.records import Frozen
from isa.target import Target
from isa.timing.model import cycles_alone

EFFORT: Final = 250
"""Instructions of all schedules together that are tried unasked: small networks get many, large ones one."""
MAX_SEARCH: Final = 64
Searching = Callable[[Iterable[Schedule], int], Iterable[Schedule]]
"""Passes on the schedules that are tried, of which there are so many at most."""


class Choice(Frozen):
    """The best schedule of those that were tried, and its program."""

    schedule: Schedule
    program: Program
    tried: int


def choose(
    device: Graph,
    target: Target,
    options: ScheduleOptions,
    note: Note,
    timed: driver.StageTimes | None = None,
    *,
    search: int | None = None,
    searching: Searching = untracked,
) -> Choice:
    """The program of a graph of stage device with the fewest cycles; of equals the first.

    Args:
        device: the graph.
        target: the machine.
        options: what schedules may do.
        note: how the program came to be.
        timed: takes the times of the stages.
        search: how many schedules to try at most; None: as many as `EFFORT` allows.
        searching: shows how far the search is, if it was asked for.

    Raises:
        FitError: the network does not fit the target.
        CompileError: an operation that no tile expresses.
    """
    timed = timed or driver.StageTimes()
    proposed: Iterable[Schedule] = driver.schedules(device, target, options)
    if search is not None:
        proposed = searching(islice(proposed, search), search)
    best: Choice | None = None
    fewest, spent, tried = 0, 0, 0
    for schedule in _timed(iter(proposed), timed):
        program = timed("generate", driver.generate, device, schedule, target, note)
        tried += 1
        spent += len(program.instructions)
        enough = search == 1 or (search is None and spent + len(program.instructions) > EFFORT)
        if enough and best is None:
            return Choice(schedule, program, tried)
        cycles = timed("measure", _cycles, program)
        if best is None or cycles < fewest:
            best, fewest = Choice(schedule, program, tried), cycles
        if enough:
            break
    assert best is not None, "there is a schedule, or an error says why not"
    return Choice(best.schedule, best.program, tried)


def _cycles(program: Program) -> int:
    """What the cycle model says; a trap of our own program is a mistake of ours, not of the user."""
    try:
        return cycles_alone(program)
    except MachineTrap as trap:
        raise AssertionError(f"the compiler made a program that traps: {trap}") from trap


def _timed(proposed: Iterator[Schedule], timed: driver.StageTimes) -> Iterator[Schedule]:
    """The schedules, with the time that each takes."""
    while (schedule := timed("schedule", next, proposed, None)) is not None:
        yield schedule
