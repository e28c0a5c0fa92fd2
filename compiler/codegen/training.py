"""From the steps of a network to the streams of one binary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from compiler.codegen.emit import require_room, resolved_stream
from compiler.codegen.emit_step import RealInput, emit_step, state_image
from compiler.errors import FitError
from compiler.schedule.options import ScheduleOptions, StepOptions
from compiler.schedule.order.allocate import AllocationError
from compiler.schedule.order.scratchpad import NoRoomError
from compiler.schedule.scheduler import Schedule, placed
from compiler.schedule.step.planner import StepPlanner
from compiler.schedule.step.rows import StateBuffers
from compiler.schedule.tile_graph import Memory
from compiler.schedule.tokens import insert_tokens
from compiler.train.step import TrainingStep
from isa.checker import check
from isa.checker.legality import suspects
from isa.executable import Executable
from isa.program import Note, Program, text_section
from isa.support.diagnostics import Diagnostic
from isa.support.records import Frozen, replace
from isa.target import Target
from isa.timing.model import simulate
from isa.validate import instruction_faults

FILLS: Final = (0.92, 0.8, 0.6, 0.4, 0.2)
"""Parts of the scratchpad that values may hold, in the order in which they are tried."""
SEARCHED: Final[tuple[Mapping[str, float], ...]] = (
    {"again": 0.5},
    {"again": 0.75},
    {"update_share": 4},
    {"update_share": 6},
    {"array_for_sums": 1.0},
)
"""Choices that are tried one after another."""
MAIN: Final = "train"
EVALUATION: Final = "eval"
LARGE: Final = 8000
"""Instructions of a schedule beyond which no others are tried: each takes seconds."""


def generate_streams(
    steps: Mapping[str, TrainingStep],
    values: Mapping[str, NDArray[Any]],
    target: Target,
    options: ScheduleOptions,
    note: Note,
    real: Mapping[str, RealInput] | None = None,
    *,
    search: bool = True,
) -> tuple[Executable, StateBuffers]:
    """The binary of steps, by the names of their streams, and where their state lies.

    The first step has all of the state; the others some of it. With `search` the cycle model compares some
    schedules of the stream `train`.

    Raises:
        FitError: the target is too small.
        CompileError: an operation that no tile expresses.
    """
    first = next(iter(steps.values()))
    place = StateBuffers.of([(s.name, s.stored) for s in first.states], target.mx.cols)
    require_room({Memory.STATE: place.size}, target)
    state = state_image(place, values)
    begin = {Memory.WEIGHTS: 0, Memory.PARAMS: 0}
    programs: list[Program] = []
    for stream, step in steps.items():
        given = dict(real or {}) if stream == EVALUATION else {}
        planning = Planning(step, place, target, options, state, note, stream, given)
        tried = SEARCHED if search and stream == MAIN else ()
        program = _best(planning, begin, tried)
        programs.append(program)
        begin = {Memory.WEIGHTS: len(program.weights), Memory.PARAMS: len(program.params)}
    executable = Executable(tuple(_alike(programs)))
    for program in executable.programs:
        report = check(program)
        assert not report.violations, f"the compiler made an unsafe program: {report.violations[0]}"
    return executable, place


def _alike(programs: Sequence[Program]) -> list[Program]:
    """The same regions and names of data for all streams: each has its images behind those before."""
    weights = params = b""
    for program in programs:
        weights += program.weights[len(weights) :]
        params += program.params[len(params) :]
    texts = {text_section(p.stream) for p in programs}
    data = tuple(dict.fromkeys(s for p in programs for s in p.symbols if s.section not in texts))
    return [
        replace(
            p,
            weights=weights,
            params=params,
            arena_bytes=max(q.arena_bytes for q in programs),
            input_bytes=max(q.input_bytes for q in programs),
            output_bytes=max(q.output_bytes for q in programs),
            symbols=(*data, *(s for s in p.symbols if s.section in texts)),
        )
        for p in programs
    ]


class Planning(Frozen):
    """What a stream is made of."""

    step: TrainingStep
    place: StateBuffers
    target: Target
    options: ScheduleOptions
    state: bytes
    note: Note
    stream: str
    real: Mapping[str, RealInput]

    def program(self, choices: StepOptions, begin: Mapping[Memory, int]) -> Program:
        """The program with these choices; regions of the binary are free from `begin` on.

        Raises:
            FitError: the target is too small.
        """
        schedule = _schedule(self, choices, begin)
        require_room({**schedule.used, Memory.STATE: len(self.state)}, self.target)
        synchronized = insert_tokens(resolved_stream(schedule.order), self.target)
        made = emit_step(
            self.step.graph,
            schedule,
            synchronized,
            self.state,
            self.target,
            self.note,
            self.stream,
            self.real,
        )
        _require_legal(made)
        return made


def _require_legal(program: Program) -> None:
    """Refuse layers that are larger than the operands of an instruction can say.

    Raises:
        FitError: some are.
    """
    found: dict[str, Diagnostic] = {}
    for pc in suspects(program, program.accesses):
        instr, layer = program.instructions[pc], program.op_of(pc)
        name = "" if layer is None else layer.name
        for fault in instruction_faults(instr, program.target, program.region_sizes()):
            text = f"'{name}' is more than `{instr.mnemonic}` can do in training: {fault.message}"
            found.setdefault(name, Diagnostic("fit.operand", text, remedy="make the layer smaller"))
    if found:
        raise FitError(list(found.values()))


def _best(planning: Planning, begin: Mapping[Memory, int], tried: Sequence[Mapping[str, float]]) -> Program:
    """The program of the fewest cycles: choices are changed one after another, and kept where that helps."""
    choices = StepOptions()
    best = planning.program(choices, begin)
    fewest = simulate(best).cycles if tried else 0
    for change in tried:
        if len(best.instructions) > LARGE:
            break
        other = replace(choices, **change)
        program = planning.program(other, begin)
        cycles = simulate(program).cycles
        if cycles < fewest:
            best, fewest, choices = program, cycles, other
    return best


def _schedule(planning: Planning, choices: StepOptions, begin: Mapping[Memory, int]) -> Schedule:
    """The first that fits.

    Raises:
        FitError: none does.
    """
    step, target, options = planning.step, planning.target, planning.options
    refused: FitError | None = None
    for fill in FILLS:
        try:
            planner = StepPlanner(step.graph, step.states, planning.place, target, options, fill, choices)
            return placed(planner.run(), target, options, begin)
        except FitError as error:
            refused = error
        except (AllocationError, NoRoomError):
            continue
    if refused is not None:
        raise refused
    message = f"a step of '{step.graph.name}' does not fit into the memories of {target.name}"
    raise FitError(Diagnostic("fit.memory", message, remedy="choose a larger target"))
