"""From the steps of a network to the streams of one binary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from compiler.codegen.emit import resolved_stream
from compiler.codegen.emit_step import emit_step, state_image
from compiler.errors import FitError
from compiler.schedule.options import ScheduleOptions
from compiler.schedule.order.allocate import AllocationError
from compiler.schedule.order.scratchpad import NoRoomError
from compiler.schedule.scheduler import Schedule, placed
from compiler.schedule.step.planner import StateBuffers, StepPlanner
from compiler.schedule.tile_graph import Memory
from compiler.schedule.tokens import insert_tokens
from compiler.train.step import Step
from isa.checker import check
from isa.executable import Executable
from isa.program import Note, Program
from isa.support.diagnostics import Diagnostic
from isa.support.records import replace
from isa.target import Target

FILLS: Final = (0.92, 0.8, 0.6, 0.4, 0.2)
"""Parts of the scratchpad that values may hold, in the order in which they are tried."""


def generate_streams(
    steps: Mapping[str, Step],
    values: Mapping[str, NDArray[Any]],
    target: Target,
    options: ScheduleOptions,
    note: Note,
) -> tuple[Executable, StateBuffers]:
    """The binary of steps, by the names of their streams, and where their state lies.

    The first step has all of the state; the others some of it.

    Raises:
        FitError: the target is too small.
        CompileError: an operation that no tile expresses.
    """
    first = next(iter(steps.values()))
    place = StateBuffers.of(first.states, target.mx.cols)
    state = state_image(place, values)
    begin = {Memory.WEIGHTS: 0, Memory.PARAMS: 0}
    programs: list[Program] = []
    for stream, step in steps.items():
        schedule = _schedule(step, place, target, options, begin)
        synchronized = insert_tokens(resolved_stream(schedule.order), target)
        programs.append(emit_step(step.graph, schedule, synchronized, state, target, note, stream))
        begin = {m: schedule.used[m] for m in begin}
    executable = Executable(tuple(_alike(programs)))
    for program in executable.programs:
        report = check(program)
        assert not report.violations, f"the compiler made an unsafe program: {report.violations[0]}"
    return executable, place


def _alike(programs: Sequence[Program]) -> list[Program]:
    """The same regions for all streams: the images of each lie behind those of the ones before."""
    weights, params = (
        b"".join(getattr(p, name)[len(getattr(before, name)) if before else 0 :] for before, p in zip([None, *programs], programs, strict=False))
        for name in ("weights", "params")
    )
    sizes = {name: max(getattr(p, name) for p in programs) for name in ("arena_bytes", "input_bytes", "output_bytes")}
    return [replace(p, weights=weights, params=params, **sizes) for p in programs]


def _schedule(
    step: Step, place: StateBuffers, target: Target, options: ScheduleOptions, begin: Mapping[Memory, int],
    again: float = 0.0,
) -> Schedule:
    """The first that fits.

    Raises:
        FitError: none does.
    """
    refused: FitError | None = None
    for fill in FILLS:
        try:
            plan = StepPlanner(step.graph, step.states, place, target, options, fill, again).run()
            return placed(plan, target, options, begin)
        except FitError as error:
            refused = error
        except (AllocationError, NoRoomError):
            continue
    if refused is not None:
        raise refused
    message = f"a step of '{step.graph.name}' does not fit into the memories of {target.name}"
    raise FitError(Diagnostic("fit.memory", message, remedy="choose a larger target"))
