"""The search for a schedule: cost formulas propose, the cycle model decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from compiler import driver
from compiler.ir.graph import Graph
from compiler.schedule.options import Techniques
from compiler.schedule.scheduler import Schedule
from isa.program import Note, Program
from isa.support.progress import untracked
from isa.support.records import Frozen
from isa.target import Target
from isa.timing.model import simulate

EFFORT: Final = 250
"""Instructions of all schedules together that are tried unasked: small networks get many, large ones one."""
MAX_SEARCH: Final = 64
Searching = Callable[[Iterable[Schedule], int], Iterable[Schedule]]
"""Passes on the schedules that are tried, of which there are so many at most."""


class Chosen(Frozen):
    """The best schedule of those that were tried, and its program."""

    schedule: Schedule
    program: Program
    tried: int


def choose(
    device: Graph,
    target: Target,
    allowed: Techniques,
    note: Note,
    search: int | None = None,
    searching: Searching = untracked,
    done: Callable[[str], None] = lambda _: None,
) -> Chosen:
    """The program of a graph of stage device with the fewest cycles; of equals the first.

    Args:
        device: the graph.
        target: the machine.
        allowed: what schedules may do.
        note: how the program came to be.
        search: how many schedules to try at most; None: as many as `EFFORT` allows.
        searching: shows how far the search is, if it was asked for.
        done: told when a stage has ended.

    Raises:
        FitError: the network does not fit the target.
        CompileError: an operation that no tile expresses.
    """
    best: Chosen | None = None
    fewest, spent, tried = 0, 0, 0
    proposed: Iterable[Schedule] = driver.schedules(device, target, allowed)
    for schedule in proposed if search is None else searching(islice(proposed, search), search):
        done("schedule")
        program = driver.generate(device, schedule, target, note)
        done("generate")
        tried += 1
        spent += len(program.instructions)
        enough = search is None and spent + len(program.instructions) > EFFORT
        if enough and best is None:
            return Chosen(schedule, program, tried)
        cycles = simulate(program).cycles
        done("measure")
        if best is None or cycles < fewest:
            best, fewest = Chosen(schedule, program, tried), cycles
        if enough:
            break
    assert best is not None, "there is a schedule, or an error says why not"
    return Chosen(best.schedule, best.program, tried)
